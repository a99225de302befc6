package fleet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidemark-dev/tidemark/platform/kafka"
)

func TestADataDirectoryKeepsItsPartitionCount(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		dir    func(t *testing.T, dir string)
		opts   Options
		want   int32
		errHas string
	}{
		{name: "a new one", want: DefaultPartitions},
		{name: "a new one, as asked", opts: Options{Partitions: 3}, want: 3},
		{name: "servers elsewhere", opts: Options{BrokerAddr: "kafka:9092"}, want: kafka.DefaultPartitions},
		{name: "made before the count was kept", dir: func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "broker"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, want: kafka.DefaultPartitions},
		{name: "made with another count", dir: kept("6\n"), want: 6},
		{name: "asked for another count", dir: kept("6\n"), opts: Options{Partitions: 4}, errHas: "was made with 6 partitions, not 4"},
		{name: "damaged", dir: kept("six"), errHas: "no partition count"},
		{name: "emptied", dir: kept("0"), errHas: "no partition count"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.opts.Dir = t.TempDir()
			if test.dir != nil {
				test.dir(t, test.opts.Dir)
			}
			for range 2 { // the second time it reads what the first kept
				f := &Fleet{opts: test.opts}
				err := f.fixPartitions()
				if test.errHas != "" {
					if err == nil || !strings.Contains(err.Error(), test.errHas) {
						t.Fatalf("fixPartitions() = %v, want %q in it", err, test.errHas)
					}
					return
				}
				if err != nil || f.opts.Partitions != test.want {
					t.Fatalf("fixPartitions() = %v with %d partitions, want %d", err, f.opts.Partitions, test.want)
				}
			}
		})
	}
}

func kept(text string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.WriteFile(filepath.Join(dir, "partitions"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

package fleet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tidemark-dev/tidemark/platform/kafka"
)

// DefaultPartitions is the partition count of a new data directory. A fleet in
// one process has few cores for its partitions, and facts that share one share
// transactions as well.
const DefaultPartitions = 2

// fixPartitions decides the partition count, which stays for ever: a data
// directory remembers it.
func (f *Fleet) fixPartitions() error {
	if err := os.MkdirAll(f.opts.Dir, 0o755); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	name := filepath.Join(f.opts.Dir, "partitions")
	kept, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return f.keepPartitions(name)
	}
	if err != nil {
		return fmt.Errorf("read the partition count: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(kept)), 10, 32)
	if err != nil || n < 1 {
		return fmt.Errorf("%s holds %q, which is no partition count", name, kept)
	}
	if f.opts.Partitions != 0 && f.opts.Partitions != int32(n) {
		return fmt.Errorf("the data directory %s was made with %d partitions, not %d: the count is fixed for ever", f.opts.Dir, n, f.opts.Partitions)
	}
	f.opts.Partitions = int32(n)
	return nil
}

func (f *Fleet) keepPartitions(name string) error {
	if f.opts.Partitions == 0 {
		f.opts.Partitions = DefaultPartitions
		// Before the count was kept in a file, and elsewhere, it is the platform's default.
		if _, err := os.Stat(filepath.Join(f.opts.Dir, "broker")); err == nil || f.opts.BrokerAddr != "" {
			f.opts.Partitions = kafka.DefaultPartitions
		}
	}
	if err := os.WriteFile(name, []byte(strconv.Itoa(int(f.opts.Partitions))+"\n"), 0o644); err != nil {
		return fmt.Errorf("keep the partition count: %w", err)
	}
	return nil
}

package consumer

import (
	"testing"
	"time"
)

func TestRest(t *testing.T) {
	t.Parallel()
	const full = 1000
	yes, no := func() bool { return true }, func() bool { return false }
	for _, c := range []struct {
		name    string
		hurry   func() bool
		records int
		took    time.Duration
		want    time.Duration
	}{
		{"as long as the batch took", no, 3, 4 * time.Millisecond, 4 * time.Millisecond},
		{"never for long", no, 3, time.Second, gather},
		{"nobody can hurry", nil, 3, 4 * time.Millisecond, 4 * time.Millisecond},
		{"not while somebody waits", yes, 3, 4 * time.Millisecond, 0},
		{"not while there is more than a batch", no, full, 4 * time.Millisecond, 0},
	} {
		cfg := Config{MaxBatch: full, Hurry: c.hurry}
		if got := cfg.rest(c.records, c.took); got != c.want {
			t.Errorf("%s: rest(%d, %v) = %v, want %v", c.name, c.records, c.took, got, c.want)
		}
	}
}

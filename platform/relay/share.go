package relay

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"
)

// survey is what a relay sees of the others: how many partitions each relay
// that is alive holds, and how many partitions nobody does; and of our own partitions,
// what the totals in the database add up to.
type survey struct {
	others map[string]int
	free   int
	told   int64 // see owner.told
}

// share is how many of the partitions are a relay's, when it holds so many
// now. Nobody moves what need not move: where the partitions cannot be divided
// evenly, those who hold most keep one more. All relays compute the same from
// the same rows, so what one gives up another takes.
func (s survey) share(holder string, held, partitions int) int {
	members := len(s.others) + 1
	rank := 0
	for other, n := range s.others {
		if cmp.Or(cmp.Compare(n, held), cmp.Compare(holder, other)) > 0 {
			rank++
		}
	}
	share := partitions / members
	if rank < partitions%members {
		share++
	}
	return share
}

// settle moves towards the relay's fair share of the partitions: it gives back
// what is too much, at this barrier, where nothing is in flight; or it takes
// what nobody holds.
func (o *owner) settle(ctx context.Context, s *survey) (took bool, err error) {
	if s == nil {
		return false, nil
	}
	share := s.share(o.leases.holder, len(o.shards), int(o.cfg.Kafka.PartitionCount()))
	partitions, terms := o.held()
	switch {
	case len(partitions) > share:
		if err := o.leases.release(ctx, partitions[share:], terms[share:]); err != nil {
			return false, err
		}
		for _, p := range partitions[share:] {
			delete(o.shards, p)
		}
		o.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "relay hands partitions over", slog.String("source", o.cfg.Source),
			slog.Any("partitions", partitions[share:]))
	case len(partitions) < share && s.free > 0:
		start := time.Now()
		taken, err := o.leases.acquire(ctx, partitions, share-len(partitions))
		if err != nil || len(taken) == 0 {
			return false, err
		}
		if len(o.shards) == 0 {
			o.trusted = o.leases.trustedFrom(start)
		}
		if err := o.takeOver(ctx, taken); err != nil {
			return false, fmt.Errorf("take over: %w", err)
		}
		return true, nil
	}
	return false, nil
}

// keep drops the partitions that are no longer ours.
func (o *owner) keep(ctx context.Context, ours func(partition int32) bool) {
	var lost []int32
	for p := range o.shards {
		if !ours(p) {
			lost = append(lost, p)
			delete(o.shards, p)
		}
	}
	if len(lost) > 0 {
		o.surveyed = time.Time{} // look at once who holds what now
		o.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "relay lost partitions", slog.String("source", o.cfg.Source), slog.Any("partitions", lost))
	}
}

package consumer_test

import (
	"slices"
	"sync/atomic"
	"testing"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// A member with a name that is restarted gets the partition numbers back that it
// had, although the group was never told that it left, and the other member
// reads on as if nothing had happened. Without names every restart moves all of
// them, twice.
func TestARestartedMemberGetsBackWhatItHad(t *testing.T) {
	// Only a machine that stands still for ten seconds, in which the group gives the
	// member up, makes this happen more than once.
	for range 3 {
		if moved := restartNamed(t); moved == 0 {
			return
		} else {
			t.Logf("the other member's partition numbers changed %d times", moved)
		}
	}
	t.Error("a member with a name was restarted, and each time the others got other partition numbers")
}

// restartNamed returns how often the other member's partition numbers changed.
func restartNamed(t *testing.T) int64 {
	cfg := kafka.Config{Brokers: testkit.Broker(t).Addr()}
	s := newStore()
	put := newProducer(t, cfg)
	put.put(64)
	var changes atomic.Int64
	named := func(name string) func(*consumer.Config) {
		return func(c *consumer.Config) { c.InstanceID = name }
	}
	other := start(t, cfg, s.member(), named("a"), func(c *consumer.Config) { c.Reassigned = func() { changes.Add(1) } })
	defer other.stop()
	await(t, other, "the first member has everything", func(st consumer.Status) bool { return len(st.Assigned) == 8 })
	first := start(t, cfg, s.member(), named("b"))
	defer first.stop()
	await(t, other, "both share", func(st consumer.Status) bool { return len(st.Assigned) == 4 && len(first.Status().Assigned) == 4 })
	had, before := first.Status().Assigned, changes.Load()
	first.stop()
	put.put(64)
	again := start(t, cfg, s.member(), named("b"))
	defer again.stop()
	await(t, again, "it has partition numbers again", func(st consumer.Status) bool { return len(st.Assigned) > 0 })
	if got := again.Status().Assigned; changes.Load() == before && !slices.Equal(got, had) {
		t.Errorf("it has %v, and had %v before", got, had)
	}
	put.put(64)
	s.until(t, put.sent)
	return changes.Load() - before
}

package conformance

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/projection"
)

// bulkMemory is so little that a few orders fill it.
const bulkMemory = 6 << 10

// bulk builds a generation in bulk and compares it with one that was built as
// facts came, table by table.
func (k *kit[S]) bulk(t *testing.T) error {
	ordinary := k.open(t)
	defer ordinary.close()
	var told []story
	for n := range 20 {
		told = append(told, k.draw(n))
	}
	facts, batches, err := k.mixed(told)
	if err != nil {
		return err
	}
	if err := ordinary.deliver(ordinary.first, batches...); err != nil {
		return err
	}
	var scans atomic.Int64
	built := k.unclaimed(t, func(c *projection.Config) {
		c.Generations.BulkAbove, c.Generations.BulkMemory = 1, bulkMemory
		c.Bounds = func(context.Context) (map[string]map[int32]consumer.Bounds, error) { return ordinary.bounds(), nil }
		c.Scan = func(_ context.Context, number int32, logs map[string]consumer.Bounds, take func(map[string]string, []consumer.Record) error) error {
			scans.Add(1)
			return ordinary.scan(number, logs, take)
		}
	})
	defer built.close()
	if err := built.first.Bulk(built.ctx); err != nil {
		return err
	}
	if scans.Load() <= partitions {
		return fmt.Errorf("%d passes over %d partitions: the histories are too short to prove anything", scans.Load(), partitions)
	}
	t.Logf("%d passes, %d facts", scans.Load(), len(facts))
	// The ordinary way goes on behind what was copied, or with all of it if the
	// schema has something that bulk leaves alone.
	for number, records := range ordinary.log {
		if _, err := built.first.Claim(built.ctx, number, built.ids); err != nil {
			return err
		}
		if err := built.first.Handle(built.ctx, number, records); err != nil {
			return err
		}
	}
	if err := built.agree("rows copied in bulk", facts); err != nil {
		return err
	}
	want, err := ordinary.everything()
	if err != nil {
		return err
	}
	got, err := built.everything()
	if err != nil {
		return err
	}
	for _, table := range []string{"state", "member"} { // positions have counted differently; sums may have rows of zeros
		if diff := cmp.Diff(want[table], got[table]); diff != "" {
			return fmt.Errorf("table %s (-ordinary +bulk):\n%s", table, diff)
		}
	}
	return nil
}

// bounds are where the logs that were delivered begin and end.
func (d *database[S]) bounds() map[string]map[int32]consumer.Bounds {
	all := map[string]map[int32]consumer.Bounds{}
	for _, source := range d.k.View.Sources {
		topic := kafka.EventsTopic(source)
		all[topic] = map[int32]consumer.Bounds{}
		for number := range int32(partitions) {
			all[topic][number] = consumer.Bounds{End: d.next[fmt.Sprintf("%s/%d", topic, number)]}
		}
	}
	return all
}

// scan plays consumer.Scan over what was delivered.
func (d *database[S]) scan(number int32, logs map[string]consumer.Bounds, take func(map[string]string, []consumer.Record) error) error {
	for _, r := range d.log[number] {
		if r.Offset < logs[r.Topic].Start || r.Offset >= logs[r.Topic].End {
			continue
		}
		if err := take(d.ids, []consumer.Record{r}); err != nil {
			return err
		}
	}
	return nil
}

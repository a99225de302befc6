package conformance

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/projection"
)

// stored compares the real kernel with the reference: as facts come, from
// offset 0 once more, and in rebuilds in which they come otherwise.
func (k *kit[S]) stored(t *testing.T) error {
	const stories, rebuilds = 25, 3
	for way := range rebuilds {
		var told []story
		for n := range stories {
			told = append(told, k.drawn(n, n+stories*way))
		}
		facts, batches, err := k.mixed(told)
		if err != nil {
			return err
		}
		if way > 0 { // a rebuild takes more at once
			var large [][]sent
			for some := range slices.Chunk(batches, 20*way) {
				large = append(large, slices.Concat(some...))
			}
			batches = large
		}
		if err := k.rebuilt(t, batches, func(d *database[S]) error {
			if err := d.agree(fmt.Sprintf("stored rows, rebuild %d", way), facts); err != nil || way > 0 {
				return err
			}
			if err := d.replay(); err != nil {
				return err
			}
			return d.agree("stored rows after a replay from offset 0", facts)
		}); err != nil {
			return err
		}
	}
	return nil
}

// rebuilt copies batches to an empty database and looks at it.
func (k *kit[S]) rebuilt(t *testing.T, batches [][]sent, look func(*database[S]) error) error {
	t.Helper()
	d := k.open(t)
	defer d.close()
	if err := d.deliver(d.first, batches...); err != nil {
		return err
	}
	return look(d)
}

// replay delivers everything again, as to a consumer group that lost its place.
func (d *database[S]) replay() error {
	if _, err := d.pool.Exec(d.ctx, "UPDATE position SET offsets = '{}'"); err != nil {
		return err
	}
	for number, records := range d.log {
		if _, err := d.first.Claim(d.ctx, number, d.ids); err != nil {
			return err
		}
		for some := range slices.Chunk(records, 100) {
			if err := d.first.Handle(d.ctx, number, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// armed makes writes to a table fail, or the commit, where it is told to.
const armed = `
CREATE TABLE public.crash (place text NOT NULL, dies boolean NOT NULL);
CREATE FUNCTION public.crash() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM public.crash WHERE place = TG_ARGV[0] AND dies) THEN
		PERFORM pg_terminate_backend(pg_backend_pid());
	ELSIF EXISTS (SELECT FROM public.crash WHERE place = TG_ARGV[0]) THEN
		RAISE EXCEPTION 'crash at %', TG_ARGV[0] USING ERRCODE = '58030';
	END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER crash_at_commit AFTER UPDATE ON position DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION public.crash('commit')`

const (
	armPlace = `WITH gone AS (DELETE FROM public.crash) INSERT INTO public.crash VALUES ('commit', false), ($1, $2)`
	disarm   = `DELETE FROM public.crash`
)

// crash fails batches behind each of their writes.
func (k *kit[S]) crash(t *testing.T) error {
	d := k.open(t)
	defer d.close()
	statements := armed
	for _, table := range d.tables {
		statements += fmt.Sprintf(`; CREATE TRIGGER crash AFTER INSERT OR UPDATE OR DELETE ON %s
			FOR EACH STATEMENT EXECUTE FUNCTION public.crash('%s')`, pgx.Identifier{table}.Sanitize(), table)
	}
	if _, err := d.pool.Exec(d.ctx, statements); err != nil {
		return err
	}
	var told []story
	for n := range 12 {
		told = append(told, k.draw(n))
	}
	facts, batches, err := k.mixed(told)
	if err != nil {
		return err
	}
	const tried = 12 // batches that fail; the others pass between them
	bites, every := map[string]int{}, max(1, len(batches)/tried)
	for n, batch := range batches {
		for number, records := range d.put(batch) {
			if n%every == 0 {
				if err := d.crashes(number, records, n/every%2 == 0, bites); err != nil {
					return err
				}
			}
			for range 2 { // the answer to its commit is lost, and it comes again
				if err := d.first.Handle(d.ctx, number, records); err != nil {
					return fmt.Errorf("a batch that failed does not pass when it comes again: %w", err)
				}
			}
		}
	}
	t.Logf("failed writes: %v", bites)
	for _, place := range []string{"commit", "position", "state"} {
		if bites[place] == 0 {
			return fmt.Errorf("no batch of the histories failed at %s: they are too short to prove anything", place)
		}
	}
	return d.agree("rows after batches that failed and came again", facts)
}

// crashes has one batch fail behind every write that it makes, and at its
// commit where it does not write.
func (d *database[S]) crashes(number int32, records []consumer.Record, dies bool, bites map[string]int) error {
	before, err := d.everything()
	if err != nil {
		return err
	}
	for _, place := range d.tables {
		if _, err := d.pool.Exec(d.ctx, armPlace, place, dies); err != nil {
			return err
		}
		failed := d.first.Handle(d.ctx, number, records)
		switch {
		case failed == nil: // nothing in it is new
			_, err := d.pool.Exec(d.ctx, disarm)
			return err
		case strings.Contains(failed.Error(), "crash at commit"):
			bites["commit"]++
		default:
			bites[place]++
		}
		after, err := d.everything()
		if err != nil {
			return err
		}
		if diff := cmp.Diff(before, after); diff != "" {
			return fmt.Errorf("a batch that failed at %s left something (-before +after):\n%s", place, diff)
		}
	}
	_, err = d.pool.Exec(d.ctx, disarm)
	return err
}

// rebalance has two replicas take partitions from each other.
func (k *kit[S]) rebalance(t *testing.T) error {
	d := k.open(t)
	defer d.close()
	replicas := []*projection.Projection[S]{d.first, d.replica(t)}
	var told []story
	for n := range 15 {
		told = append(told, k.draw(n))
	}
	facts, batches, err := k.mixed(told)
	if err != nil {
		return err
	}
	choice := rand.New(rand.NewPCG(k.seed, 2))
	owner, moves := map[int32]int{}, 0
	for _, batch := range batches {
		for number, records := range d.put(batch) {
			if choice.IntN(3) == 0 {
				former := replicas[owner[number]]
				owner[number] = 1 - owner[number]
				offsets, err := replicas[owner[number]].Claim(d.ctx, number, d.ids)
				if err != nil {
					return err
				}
				for topic, offset := range offsets {
					if next := d.next[fmt.Sprintf("%s/%d", topic, number)]; topic != kafka.TopicControl && offset > next {
						return fmt.Errorf("a new owner begins at offset %d of %s, behind which nothing is before %d", offset, topic, next)
					}
				}
				if err := former.Handle(d.ctx, number, records); !errors.Is(err, consumer.ErrFenced) {
					return fmt.Errorf("the former owner of partition %d handled a batch: %v", number, err)
				}
				moves++
			}
			if err := replicas[owner[number]].Handle(d.ctx, number, records); err != nil {
				return err
			}
		}
	}
	if moves == 0 {
		return errors.New("no partition moved: the histories are too short to prove anything")
	}
	t.Logf("%d moves of a partition, %d facts", moves, len(facts))
	return d.agree("rows after rebalances", facts)
}

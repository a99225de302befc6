package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// position is a locked position row.
type position struct {
	revision, term int64
	offsets        map[string]int64
	books          completeness.Books
}

const lockPosition = `SELECT revision, term, offsets, books FROM position WHERE partition = $1 FOR UPDATE`

func (p *Projection[S]) scanPosition(r pgx.Row) (position, error) {
	var locked position
	var offsets, text []byte
	if err := r.Scan(&locked.revision, &locked.term, &offsets, &text); err != nil {
		return locked, fmt.Errorf("lock the position: %w", err)
	}
	if err := json.Unmarshal(offsets, &locked.offsets); err != nil {
		return locked, fmt.Errorf("read the position: %w", err)
	}
	if err := json.Unmarshal(text, &locked.books); err != nil {
		return locked, fmt.Errorf("read what was counted: %w", err)
	}
	if locked.books.Revision != locked.revision && len(locked.offsets) > 0 {
		for _, source := range p.view.Sources {
			locked.books.Of(source).Require(completeness.TaskRecount, "facts were copied here by a version that did not count them")
		}
	}
	return locked, nil
}

// seal returns the books as they are stored with the next revision.
func (p *position) seal() ([]byte, error) {
	p.books.Revision = p.revision + 1
	text, err := json.Marshal(p.books)
	if err != nil {
		return nil, fmt.Errorf("encode what was counted: %w", err)
	}
	return text, nil
}

// Claim makes this process the owner of a partition number. It implements
// [consumer.Handler].
func (p *Projection[S]) Claim(ctx context.Context, number int32, ids map[string]string) (map[string]int64, error) {
	pt := &partition[S]{number: number, ids: ids, orders: map[string]*fold.Order[S]{}, marks: completeness.NewMarks(), surplus: map[string]surplus{}}
	bounds, err := p.boundsOnce(ctx)
	if err != nil {
		return nil, fmt.Errorf("claim partition %d of %s: %w", number, p.own, err)
	}
	var offsets map[string]int64
	var changes []string
	err = postgres.InTx(ctx, p.pool, func(tx pgx.Tx) error {
		locked, err := p.scanPosition(tx.QueryRow(ctx, lockPosition, number))
		if err != nil {
			return err
		}
		var stored map[string]string
		var text []byte
		if err := tx.QueryRow(ctx, "SELECT topic_ids FROM position WHERE partition = $1", number).Scan(&text); err != nil {
			return fmt.Errorf("read the topic ids: %w", err)
		}
		if err := json.Unmarshal(text, &stored); err != nil {
			return fmt.Errorf("read the topic ids: %w", err)
		}
		changes = p.follow(number, &locked, stored, ids, bounds)
		maps.Copy(stored, ids)
		if text, err = json.Marshal(stored); err != nil {
			return err
		}
		offsetsText, err := json.Marshal(locked.offsets)
		if err != nil {
			return err
		}
		offsets, pt.revision, pt.term = locked.offsets, locked.revision+1, locked.term+1
		sealed, err := locked.seal()
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE position SET revision = $2, term = $3, topic_ids = $4, books = $5, offsets = $6 WHERE partition = $1",
			number, pt.revision, pt.term, text, sealed, offsetsText)
		if err != nil {
			return fmt.Errorf("write the claim: %w", err)
		}
		rows, err := tx.Query(ctx, "SELECT source, epoch, term, number, as_of, blocked_count FROM source_mark WHERE partition = $1", number)
		if err != nil {
			return err
		}
		var source string
		var m completeness.SourceMark
		_, err = pgx.ForEachRow(rows, []any{&source, &m.Epoch, &m.Term, &m.Number, &m.AsOf, &m.Blocked}, func() error {
			taken := m
			pt.marks.Taken[source] = &taken
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claim partition %d of %s: %w", number, p.own, err)
	}
	for _, change := range changes {
		p.cfg.Log.ErrorContext(ctx, "a log is not the one that was read; the copy is compared with the owner", "generation", p.own.String(),
			"partition", number, "change", change)
	}
	p.mu.Lock()
	p.partitions[number] = pt
	p.mu.Unlock()
	poke(p.work)
	return offsets, nil
}

// follow moves a position to where its logs can be read now, and doubts what
// is not the log it was. Nothing is skipped silently: what a log no longer has
// comes from its owner.
func (p *Projection[S]) follow(number int32, at *position, stored, ids map[string]string, bounds map[string]map[int32]consumer.Bounds) (changes []string) {
	if at.offsets == nil {
		at.offsets = map[string]int64{}
	}
	for topic, id := range ids {
		what := ""
		log, known := bounds[topic][number]
		if before, ok := stored[topic]; ok && before != id {
			what = "topic " + topic + " was made again"
			at.offsets[topic] = 0
		}
		switch next := at.offsets[topic]; {
		case !known:
		case next < log.Start:
			what = fmt.Sprintf("topic %s begins at offset %d and was read up to %d", topic, log.Start, next)
			at.offsets[topic] = log.Start
		case next > log.End:
			what = fmt.Sprintf("topic %s ends at offset %d and was read up to %d", topic, log.End, next)
			at.offsets[topic] = log.End
		}
		if what == "" || topic == p.cfg.ControlTopic {
			continue // what the control topic says is said again and again
		}
		changes = append(changes, what)
		for source, of := range p.topics {
			if of == topic {
				at.books.Of(source).Require(completeness.TaskHeads, what)
			}
		}
	}
	return changes
}

package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// position is a locked position row.
type position struct {
	revision, term int64
	offsets        map[string]int64
	books          books
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
			locked.books.of(source).doubt(taskRecount, "facts were copied here by a version that did not count them")
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

// errTopicChanged says that the log a position belongs to is gone.
var errTopicChanged = errors.New("the topic is not the one the position belongs to: it was deleted and made again")

// Claim makes this process the owner of a partition number. It implements
// [consumer.Handler].
func (p *Projection[S]) Claim(ctx context.Context, number int32, ids map[string]string) (map[string]int64, error) {
	pt := &partition[S]{number: number, ids: ids, orders: map[string]*order[S]{}, marks: newMarks(), surplus: map[string]surplus{}}
	var offsets map[string]int64
	err := postgres.InTx(ctx, p.pool, func(tx pgx.Tx) error {
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
		for topic, id := range ids {
			if known, ok := stored[topic]; ok && known != id {
				return fmt.Errorf("topic %s: %w", topic, errTopicChanged)
			}
		}
		maps.Copy(stored, ids)
		if text, err = json.Marshal(stored); err != nil {
			return err
		}
		offsets, pt.revision, pt.term = locked.offsets, locked.revision+1, locked.term+1
		sealed, err := locked.seal()
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE position SET revision = $2, term = $3, topic_ids = $4, books = $5 WHERE partition = $1",
			number, pt.revision, pt.term, text, sealed)
		if err != nil {
			return fmt.Errorf("write the claim: %w", err)
		}
		rows, err := tx.Query(ctx, "SELECT source, epoch, term, number, as_of, blocked_count FROM source_mark WHERE partition = $1", number)
		if err != nil {
			return err
		}
		var source string
		var m sourceMark
		_, err = pgx.ForEachRow(rows, []any{&source, &m.epoch, &m.term, &m.number, &m.asOf, &m.blocked}, func() error {
			taken := m
			pt.marks.taken[source] = &taken
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claim partition %d of %s: %w", number, p.own, err)
	}
	p.mu.Lock()
	p.partitions[number] = pt
	p.mu.Unlock()
	return offsets, nil
}

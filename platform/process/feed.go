package process

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
)

// Feed brings facts from Kafka to a manager: it is the [consumer.Handler] whose
// transaction holds the inbox, the instances, the commands and the position.
type Feed[S any] struct {
	manager *Manager[S]
	codec   *avro.Codec

	mu    sync.Mutex
	terms map[int32]int64
}

// NewFeed returns the handler that feeds the manager.
func NewFeed[S any](m *Manager[S], codec *avro.Codec) *Feed[S] {
	return &Feed[S]{manager: m, codec: codec, terms: map[int32]int64{}}
}

// place is where one topic is read on.
type place struct {
	ID   string `json:"id"`
	Next int64  `json:"next"`
}

const (
	claimPosition = `
		INSERT INTO process_position AS p (process, partition, term) VALUES ($1, $2, 1)
		ON CONFLICT (process, partition) DO UPDATE SET term = p.term + 1
		RETURNING term, offsets`
	lockPosition = `SELECT term, offsets FROM process_position WHERE process = $1 AND partition = $2 FOR UPDATE`
	movePosition = `UPDATE process_position SET offsets = $3 WHERE process = $1 AND partition = $2`
)

// Claim takes a partition number over: writes of the former owner fail from now on.
func (f *Feed[S]) Claim(ctx context.Context, partition int32, ids map[string]string) (map[string]int64, error) {
	name := f.manager.newest.Name
	next := map[string]int64{}
	var term int64
	err := f.manager.inBatches(ctx, func(tx batchTx) error {
		clear(next)
		places := map[string]place{}
		read, write := &pgx.Batch{}, &pgx.Batch{}
		read.Queue(claimPosition, name, partition).QueryRow(func(row pgx.Row) error { return scanPosition(row, &term, &places) })
		if err := tx.Send(ctx, read); err != nil {
			return fmt.Errorf("claim process position: %w", err)
		}
		for topic, at := range places {
			next[topic] = at.Next
		}
		for topic, id := range ids {
			at := places[topic]
			if id != "" && at.ID != "" && id != at.ID {
				return fmt.Errorf("topic %s is another one than the process %s has read (id %s, not %s)", topic, name, id, at.ID)
			}
			if id != "" {
				at.ID = id
			}
			places[topic] = at
		}
		text, err := json.Marshal(places)
		if err != nil {
			return fmt.Errorf("note the topics' ids: %w", err)
		}
		write.Queue(movePosition, name, partition, string(text))
		return tx.Commit(ctx, write)
	})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.terms[partition] = term
	f.mu.Unlock()
	return next, nil
}

func scanPosition(row pgx.Row, term *int64, places *map[string]place) error {
	var text []byte
	if err := row.Scan(term, &text); err != nil {
		return err
	}
	return json.Unmarshal(text, places)
}

// Handle folds the facts among the records and moves the position, in one
// transaction of two round trips. What was lost before them is fetched first.
func (f *Feed[S]) Handle(ctx context.Context, partition int32, records []consumer.Record) error {
	for _, r := range records {
		if err := f.codec.LearnRecord(ctx, r.Headers); err != nil {
			return err
		}
	}
	f.mu.Lock()
	term := f.terms[partition]
	f.mu.Unlock()
	name := f.manager.newest.Name
	inbox := f.read(records)
	var current int64
	places := map[string]place{}
	var bad []unread
	return f.manager.complete(ctx, func(found missed) error {
		return f.manager.transact(ctx, transaction[S]{
			ids: inbox.ids(),
			before: func(b *pgx.Batch) {
				clear(places)
				b.Queue(lockPosition, name, partition).QueryRow(func(row pgx.Row) error { return scanPosition(row, &current, &places) })
			},
			act: func(w *work[S]) error {
				if current != term {
					return consumer.ErrFenced
				}
				var facts []event.Fact
				facts, bad = inbox.behind(places)
				for _, r := range records {
					at := places[r.Topic]
					at.Next = max(at.Next, r.Offset+1)
					places[r.Topic] = at
				}
				if err := w.fold(found.fill(facts), found); err != nil {
					return err
				}
				w.doubtAbout(bad)
				return nil
			},
			last: func(b *pgx.Batch) {
				f.manager.setAside(b, bad)
				text, err := json.Marshal(places)
				if err != nil {
					panic(err) // strings and numbers only
				}
				b.Queue(movePosition, name, partition, string(text))
			},
		})
	})
}

// inbox is what a batch of records holds.
type inbox struct{ items []item }

type item struct {
	record consumer.Record
	fact   event.Fact
	err    error // it cannot be read
}

// unread is a record that is not a readable fact. It is kept by reference.
type unread struct {
	record consumer.Record
	order  string // "" if even that cannot be read
	err    error
}

// read decodes the facts among the records.
func (f *Feed[S]) read(records []consumer.Record) (in inbox) {
	for _, r := range records {
		if event.IsControl(r.Headers) {
			continue
		}
		fact, err := f.codec.DecodeRecord(r.Headers, r.Key, r.Value)
		in.items = append(in.items, item{record: r, fact: fact, err: err})
	}
	return in
}

func (in inbox) ids() []string {
	var ids []string
	for _, i := range in.items {
		if i.fact.Key != "" {
			ids = append(ids, i.fact.Key)
		}
	}
	return ids
}

// behind returns what lies at or behind the stored places.
func (in inbox) behind(places map[string]place) (facts []event.Fact, bad []unread) {
	for _, i := range in.items {
		switch {
		case i.record.Offset < places[i.record.Topic].Next:
		case i.err != nil:
			bad = append(bad, unread{record: i.record, order: i.fact.Key, err: i.err})
		default:
			facts = append(facts, i.fact)
		}
	}
	return facts, bad
}

// doubtAbout says in the instances that a fact about them cannot be read.
func (w *work[S]) doubtAbout(bad []unread) {
	for _, u := range bad {
		if in := w.instances[u.order]; in != nil && !(in.isNew && len(in.book.Seen) == 0) {
			in.doubt("a fact of this order cannot be read")
			if _, changed := w.causes[in.id]; !changed {
				w.touch(Cause{Instance: in.id})
			}
		}
	}
}

// setAside queues a reference to what could not be read, so that it is seen and
// not lost.
func (m *Manager[S]) setAside(b *pgx.Batch, bad []unread) {
	for _, u := range bad {
		m.log.Error("process cannot read a record; it is set aside", "process", m.newest.Name,
			"topic", u.record.Topic, "partition", u.record.Partition, "offset", u.record.Offset, "order", u.order, "error", u.err)
		b.Queue(`
			INSERT INTO process_unread (process, topic, partition, record_offset, instance_id, reason) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT DO NOTHING`,
			m.newest.Name, u.record.Topic, u.record.Partition, u.record.Offset, u.order, u.err.Error())
	}
}

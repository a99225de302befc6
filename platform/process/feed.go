package process

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/postgres"
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

// Claim takes a partition number over: writes of the former owner fail from now on.
func (f *Feed[S]) Claim(ctx context.Context, partition int32, ids map[string]string) (map[string]int64, error) {
	offsets := map[string]int64{}
	var term int64
	err := postgres.InTx(ctx, f.manager.pool, func(tx pgx.Tx) error {
		clear(offsets)
		err := tx.QueryRow(ctx, `
			INSERT INTO process_position AS p (process, partition, term) VALUES ($1, $2, 1)
			ON CONFLICT (process, partition) DO UPDATE SET term = p.term + 1
			RETURNING term`, f.manager.def.Name, partition).Scan(&term)
		if err != nil {
			return fmt.Errorf("claim process position: %w", err)
		}
		rows, err := tx.Query(ctx, `
			SELECT topic, topic_id, next_offset FROM process_offset WHERE process = $1 AND partition = $2`,
			f.manager.def.Name, partition)
		if err != nil {
			return fmt.Errorf("read process offsets: %w", err)
		}
		var topic, id string
		var next int64
		_, err = pgx.ForEachRow(rows, []any{&topic, &id, &next}, func() error {
			if known := ids[topic]; known != "" && id != "" && known != id {
				return fmt.Errorf("topic %s is another one than the process %s has read (id %s, not %s)", topic, f.manager.def.Name, known, id)
			}
			offsets[topic] = next
			return nil
		})
		if err != nil {
			return fmt.Errorf("read process offsets: %w", err)
		}
		for topic, id := range ids {
			_, err := tx.Exec(ctx, `
				INSERT INTO process_offset (process, partition, topic, topic_id, next_offset) VALUES ($1, $2, $3, $4, 0)
				ON CONFLICT (process, partition, topic) DO UPDATE SET topic_id = excluded.topic_id`,
				f.manager.def.Name, partition, topic, id)
			if err != nil {
				return fmt.Errorf("note the topic's id: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.terms[partition] = term
	f.mu.Unlock()
	return offsets, nil
}

// Handle folds the facts among the records and moves the position, in one
// transaction.
func (f *Feed[S]) Handle(ctx context.Context, partition int32, records []consumer.Record) error {
	f.mu.Lock()
	term := f.terms[partition]
	f.mu.Unlock()
	var issued int
	err := postgres.InTx(ctx, f.manager.pool, func(tx pgx.Tx) error {
		var current int64
		err := tx.QueryRow(ctx, `
			SELECT term FROM process_position WHERE process = $1 AND partition = $2 FOR UPDATE`,
			f.manager.def.Name, partition).Scan(&current)
		if err != nil {
			return fmt.Errorf("lock process position: %w", err)
		}
		if current != term {
			return consumer.ErrFenced
		}
		stored, err := f.offsets(ctx, tx, partition)
		if err != nil {
			return err
		}
		facts, unread := f.read(records, stored)
		if issued, err = f.manager.Fold(ctx, tx, facts); err != nil {
			return err
		}
		if err := f.manager.setAside(ctx, tx, unread); err != nil {
			return err
		}
		return f.move(ctx, tx, partition, stored)
	})
	if err != nil {
		return err
	}
	if issued > 0 {
		f.manager.Wake()
	}
	return nil
}

func (f *Feed[S]) offsets(ctx context.Context, tx pgx.Tx, partition int32) (map[string]int64, error) {
	rows, err := tx.Query(ctx, `SELECT topic, next_offset FROM process_offset WHERE process = $1 AND partition = $2`,
		f.manager.def.Name, partition)
	if err != nil {
		return nil, fmt.Errorf("read process offsets: %w", err)
	}
	offsets := map[string]int64{}
	var topic string
	var next int64
	_, err = pgx.ForEachRow(rows, []any{&topic, &next}, func() error { offsets[topic] = next; return nil })
	if err != nil {
		return nil, fmt.Errorf("read process offsets: %w", err)
	}
	return offsets, nil
}

// unread is a record that is not a readable fact. It is kept by reference.
type unread struct {
	record consumer.Record
	order  string // "" if even that cannot be read
	err    error
}

// read decodes what lies at or behind the stored offsets, and moves them.
func (f *Feed[S]) read(records []consumer.Record, offsets map[string]int64) ([]event.Fact, []unread) {
	var facts []event.Fact
	var bad []unread
	for _, r := range records {
		if r.Offset < offsets[r.Topic] {
			continue
		}
		offsets[r.Topic] = r.Offset + 1
		if event.IsControl(r.Headers) {
			continue
		}
		fact, err := f.codec.DecodeRecord(r.Headers, r.Key, r.Value)
		if err != nil {
			bad = append(bad, unread{record: r, order: fact.Key, err: err})
			continue
		}
		facts = append(facts, fact)
	}
	return facts, bad
}

func (f *Feed[S]) move(ctx context.Context, tx pgx.Tx, partition int32, offsets map[string]int64) error {
	topics, next := make([]string, 0, len(offsets)), make([]int64, 0, len(offsets))
	for topic, offset := range offsets {
		topics, next = append(topics, topic), append(next, offset)
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO process_offset (process, partition, topic, topic_id, next_offset)
		SELECT $1, $2, topic, '', next FROM unnest($3::text[], $4::bigint[]) AS t(topic, next)
		ON CONFLICT (process, partition, topic) DO UPDATE SET next_offset = excluded.next_offset`,
		f.manager.def.Name, partition, topics, next)
	if err != nil {
		return fmt.Errorf("move process offsets: %w", err)
	}
	return nil
}

// setAside keeps a reference to what could not be read, so that it is seen and
// not lost, and says so in the instance it belongs to.
func (m *Manager[S]) setAside(ctx context.Context, tx pgx.Tx, bad []unread) error {
	for _, u := range bad {
		m.log.Error("process cannot read a record; it is set aside", "process", m.def.Name,
			"topic", u.record.Topic, "partition", u.record.Partition, "offset", u.record.Offset, "order", u.order, "error", u.err)
		_, err := tx.Exec(ctx, `
			INSERT INTO process_unread (process, topic, partition, record_offset, instance_id, reason) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT DO NOTHING`,
			m.def.Name, u.record.Topic, u.record.Partition, u.record.Offset, u.order, u.err.Error())
		if err != nil {
			return fmt.Errorf("set an unreadable record aside: %w", err)
		}
		if u.order == "" {
			continue
		}
		_, err = tx.Exec(ctx, `
			UPDATE process_instance SET book = jsonb_set(book, '{attention}', to_jsonb($3::text)), revision = revision + 1
			WHERE process = $1 AND id = $2`, m.def.Name, u.order, "a fact of this order cannot be read")
		if err != nil {
			return fmt.Errorf("note an unreadable record: %w", err)
		}
	}
	return nil
}

package projection

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/consumer"
)

func (p *Projection[S]) dataTopics() []string {
	var topics []string
	for _, source := range p.view.Sources {
		topics = append(topics, p.topics[source])
	}
	return topics
}

// passed reports whether every position of this generation is at or past the
// given ends.
func (p *Projection[S]) passed(ctx context.Context, ends map[string]map[int32]consumer.Bounds) (bool, error) {
	behind, err := p.behind(ctx, p.own.schema, ends)
	return behind == 0, err
}

// behind counts the records between the positions of a generation and the given
// ends. A partition without a position is behind, unless there is nothing to
// read.
func (p *Projection[S]) behind(ctx context.Context, schema string, ends map[string]map[int32]consumer.Bounds) (records int64, err error) {
	at, err := p.positions(ctx, p.pool, schema)
	if err != nil {
		return 0, err
	}
	for _, topic := range p.dataTopics() {
		for number, log := range ends[topic] {
			if next := max(at[number][topic], log.Start); next < log.End {
				records += log.End - next
			}
		}
	}
	return records, nil
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// positions reads the next offsets of a generation, by partition and topic.
func (p *Projection[S]) positions(ctx context.Context, q querier, schema string) (map[int32]map[string]int64, error) {
	rows, err := q.Query(ctx, "SELECT partition, offsets FROM "+pgx.Identifier{schema}.Sanitize()+".position")
	if err != nil {
		return nil, fmt.Errorf("read positions: %w", err)
	}
	at := map[int32]map[string]int64{}
	var number int32
	var text []byte
	_, err = pgx.ForEachRow(rows, []any{&number, &text}, func() error {
		offsets := map[string]int64{}
		if err := json.Unmarshal(text, &offsets); err != nil {
			return err
		}
		at[number] = offsets
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read positions: %w", err)
	}
	return at, nil
}

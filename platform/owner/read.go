package owner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

// Stored is an aggregate as its table keeps it.
type Stored[S any] struct {
	State *S
	journal.Head
}

const storedColumns = `version, epoch, event_id, recorded_at, state`

// Get reads one aggregate, or is a NotFound fault.
func Get[S any](ctx context.Context, pool *pgxpool.Pool, table *journal.Table[S], id string) (Stored[S], error) {
	s := Stored[S]{State: new(S)}
	err := pool.QueryRow(ctx, `SELECT `+storedColumns+` FROM `+table.Name+` WHERE id = $1`, id).
		Scan(&s.Version, &s.Epoch, &s.EventID, &s.RecordedAt, s.State)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, fault.NotFound(table.Type, id)
	}
	if err != nil {
		return s, journal.Explain(fmt.Errorf("read %s: %w", table.Type, err))
	}
	return s, nil
}

// Filter keeps the rows whose column has one of the values; without values, or
// with one that is empty, it keeps all.
type Filter struct {
	Column string
	Values []string
}

// position is where a page ended. Both parts of it never change.
type position struct {
	CreatedAt time.Time
	ID        string
}

// List reads a page of aggregates that pass every filter, newest first, and the
// token of the next page, "" after the last. The table needs an index on
// (created_at DESC, id DESC). A page token of another request is an Invalid fault.
func List[S any](ctx context.Context, pool *pgxpool.Pool, pager *rpc.Pager, table *journal.Table[S], r rpc.ListRequest, filters ...Filter) (page []Stored[S], next string, err error) {
	asked := postgres.Statement{SQL: `SELECT created_at, id, ` + storedColumns + ` FROM ` + table.Name + ` WHERE true`}
	for _, f := range filters {
		switch {
		case len(f.Values) == 0 || f.Values[0] == "":
		case len(f.Values) == 1: // an index on the column and the time then gives the order, too
			asked.Add(" AND "+f.Column+" = ?", f.Values[0])
		default:
			asked.Add(" AND "+f.Column+" = ANY (?)", f.Values)
		}
	}
	type listed struct {
		Stored[S]
		position
	}
	rows, next, err := rpc.Page(pager, r, rpc.List[listed, position]{
		Read: func(behind position, limit int) ([]listed, error) {
			s := asked
			if behind != (position{}) {
				s.Add(" AND (created_at, id) < (?, ?)", behind.CreatedAt, behind.ID)
			}
			s.Add(" ORDER BY created_at DESC, id DESC LIMIT ?", limit)
			rows, err := pool.Query(ctx, s.SQL, s.Args...)
			if err != nil {
				return nil, err
			}
			return pgx.CollectRows(rows, func(row pgx.CollectableRow) (listed, error) {
				l := listed{Stored: Stored[S]{State: new(S)}}
				err := row.Scan(&l.CreatedAt, &l.ID, &l.Version, &l.Epoch, &l.EventID, &l.RecordedAt, l.State)
				return l, err
			})
		},
		Place: func(l listed) position { return l.position },
	})
	if err != nil {
		return nil, "", journal.Explain(fmt.Errorf("list of %s: %w", table.Name, err))
	}
	for _, l := range rows {
		page = append(page, l.Stored)
	}
	return page, next, nil
}

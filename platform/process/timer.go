package process

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// dueTimer is a timer that is due by the database's clock.
type dueTimer struct{ Instance, Name string }

// fireTimers compares and deletes: of two schedulers one gets the row, and a
// clock that jumped back since the timer was seen keeps it.
const fireTimers = `
	DELETE FROM process_timer AS p USING unnest($2::text[], $3::text[]) AS t(id, name)
	 WHERE p.process = $1 AND p.instance_id = t.id AND p.name = t.name AND p.due_at <= clock_timestamp()
	RETURNING p.instance_id, p.name`

// fire fires timers: state, what follows from it, and the timer's end commit
// together. The timer's row is taken under the instance's lock.
func (m *Manager[S]) fire(ctx context.Context, due []dueTimer) error {
	if len(due) == 0 {
		return nil
	}
	ids, names := make([]string, len(due)), make([]string, len(due))
	for i, t := range due {
		ids[i], names[i] = t.Instance, t.Name
	}
	var fired []dueTimer
	return m.transact(ctx, transaction[S]{
		ids: ids,
		after: func(b *pgx.Batch) {
			b.Queue(fireTimers, m.newest.Name, ids, names).Query(func(rows pgx.Rows) (err error) {
				fired, err = pgx.CollectRows(rows, pgx.RowToStructByPos[dueTimer])
				return err
			})
		},
		act: func(w *work[S]) error {
			byID := map[string][]string{}
			for _, t := range fired {
				byID[t.Instance] = append(byID[t.Instance], t.Name)
			}
			for id, names := range byID {
				in := w.instances[id]
				def, err := m.definition(in)
				if err != nil {
					return err
				}
				changed := false
				for _, name := range names {
					changed = def.fire(in, name) || changed
				}
				if changed {
					w.touch(Cause{Instance: id, ID: "timer " + names[0]})
				}
			}
			return nil
		},
	})
}

func orNone(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

package process

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// Summary is one instance in a list.
type Summary struct {
	ID                   string
	Definition           int
	Status               string // StatusRunning or StatusEnded
	Attention            string
	StartedAt, ChangedAt time.Time
	// OpenSteps are issued without a definite outcome; Stalled of them for long.
	OpenSteps, Stalled int
}

// Filter selects instances, oldest first. A page starts after After.
type Filter struct {
	// Status is StatusRunning, StatusEnded, or empty for both.
	Status string
	// NeedsPerson selects those with something that does not settle by itself.
	NeedsPerson bool
	// StartedBefore selects those that are at least this old; zero selects all.
	StartedBefore time.Time
	After         Place
	Limit         int
}

// Place is where a page of instances ended. Both parts never change.
type Place struct {
	StartedAt time.Time
	ID        string
}

// List returns instances, oldest first.
func (m *Manager[S]) List(ctx context.Context, f Filter) ([]Summary, error) {
	s := postgres.Statement{SQL: `
		SELECT i.id, i.definition, i.status, i.attention, i.created_at, i.updated_at, coalesce(c.open, 0), coalesce(c.stalled, 0)
		  FROM process_instance AS i LEFT JOIN LATERAL (
			SELECT count(*) AS open, count(*) FILTER (WHERE stalled) AS stalled FROM process_command AS c
			 WHERE c.process = i.process AND c.instance_id = i.id AND c.status = 'pending') AS c ON true
		 WHERE i.process = $1`, Args: []any{m.newest.Name}}
	switch f.Status {
	case StatusRunning: // a constant, so that the partial index serves
		s.Add(" AND i.status = 'running'")
	case StatusEnded:
		s.Add(" AND i.status = 'ended'")
	}
	if f.NeedsPerson {
		s.Add(` AND (i.attention <> '' OR EXISTS (SELECT FROM process_command AS s
			WHERE s.process = i.process AND s.instance_id = i.id AND s.status = 'pending' AND s.stalled))`)
	}
	if !f.StartedBefore.IsZero() {
		s.Add(" AND i.created_at <= ?", f.StartedBefore)
	}
	if f.After != (Place{}) {
		s.Add(" AND (i.created_at, i.id) > (?, ?)", f.After.StartedAt, f.After.ID)
	}
	s.Add(" ORDER BY i.created_at, i.id LIMIT ?", f.Limit)
	rows, err := m.pool.Query(ctx, s.SQL, s.Args...)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Summary])
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	return found, nil
}

// Detail is one instance with all that the kernel knows of it.
type Detail struct {
	Summary
	// Concern is the first of what the instance needs a person for.
	Concern Concern
	Steps   []StepDetail
	Timers  []TimerDetail
	Audit   []AuditEntry
	// Waits is what the author says it waits for.
	Waits []Wait
	// Seen are the aggregates whose facts reached it, "type/id", and up to which version.
	Seen map[string]int64
}

// StepDetail is one issued step.
type StepDetail struct {
	Step, RequestID, Target, Status, Outcome string
	Attempts                                 int
	Withdrawn, Stalled                       bool
	IssuedAt, DueAt                          time.Time
	FinishedAt                               *time.Time
}

// TimerDetail is one timer that is set.
type TimerDetail struct {
	Name         string
	SetAt, DueAt time.Time
}

// AuditEntry is what a person did to an instance.
type AuditEntry struct {
	At                          time.Time
	Actor, Action, Step, Reason string
}

// Show returns one instance, or says NotFound.
func (m *Manager[S]) Show(ctx context.Context, id string) (d Detail, err error) {
	var state, kept []byte
	found := false
	b := &pgx.Batch{}
	b.Queue(`SELECT id, definition, status, attention, created_at, updated_at, state, book FROM process_instance WHERE process = $1 AND id = $2`,
		m.newest.Name, id).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&d.ID, &d.Definition, &d.Status, &d.Attention, &d.StartedAt, &d.ChangedAt, &state, &kept)
		found = err == nil
		return orNone(err)
	})
	b.Queue(`SELECT step, request_id::text, target, status, outcome, attempts, withdrawn, stalled, created_at, due_at, finished_at
		FROM process_command WHERE process = $1 AND instance_id = $2 ORDER BY created_at, step`, m.newest.Name, id).
		Query(func(rows pgx.Rows) (err error) {
			d.Steps, err = pgx.CollectRows(rows, pgx.RowToStructByPos[StepDetail])
			return err
		})
	b.Queue(`SELECT name, set_at, due_at FROM process_timer WHERE process = $1 AND instance_id = $2 ORDER BY due_at`, m.newest.Name, id).
		Query(func(rows pgx.Rows) (err error) {
			d.Timers, err = pgx.CollectRows(rows, pgx.RowToStructByPos[TimerDetail])
			return err
		})
	b.Queue(`SELECT at, actor, action, step, reason FROM process_audit WHERE process = $1 AND instance_id = $2 ORDER BY at`, m.newest.Name, id).
		Query(func(rows pgx.Rows) (err error) {
			d.Audit, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AuditEntry])
			return err
		})
	if err := m.pool.SendBatch(ctx, b).Close(); err != nil {
		return d, fmt.Errorf("read process %s: %w", id, err)
	}
	if !found {
		return d, fault.NotFound("process", id)
	}
	for _, s := range d.Steps {
		if s.Status == statusPending {
			d.OpenSteps++
			if s.Stalled {
				d.Stalled++
			}
		}
	}
	in := &instance[S]{id: id, definition: d.Definition}
	if err := json.Unmarshal(kept, &in.book); err != nil {
		return d, fmt.Errorf("book of process %s: %w", id, err)
	}
	if err := json.Unmarshal(state, &in.state); err != nil {
		return d, fmt.Errorf("state of process %s: %w", id, err)
	}
	d.Concern = in.book.Told
	d.Seen = make(map[string]int64, len(in.book.Seen))
	for aggregate, at := range in.book.Seen {
		d.Seen[aggregate] = at.Version
	}
	if def, ok := m.definitions[d.Definition]; ok && def.Waits != nil {
		d.Waits = def.Waits(&in.state)
	}
	return d, nil
}

const (
	insertAudit = `INSERT INTO process_audit (process, instance_id, actor, action, step, reason) VALUES ($1, $2, $3, $4, $5, $6)`
	retryStep   = `
		UPDATE process_command SET status = 'pending', due_at = clock_timestamp(), claimed_until = least(claimed_until, clock_timestamp()),
		       finished_at = NULL
		 WHERE process = $1 AND instance_id = $2 AND step = $3 AND status IN ('pending', 'refused') RETURNING true`
	forceStep = `
		UPDATE process_command SET status = 'forced', outcome = $4, finished_at = clock_timestamp()
		 WHERE process = $1 AND instance_id = $2 AND step = $3 AND status IN ('pending', 'refused') RETURNING true`
)

// Retry sends a step again now, under its own request id: one that waits for
// its next attempt, or one that was refused and may be accepted by now.
func (m *Manager[S]) Retry(ctx context.Context, id, step, actor, reason string) error {
	err := m.operate(ctx, id, step, "retry", actor, reason, retryStep, nil)
	m.Wake()
	return err
}

// Force settles a step by a person's word: it will not be sent any more, and the
// process goes on as if it had done what it was to do. A request that is under
// way is not stopped by this: withdraw first what may still take effect.
func (m *Manager[S]) Force(ctx context.Context, id, step, actor, reason string) error {
	return m.operate(ctx, id, step, "force", actor, reason, forceStep, []any{"forced by " + actor + ": " + reason})
}

// operate does what a person asks for, and writes down that they did, in one
// transaction.
func (m *Manager[S]) operate(ctx context.Context, id, step, action, actor, reason, sql string, more []any) error {
	changed := false
	return m.transact(ctx, transaction[S]{
		ids: []string{id},
		after: func(b *pgx.Batch) {
			changed = false
			b.Queue(sql, append([]any{m.newest.Name, id, step}, more...)...).
				QueryRow(func(row pgx.Row) error { return orNone(row.Scan(&changed)) })
		},
		act: func(w *work[S]) error {
			in := w.instances[id]
			if in.isNew {
				return fault.NotFound("process", id)
			}
			if !changed {
				return fault.RuleViolated(in.status, action, "process %s has no step %q that is open or was refused", id, step)
			}
			if action == "force" {
				def, err := m.definition(in)
				if err != nil {
					return err
				}
				def.Settled(&in.state, Settlement{Step: step, Outcome: Forced, Reason: reason})
				w.touch(Cause{Instance: id, ID: "operator"})
			}
			return nil
		},
		last: func(b *pgx.Batch) { b.Queue(insertAudit, m.newest.Name, id, actor, action, step, reason) },
	})
}

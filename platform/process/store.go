package process

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tidemark-dev/tidemark/platform/event"
)

//go:embed migrations/*.sql
var migrations embed.FS

// MigrationTable is the goose table of this package's migrations.
const MigrationTable = "process_schema"

// Migrations returns the SQL that makes the tables of this package.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the directory is embedded above
	}
	return sub
}

// Fold takes facts into their instances and issues what follows from them, in
// the caller's transaction: the one that also moves the caller's position.
// Facts of one aggregate must be in order. A fact seen before changes nothing.
//
// The instance of a fact is its key, the order id. If commands were issued, call
// [Manager.Wake] after the commit.
func (m *Manager[S]) Fold(ctx context.Context, tx pgx.Tx, facts []event.Fact) (commands int, err error) {
	if len(facts) == 0 {
		return 0, nil
	}
	var ids []string
	byID := map[string][]event.Fact{}
	for _, f := range facts {
		if _, ok := byID[f.Key]; !ok {
			ids = append(ids, f.Key)
		}
		byID[f.Key] = append(byID[f.Key], f)
	}
	slices.Sort(ids) // everybody locks in the same order
	instances, err := m.lock(ctx, tx, ids)
	if err != nil {
		return 0, err
	}
	var changed []*instance[S]
	var issued []issue
	for _, id := range ids {
		in := instances[id]
		var last *event.Fact
		for i, f := range byID[id] {
			if m.def.fold(in, f) {
				last = &byID[id][i]
			}
		}
		if last == nil {
			continue
		}
		changed = append(changed, in)
		for _, c := range m.def.advance(in) {
			issued = append(issued, issue{
				instance: id, command: c,
				causation: last.ID, traceparent: last.TraceParent, tracestate: last.TraceState,
			})
		}
	}
	return len(issued), m.save(ctx, tx, changed, issued)
}

// issue is a command on its way into the table.
type issue struct {
	instance    string
	command     Command
	causation   string
	traceparent string
	tracestate  string
}

// lock returns the instances with these ids, in a statement of its own so that
// what is read is what the lock's holder left, and makes those that are missing.
func (m *Manager[S]) lock(ctx context.Context, tx pgx.Tx, ids []string) (map[string]*instance[S], error) {
	rows, err := tx.Query(ctx, `
		SELECT id, state, book, revision, status
		FROM process_instance WHERE process = $1 AND id = ANY($2)
		ORDER BY id FOR UPDATE`, m.def.Name, ids)
	if err != nil {
		return nil, fmt.Errorf("lock process instances: %w", err)
	}
	instances := make(map[string]*instance[S], len(ids))
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		in := &instance[S]{}
		var state, kept []byte
		if err := row.Scan(&in.id, &state, &kept, &in.revision, &in.status); err != nil {
			return struct{}{}, err
		}
		if err := json.Unmarshal(state, &in.state); err != nil {
			return struct{}{}, fmt.Errorf("state of process %s: %w", in.id, err)
		}
		if err := json.Unmarshal(kept, &in.book); err != nil {
			return struct{}{}, fmt.Errorf("book of process %s: %w", in.id, err)
		}
		instances[in.id] = in
		return struct{}{}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("lock process instances: %w", err)
	}
	for _, id := range ids {
		if instances[id] == nil {
			instances[id] = &instance[S]{id: id, isNew: true}
		}
	}
	return instances, nil
}

// save writes instances by compare-and-set on their revision, and commands.
func (m *Manager[S]) save(ctx context.Context, tx pgx.Tx, changed []*instance[S], issued []issue) error {
	if len(changed) == 0 {
		return nil
	}
	n := len(changed)
	ids, states, books := make([]string, n), make([]string, n), make([]string, n)
	revisions, statuses := make([]int64, n), make([]string, n)
	for i, in := range changed {
		state, err := json.Marshal(in.state)
		if err != nil {
			return fmt.Errorf("state of process %s: %w", in.id, err)
		}
		kept, err := json.Marshal(in.book)
		if err != nil {
			return fmt.Errorf("book of process %s: %w", in.id, err)
		}
		ids[i], states[i], books[i] = in.id, string(state), string(kept)
		revisions[i], statuses[i] = in.revision, in.status
	}
	batch := &pgx.Batch{}
	var wrote int64
	batch.Queue(`
		INSERT INTO process_instance AS p (process, id, definition, state, book, revision, status)
		SELECT $1, id, $2, state::jsonb, book::jsonb, revision + 1, status
		FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[]) AS t(id, state, book, revision, status)
		ON CONFLICT (process, id) DO UPDATE
		SET definition = excluded.definition, state = excluded.state, book = excluded.book,
		    revision = excluded.revision, status = excluded.status, updated_at = clock_timestamp()
		WHERE p.revision = excluded.revision - 1`,
		m.def.Name, m.def.Version, ids, states, books, revisions, statuses).
		Exec(func(tag commandTag) error { wrote = tag.RowsAffected(); return nil })
	for _, i := range issued {
		body, err := encode(i.command.Request)
		if err != nil {
			return fmt.Errorf("process %s step %s: %w", i.instance, i.command.Step, err)
		}
		batch.Queue(`
			INSERT INTO process_command (request_id, process, instance_id, step, request, causation_id, traceparent, tracestate)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			RequestID(m.def.Name, i.instance, i.command.Step), m.def.Name, i.instance, i.command.Step, body,
			i.causation, i.traceparent, i.tracestate)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("save process instances: %w", err)
	}
	if wrote != int64(n) {
		return errRevision
	}
	return nil
}

// pending is a claimed command.
type pending struct {
	requestID   string
	instance    string
	step        string
	request     []byte
	attempts    int
	causation   string
	traceparent string
	tracestate  string
}

// claim takes due commands for this process for the length of claimFor. A
// dispatcher that dies leaves claims that lapse; the request id makes the
// second attempt harmless.
func (m *Manager[S]) claim(ctx context.Context, limit int) ([]pending, error) {
	rows, err := m.pool.Query(ctx, `
		UPDATE process_command AS c
		SET claimed_until = clock_timestamp() + $3::interval, attempts = c.attempts + 1
		FROM (
			SELECT request_id FROM process_command
			WHERE process = $1 AND status = 'pending' AND due_at <= clock_timestamp() AND claimed_until < clock_timestamp()
			ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
		) AS due
		WHERE c.request_id = due.request_id
		RETURNING c.request_id, c.instance_id, c.step, c.request, c.attempts, c.causation_id, c.traceparent, c.tracestate`,
		m.def.Name, limit, claimFor)
	if err != nil {
		return nil, fmt.Errorf("claim process commands: %w", err)
	}
	claimed, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (pending, error) {
		var p pending
		err := row.Scan(&p.requestID, &p.instance, &p.step, &p.request, &p.attempts, &p.causation, &p.traceparent, &p.tracestate)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("claim process commands: %w", err)
	}
	return claimed, nil
}

// done records that a command took effect. What follows from it arrives as facts.
func (m *Manager[S]) done(ctx context.Context, p pending) error {
	_, err := m.pool.Exec(ctx, `
		UPDATE process_command SET status = 'done', finished_at = clock_timestamp()
		WHERE request_id = $1 AND status = 'pending'`, p.requestID)
	if err != nil {
		return fmt.Errorf("finish process command: %w", err)
	}
	return nil
}

// later puts a command of unknown outcome back, to be sent again with the same
// request id.
func (m *Manager[S]) later(ctx context.Context, p pending, wait time.Duration, outcome string) error {
	_, err := m.pool.Exec(ctx, `
		UPDATE process_command SET due_at = clock_timestamp() + $2::interval, claimed_until = '-infinity', outcome = $3
		WHERE request_id = $1 AND status = 'pending'`, p.requestID, wait, outcome)
	if err != nil {
		return fmt.Errorf("postpone process command: %w", err)
	}
	return nil
}

// refused records a definite refusal and lets the process react, in one
// transaction.
func (m *Manager[S]) refused(ctx context.Context, tx pgx.Tx, p pending, reason string) error {
	instances, err := m.lock(ctx, tx, []string{p.instance})
	if err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, `
		UPDATE process_command SET status = 'refused', outcome = $2, finished_at = clock_timestamp()
		WHERE request_id = $1 AND status = 'pending'`, p.requestID, reason)
	if err != nil {
		return fmt.Errorf("refuse process command: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil // another dispatcher was first
	}
	in := instances[p.instance]
	if attention := m.def.Refused(&in.state, p.step, reason); attention != "" {
		in.book.Attention = attention
	}
	var issued []issue
	for _, c := range m.def.advance(in) {
		issued = append(issued, issue{
			instance: p.instance, command: c,
			causation: p.requestID, traceparent: p.traceparent, tracestate: p.tracestate,
		})
	}
	return m.save(ctx, tx, []*instance[S]{in}, issued)
}

func encode(request proto.Message) ([]byte, error) {
	packed, err := anypb.New(request)
	if err != nil {
		return nil, fmt.Errorf("pack %T: %w", request, err)
	}
	return proto.Marshal(packed)
}

func decode(body []byte) (proto.Message, error) {
	packed := &anypb.Any{}
	if err := proto.Unmarshal(body, packed); err != nil {
		return nil, fmt.Errorf("unpack request: %w", err)
	}
	return packed.UnmarshalNew()
}

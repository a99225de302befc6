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

// work is what one transaction does to instances: they are locked and read in
// its first round trip, and written in its last.
type work[S any] struct {
	m         *Manager[S]
	instances map[string]*instance[S]
	changed   []string         // instances, in the order in which they changed
	causes    map[string]Cause // why they changed, by instance
	issued    []pending
	told      []func()
}

// lock queues what locks and reads the instances with these ids. It is a
// statement of its own, so that what is read is what the lock's holder left.
// Those that do not exist yet are made, in memory.
func (m *Manager[S]) lock(b *pgx.Batch, ids []string) *work[S] {
	ids = slices.Compact(slices.Sorted(slices.Values(ids))) // everybody locks in the same order
	w := &work[S]{m: m, instances: make(map[string]*instance[S], len(ids)), causes: map[string]Cause{}}
	for _, id := range ids {
		w.instances[id] = &instance[S]{id: id, definition: m.newest.Version, isNew: true}
	}
	if len(ids) == 0 {
		return w
	}
	b.Queue(`
		SELECT id, definition, state, book, revision, status
		  FROM process_instance WHERE process = $1 AND id = ANY($2) ORDER BY id FOR UPDATE`, m.newest.Name, ids).
		Query(func(rows pgx.Rows) error {
			for rows.Next() {
				in := &instance[S]{}
				var state, kept []byte
				if err := rows.Scan(&in.id, &in.definition, &state, &kept, &in.revision, &in.status); err != nil {
					return err
				}
				if err := json.Unmarshal(state, &in.state); err != nil {
					return fmt.Errorf("state of process %s: %w", in.id, err)
				}
				if err := json.Unmarshal(kept, &in.book); err != nil {
					return fmt.Errorf("book of process %s: %w", in.id, err)
				}
				w.instances[in.id] = in
			}
			return rows.Err()
		})
	return w
}

// fold takes facts into their instances. The instance of a fact is its key.
// Facts of one aggregate must be in order; one seen before changes nothing. One
// that shows a gap which was not looked into is an [errGap].
func (w *work[S]) fold(facts []event.Fact, found missed) error {
	byID := map[string][]*event.Fact{}
	var ids []string
	for i := range facts {
		id := facts[i].Key
		if byID[id] == nil {
			ids = append(ids, id)
		}
		byID[id] = append(byID[id], &facts[i])
	}
	for _, id := range ids {
		in := w.instances[id]
		def, err := w.m.definition(in)
		if err != nil {
			return err
		}
		var last *event.Fact
		for _, f := range byID[id] {
			if from := in.gapBefore(*f); from > 0 {
				if _, looked := found[version{f.Aggregate, f.Version}]; !looked {
					return &errGap{*f, from}
				}
				in.doubt(fmt.Sprintf("versions %d to %d of %s are in no journal: compare with its owner", from, f.Version-1, f.Aggregate))
			}
			if def.fold(in, *f) {
				last = f
			}
		}
		if last != nil {
			w.touch(Cause{Instance: id, ID: last.ID, TraceParent: last.TraceParent, TraceState: last.TraceState})
		}
	}
	return nil
}

// touch notes that an instance changed, and why.
func (w *work[S]) touch(cause Cause) {
	if _, known := w.causes[cause.Instance]; !known {
		w.changed = append(w.changed, cause.Instance)
	}
	w.causes[cause.Instance] = cause
}

const (
	insertInstances = `
		INSERT INTO process_instance (process, id, definition, state, book, revision, status, attention)
		SELECT $1, t.id, t.definition, t.state::json, t.book::json, 1, t.status, t.attention
		  FROM unnest($2::text[], $3::integer[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[])
		       AS t(id, definition, state, book, revision, status, attention)`
	// updateInstances compares and sets: an instance at another revision than the
	// one that was read makes the whole transaction fail.
	updateInstances = `
		WITH wrote AS (
			UPDATE process_instance AS p
			   SET state = t.state::json, book = t.book::json, revision = t.revision + 1, status = t.status,
			       attention = t.attention, forgotten = false, updated_at = clock_timestamp()
			  FROM unnest($2::text[], $3::integer[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[])
			       AS t(id, definition, state, book, revision, status, attention)
			 WHERE p.process = $1 AND p.id = t.id AND p.revision = t.revision
			RETURNING 1)
		SELECT 1 / (CASE WHEN (SELECT count(*) FROM wrote) = cardinality($2::text[]) THEN 1 ELSE 0 END)`
	insertCommands = `
		INSERT INTO process_command (request_id, process, instance_id, step, target, request, causation_id, traceparent, tracestate,
		                             attempts, claimed_until)
		SELECT t.request_id, $1, t.instance_id, t.step, t.target, t.request, t.causation_id, t.traceparent, t.tracestate,
		       t.claimed::int, CASE WHEN t.claimed THEN clock_timestamp() + $2::interval ELSE '-infinity' END
		  FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::text[], $9::text[], $10::text[], $11::boolean[])
		       AS t(request_id, instance_id, step, target, request, causation_id, traceparent, tracestate, claimed)`
	insertTimers = `
		INSERT INTO process_timer (process, instance_id, name, due_at)
		SELECT $1, t.id, t.name, coalesce(t.at, clock_timestamp() + t.after)
		  FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::interval[]) AS t(id, name, at, after)
		ON CONFLICT DO NOTHING`
	deleteTimers = `
		DELETE FROM process_timer AS p USING unnest($2::text[], $3::text[]) AS t(id, name)
		 WHERE p.process = $1 AND p.instance_id = t.id AND p.name = t.name`
	withdrawCommands = `
		UPDATE process_command AS c SET withdrawn = true, due_at = least(c.due_at, clock_timestamp())
		  FROM unnest($2::text[], $3::text[]) AS t(id, step)
		 WHERE c.process = $1 AND c.instance_id = t.id AND c.step = t.step AND c.status = 'pending'`
)

// save queues what writes the changed instances, their commands and timers. A
// command is claimed by the manager itself if it can take it.
func (w *work[S]) save(ctx context.Context, tx batchTx, b *pgx.Batch) error {
	process := w.m.newest.Name
	fresh, known := &columns{}, &columns{}
	var commands commandColumns
	var timerIDs, timerNames, dropIDs, dropNames, stepIDs, steps []string
	var timerAt []*time.Time
	var timerAfter []time.Duration
	for _, id := range w.changed {
		in := w.instances[id]
		def, err := w.m.definition(in)
		if err != nil {
			return err
		}
		due := def.advance(in)
		if w.m.Beside != nil {
			w.m.Beside(b, id, &in.state)
		}
		if w.m.Tell != nil && due.concern != nil {
			told, err := w.m.Tell(ctx, tx, b, id, *due.concern)
			if err != nil {
				return fmt.Errorf("tell of process %s: %w", id, err)
			}
			w.told = append(w.told, told)
		}
		to := known
		if in.isNew {
			to = fresh
		}
		if err := add(to, in); err != nil {
			return err
		}
		for _, command := range due.commands {
			p, err := w.m.issue(w.causes[id], command)
			if err != nil {
				return err
			}
			w.issued = append(w.issued, p)
			commands.add(p)
		}
		for _, t := range due.timers {
			timerIDs, timerNames, timerAfter = append(timerIDs, in.id), append(timerNames, t.Name), append(timerAfter, t.After)
			timerAt = append(timerAt, nil)
			if !t.At.IsZero() {
				timerAt[len(timerAt)-1] = &t.At
			}
		}
		for _, name := range due.dropped {
			dropIDs, dropNames = append(dropIDs, in.id), append(dropNames, name)
		}
		for _, step := range due.withdrawn {
			stepIDs, steps = append(stepIDs, in.id), append(steps, step)
		}
	}
	if len(fresh.ids) > 0 {
		b.Queue(insertInstances, fresh.args(process)...)
	}
	if len(known.ids) > 0 {
		b.Queue(updateInstances, known.args(process)...)
	}
	if len(commands.ids) > 0 {
		b.Queue(insertCommands, commands.args(process)...)
	}
	if len(timerIDs) > 0 {
		b.Queue(insertTimers, process, timerIDs, timerNames, timerAt, timerAfter)
	}
	if len(dropIDs) > 0 {
		b.Queue(deleteTimers, process, dropIDs, dropNames)
	}
	if len(stepIDs) > 0 {
		b.Queue(withdrawCommands, process, stepIDs, steps)
	}
	return nil
}

// columns are instances, column by column.
type columns struct {
	ids, states, books, statuses, attentions []string
	definitions                              []int32
	revisions                                []int64
}

func add[S any](c *columns, in *instance[S]) error {
	state, err := json.Marshal(in.state)
	if err != nil {
		return fmt.Errorf("state of process %s: %w", in.id, err)
	}
	kept, err := json.Marshal(in.book)
	if err != nil {
		return fmt.Errorf("book of process %s: %w", in.id, err)
	}
	c.ids, c.states, c.books = append(c.ids, in.id), append(c.states, string(state)), append(c.books, string(kept))
	c.definitions, c.revisions = append(c.definitions, int32(in.definition)), append(c.revisions, in.revision)
	c.statuses, c.attentions = append(c.statuses, in.status), append(c.attentions, in.attention)
	return nil
}

func (c *columns) args(process string) []any {
	return []any{process, c.ids, c.definitions, c.states, c.books, c.revisions, c.statuses, c.attentions}
}

// commandColumns are commands, column by column.
type commandColumns struct {
	ids, instances, steps, targets, causes, parents, states []string
	requests                                                [][]byte
	claimed                                                 []bool
}

func (c *commandColumns) add(p pending) {
	c.ids, c.instances, c.steps = append(c.ids, p.requestID), append(c.instances, p.cause.Instance), append(c.steps, p.step)
	c.targets, c.requests, c.causes = append(c.targets, p.target), append(c.requests, p.request), append(c.causes, p.cause.ID)
	c.parents, c.states = append(c.parents, p.cause.TraceParent), append(c.states, p.cause.TraceState)
	c.claimed = append(c.claimed, p.attempts > 0)
}

func (c *commandColumns) args(process string) []any {
	return []any{process, claimFor, c.ids, c.instances, c.steps, c.targets, c.requests, c.causes, c.parents, c.states, c.claimed}
}

// issue makes a row of a command.
func (m *Manager[S]) issue(cause Cause, c Command) (pending, error) {
	packed, err := anypb.New(c.Request)
	if err != nil {
		return pending{}, fmt.Errorf("process %s step %s: pack %T: %w", cause.Instance, c.Step, c.Request, err)
	}
	body, err := proto.Marshal(packed)
	if err != nil {
		return pending{}, fmt.Errorf("process %s step %s: %w", cause.Instance, c.Step, err)
	}
	p := pending{
		requestID: RequestID(m.newest.Name, cause.Instance, c.Step), step: c.Step, request: body, target: m.to.Target(c.Request), cause: cause,
	}
	if m.lanes[p.target] == nil {
		p.target = ""
	}
	if m.lanes[p.target].reserve() {
		p.attempts = 1
	}
	return p, nil
}

// transaction is what one transaction over instances does. Only act is required.
type transaction[S any] struct {
	ids    []string
	before func(*pgx.Batch) // queues what is locked or read before the instances
	after  func(*pgx.Batch) // and after them
	act    func(*work[S]) error
	last   func(*pgx.Batch) // queues what is written beside them
}

// transact runs a transaction in two round trips: lock and read, act, then
// write. If act changes nothing and last is nil, nothing is written. After the
// commit, commands that were issued are sent.
func (m *Manager[S]) transact(ctx context.Context, t transaction[S]) error {
	var w *work[S]
	err := m.inBatches(ctx, func(tx batchTx) error {
		m.unreserve(w) // of an attempt before
		read, write := &pgx.Batch{}, &pgx.Batch{}
		if t.before != nil {
			t.before(read)
		}
		w = m.lock(read, t.ids)
		if t.after != nil {
			t.after(read)
		}
		if err := tx.Send(ctx, read); err != nil {
			return fmt.Errorf("lock process instances: %w", err)
		}
		if err := t.act(w); err != nil {
			return err
		}
		if len(w.changed) == 0 && t.last == nil {
			return nil
		}
		if err := w.save(ctx, tx, write); err != nil {
			return err
		}
		if t.last != nil {
			t.last(write)
		}
		if err := tx.Commit(ctx, write); err != nil {
			return fmt.Errorf("save process instances: %w", err)
		}
		return nil
	})
	if err != nil {
		m.unreserve(w)
		return err
	}
	m.hand(w.issued)
	for _, told := range w.told {
		if told != nil {
			told()
		}
	}
	return nil
}

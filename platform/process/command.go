package process

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Statuses of a command; beside them the outcomes are statuses too.
const (
	statusPending = "pending"
	statusDone    = "done"
)

// pending is a command on its way: claimed, or about to be inserted.
type pending struct {
	requestID string
	step      string
	target    string
	request   []byte
	attempts  int // this one included; 0: not claimed
	withdrawn bool
	outcome   string // what the last attempt said
	cause     Cause
}

const (
	// renewClaims waits for nobody: who holds a command is about to finish it or to
	// put it back, and two who waited for each other's would stop both for a second.
	renewClaims = `
		UPDATE process_command AS c SET claimed_until = clock_timestamp() + $2::interval
		  FROM (SELECT request_id FROM process_command
		         WHERE request_id = ANY($1::uuid[]) AND status = 'pending' FOR UPDATE SKIP LOCKED) AS f
		 WHERE c.request_id = f.request_id`
	claimCommands = `
		WITH due AS MATERIALIZED (
			SELECT d.request_id
			  FROM unnest($2::text[], $3::integer[]) AS room(target, places) CROSS JOIN LATERAL (
				SELECT c.request_id FROM process_command AS c
				 WHERE c.process = $1 AND c.target = room.target AND c.status = 'pending'
				   AND c.due_at <= clock_timestamp() AND c.claimed_until < clock_timestamp()
				 ORDER BY c.due_at LIMIT room.places FOR UPDATE SKIP LOCKED) AS d)
		UPDATE process_command AS c SET claimed_until = clock_timestamp() + $4::interval, attempts = c.attempts + 1
		  FROM due WHERE c.request_id = due.request_id
		RETURNING c.request_id::text, c.instance_id, c.step, c.target, c.request, c.attempts, c.withdrawn, c.outcome,
		          c.causation_id, c.traceparent, c.tracestate`
	selectDueTimers = `
		SELECT instance_id, name FROM process_timer WHERE process = $1 AND due_at <= clock_timestamp() ORDER BY due_at LIMIT $2`
	timerBatch = 200
)

// claim renews old claims, takes due commands and looks for due timers, in one
// round trip. A dispatcher that dies leaves claims that lapse; the request id
// makes the second attempt harmless.
func (m *Manager[S]) claim(ctx context.Context) (claimed []pending, due []dueTimer, err error) {
	var targets []string
	var places []int32
	free := map[string]int{}
	for target, l := range m.lanes {
		if n := l.room(); n > 0 {
			targets, places, free[target] = append(targets, target), append(places, int32(n)), n
		}
	}
	defer func() {
		for target, n := range free {
			m.lanes[target].release(n)
		}
	}()
	b := &pgx.Batch{}
	if aging := m.aging(); len(aging) > 0 {
		b.Queue(renewClaims, aging, claimFor)
	}
	b.Queue(claimCommands, m.newest.Name, targets, places, claimFor).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var p pending
			if err := rows.Scan(&p.requestID, &p.cause.Instance, &p.step, &p.target, &p.request, &p.attempts, &p.withdrawn, &p.outcome,
				&p.cause.ID, &p.cause.TraceParent, &p.cause.TraceState); err != nil {
				return err
			}
			claimed = append(claimed, p)
		}
		return rows.Err()
	})
	b.Queue(selectDueTimers, m.newest.Name, timerBatch).Query(func(rows pgx.Rows) error {
		due, err = pgx.CollectRows(rows, pgx.RowToStructByPos[dueTimer])
		return err
	})
	if err := m.pool.SendBatch(ctx, b).Close(); err != nil {
		return nil, nil, fmt.Errorf("claim process commands: %w", err)
	}
	for _, p := range claimed {
		free[p.target]--
		m.hold(p)
	}
	return claimed, due, nil
}

// done records that commands took effect. What follows from it arrives as facts.
func (m *Manager[S]) done(ctx context.Context, finished []pending) error {
	ids := make([]string, len(finished))
	for i, p := range finished {
		ids[i] = p.requestID
	}
	_, err := m.pool.Exec(ctx, `
		UPDATE process_command AS c SET status = 'done', outcome = '', finished_at = clock_timestamp()
		  FROM (SELECT request_id FROM process_command
		         WHERE request_id = ANY($1::uuid[]) AND status = 'pending' ORDER BY request_id FOR UPDATE) AS f
		 WHERE c.request_id = f.request_id`, ids)
	if err != nil {
		return fmt.Errorf("finish process commands: %w", err)
	}
	return nil
}

// later puts a command of unknown outcome back, to be sent again with the same
// request id. One that was withdrawn meanwhile is made definite at once.
func (m *Manager[S]) later(ctx context.Context, p pending, wait time.Duration, outcome string) error {
	_, err := m.pool.Exec(ctx, `
		UPDATE process_command
		   SET due_at = clock_timestamp() + CASE WHEN withdrawn AND NOT $4 THEN interval '0' ELSE $2::interval END,
		       claimed_until = '-infinity', outcome = $3, stalled = created_at < clock_timestamp() - $5::interval
		 WHERE request_id = $1 AND status = 'pending'`, p.requestID, wait, outcome, p.withdrawn, stallAfter)
	if err != nil {
		return fmt.Errorf("postpone process command: %w", err)
	}
	return nil
}

// dueNow makes all commands to a target due that wait for another attempt.
func (m *Manager[S]) dueNow(ctx context.Context, target string) error {
	_, err := m.pool.Exec(ctx, `
		UPDATE process_command SET due_at = clock_timestamp()
		 WHERE process = $1 AND target = $2 AND status = 'pending' AND due_at > clock_timestamp()`, m.newest.Name, target)
	if err != nil {
		return fmt.Errorf("make process commands due: %w", err)
	}
	return nil
}

// settle records a definite outcome that no fact tells about, and lets the
// process react, in one transaction. The first who records it wins.
func (m *Manager[S]) settle(ctx context.Context, p pending, outcome, reason string) error {
	first := false
	return m.transact(ctx, transaction[S]{
		ids: []string{p.cause.Instance},
		after: func(b *pgx.Batch) {
			first = false
			b.Queue(`
				UPDATE process_command SET status = $2, outcome = $3, finished_at = clock_timestamp()
				 WHERE request_id = $1 AND status = 'pending' RETURNING true`, p.requestID, outcome, reason).
				QueryRow(func(row pgx.Row) error { return orNone(row.Scan(&first)) })
		},
		act: func(w *work[S]) error {
			in := w.instances[p.cause.Instance]
			if !first || in.isNew {
				return nil
			}
			def, err := m.definition(in)
			if err != nil {
				return err
			}
			def.Settled(&in.state, Settlement{Step: p.step, Outcome: Outcome(outcome), Reason: reason})
			w.touch(Cause{Instance: in.id, ID: p.requestID, TraceParent: p.cause.TraceParent, TraceState: p.cause.TraceState})
			return nil
		},
	})
}

// unclaim gives claims back.
func (m *Manager[S]) unclaim(ctx context.Context, ids []string) error {
	_, err := m.pool.Exec(ctx, `
		UPDATE process_command SET claimed_until = '-infinity', attempts = greatest(0, attempts - 1)
		 WHERE request_id = ANY($1::uuid[]) AND status = 'pending'`, ids)
	if err != nil {
		return fmt.Errorf("give claims back: %w", err)
	}
	return nil
}

// method is the name of a request's method, as participants remember it.
func method(request proto.Message) string {
	return strings.TrimSuffix(string(request.ProtoReflect().Descriptor().Name()), "Request")
}

func decode(body []byte) (proto.Message, error) {
	packed := &anypb.Any{}
	if err := proto.Unmarshal(body, packed); err != nil {
		return nil, fmt.Errorf("unpack request: %w", err)
	}
	return packed.UnmarshalNew()
}

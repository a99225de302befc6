package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

// Head is where an aggregate stands: its last event. Every state row carries it.
type Head struct {
	Version    int64
	Epoch      string
	EventID    string
	RecordedAt time.Time
}

// Table says how one kind of aggregate is stored. S is its state, which is kept
// as JSON beside the columns that queries need.
type Table[S any] struct {
	// Type is the aggregate's type: "order".
	Type string
	// Name is the table's name, with columns id, created_at, version, epoch,
	// event_id, recorded_at and state: "orders".
	Name string
	// New returns the state of an aggregate that does not exist yet.
	New func(id string) *S
	// Key returns the order id that the aggregate's facts are about.
	Key func(*S) string
	// Lock locks and reads one row: SELECT version, epoch, event_id,
	// recorded_at, state FROM … WHERE id = $1 FOR UPDATE. It must read nothing
	// else: after a wait, only the locked row itself is read anew.
	Lock string
	// Save queues the statements that store the state at its new head. A new row
	// is an INSERT without ON CONFLICT, so that of two creations one fails.
	Save func(batch *pgx.Batch, state *S, head Head, isNew bool)
}

// Request is a command's identity. Message is what the fingerprint is made of,
// unless Fingerprint is given.
type Request struct {
	// ID is the caller's request id. Empty: the command may take effect any
	// number of times, and the aggregate itself must make that harmless.
	ID          string
	Method      string
	Message     proto.Message
	Fingerprint []byte
	// AggregateID names the aggregate to change.
	AggregateID string
	// AnswerTo is an earlier request whose remembered answer this one's answer
	// replaces: the outcome of something that the earlier one only started. If
	// the answer is nil, the earlier request is forgotten and may be made again.
	AnswerTo string
}

// Fact is what a decision states: the content and the business time.
type Fact struct {
	Body       event.Body
	OccurredAt time.Time
}

// Fingerprint returns the hash that tells a repeated request from another one
// with the same id.
func Fingerprint(method string, m proto.Message) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("fingerprint %s: %w", method, err)
	}
	sum := sha256.Sum256(append([]byte(method+"\x00"), body...))
	return sum[:], nil
}

const (
	maxAttempts = 6
	// maxTraceState is what W3C asks everybody to pass on; more is dropped,
	// because a caller must not be able to make headers grow.
	maxTraceState = 512
)

// Execute lets one command take effect in one transaction of two round trips:
//
//	request id row · lock the aggregate · clock and epoch      (three statements, three snapshots)
//	decide                                                      (pure; gets no context)
//	state row · journal rows and outbox rows · answer · commit
//
// The sequence is drawn by the journal's INSERT, after the lock, so the order of
// sequences is the order of versions. Decide changes the state by applying what
// it decides and returns the facts; respond makes the answer, which is stored.
// A request id that took effect before gets its first answer again (replayed);
// with another body it is a RequestIDReused fault. A commit whose outcome is
// unknown is resolved by running all of it again with the same request id.
func Execute[S any, R proto.Message](
	ctx context.Context, j *Journal, table *Table[S], req Request,
	decide func(state *S, now time.Time) ([]Fact, error),
	respond func(state *S, head Head) R,
) (answer R, replayed bool, err error) {
	if req.Fingerprint == nil && req.ID != "" {
		if req.Fingerprint, err = Fingerprint(req.Method, req.Message); err != nil {
			return answer, false, err
		}
	}
	for attempt := 1; ; attempt++ {
		answer, replayed, err = execute(ctx, j, table, req, decide, respond)
		if err == nil || attempt == maxAttempts || ctx.Err() != nil || !again(err, req.ID != "") {
			return answer, replayed, Explain(err)
		}
		pause := time.Duration(attempt) * 5 * time.Millisecond
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

const (
	insertRequest = `INSERT INTO idempotency (request_id, method, fingerprint) VALUES ($1, $2, $3) ON CONFLICT (request_id) DO NOTHING`
	selectAnswer  = `SELECT method, fingerprint, response FROM idempotency WHERE request_id = $1`
	updateAnswer  = `UPDATE idempotency SET response = $2 WHERE request_id = $1`
	forgetRequest = `DELETE FROM idempotency WHERE request_id = $1`
	selectClock   = `SELECT clock_timestamp(), (SELECT epoch FROM source_epoch ORDER BY ordinal DESC LIMIT 1), (SELECT reason FROM source_stop WHERE state = 'WENT_BACK')`

	journalColumns = `sequence, partition, aggregate_type, aggregate_id, version, epoch, event_id, name, schema_version,
			                     key, occurred_at, recorded_at, causation_id, correlation_id, traceparent, tracestate, payload`
	// insertFacts takes any number of facts; insertFact takes one, as nearly all
	// commands state, for half the price: no arrays, no sort.
	insertFacts = `
		WITH appended AS (
			INSERT INTO journal (` + journalColumns + `)
			SELECT nextval('journal_sequence'), $1, $2, $3, f.version, (SELECT journal_epoch($4)), f.event_id, f.name, f.schema_version,
			       $5, f.occurred_at, $6, $7, $8, $9, $10, f.payload
			  FROM (SELECT * FROM unnest($11::bigint[], $12::uuid[], $13::text[], $14::integer[], $15::timestamptz[], $16::bytea[])
			               AS u (version, event_id, name, schema_version, occurred_at, payload) ORDER BY version) f
			RETURNING partition, sequence)
		INSERT INTO outbox (partition, sequence) SELECT partition, sequence FROM appended`
	insertFact = `
		WITH appended AS (
			INSERT INTO journal (` + journalColumns + `)
			VALUES (nextval('journal_sequence'), $1, $2, $3, $11, journal_epoch($4), $12, $13, $14, $5, $15, $6, $7, $8, $9, $10, $16)
			RETURNING partition, sequence)
		INSERT INTO outbox (partition, sequence) SELECT partition, sequence FROM appended`
)

func execute[S any, R proto.Message](
	ctx context.Context, j *Journal, table *Table[S], req Request,
	decide func(*S, time.Time) ([]Fact, error), respond func(*S, Head) R,
) (answer R, replayed bool, err error) {
	stated := false
	err = postgres.InBatches(ctx, j.pool, func(tx *postgres.BatchTx) error {
		state := table.New(req.AggregateID)
		opened, err := open(ctx, tx, table.Lock, req, state)
		if err != nil {
			return err
		}
		if replayed = opened.repeated; replayed {
			answer, err = recall[R](ctx, tx, req)
			return err
		}
		if opened.stopped != nil {
			return refusal(j.cfg.Source, *opened.stopped)
		}
		now := opened.now
		if now.Before(opened.head.RecordedAt) {
			now = opened.head.RecordedAt
		}
		facts, err := decide(state, now)
		if err != nil {
			return err
		}
		head, rows, err := j.rows(ctx, table.Type, req, table.Key(state), opened.head, opened.epoch, now, facts)
		if err != nil {
			return err
		}
		answer = respond(state, head)
		stated = len(facts) > 0

		var batch pgx.Batch
		table.Save(&batch, state, head, opened.head.Version == 0)
		if stated {
			rows.queue(&batch)
		}
		if err := remember(&batch, req, answer); err != nil {
			return err
		}
		return tx.Commit(ctx, &batch)
	})
	if err == nil && !replayed && stated {
		j.signal()
	}
	return answer, replayed, err
}

// remember queues what stores the answer.
func remember(batch *pgx.Batch, req Request, answer proto.Message) error {
	if req.ID == "" && req.AnswerTo == "" {
		return nil
	}
	if answer == nil || !answer.ProtoReflect().IsValid() {
		batch.Queue(forgetRequest, req.AnswerTo)
		return nil
	}
	stored, err := proto.Marshal(answer)
	if err != nil {
		return fmt.Errorf("encode the answer to %s: %w", req.Method, err)
	}
	for _, id := range []string{req.ID, req.AnswerTo} {
		if id != "" {
			batch.Queue(updateAnswer, id, stored)
		}
	}
	return nil
}

type opening struct {
	repeated bool
	head     Head
	now      time.Time
	epoch    string
	stopped  *string // why no commands are taken
}

// open begins the transaction: the request's row first (its insert waits for
// another transaction with the same id), then the aggregate's lock in a
// statement of its own, then the clock, read after the lock was got.
func open(ctx context.Context, tx *postgres.BatchTx, lock string, req Request, state any) (o opening, err error) {
	var batch pgx.Batch
	if req.ID != "" {
		batch.Queue(insertRequest, req.ID, req.Method, req.Fingerprint).Exec(func(tag pgconn.CommandTag) error {
			o.repeated = tag.RowsAffected() == 0
			return nil
		})
	}
	batch.Queue(lock, req.AggregateID).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&o.head.Version, &o.head.Epoch, &o.head.EventID, &o.head.RecordedAt, state)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	batch.Queue(selectClock).QueryRow(func(row pgx.Row) error { return row.Scan(&o.now, &o.epoch, &o.stopped) })
	if err := tx.Send(ctx, &batch); err != nil {
		return o, fmt.Errorf("open %s: %w", req.Method, err)
	}
	o.now = o.now.UTC()
	o.head.RecordedAt = o.head.RecordedAt.UTC()
	return o, nil
}

// recall returns the first answer to a request id, in a statement whose
// snapshot is younger than the commit that the insert waited for.
func recall[R proto.Message](ctx context.Context, tx *postgres.BatchTx, req Request) (answer R, err error) {
	var method string
	var fingerprint, stored []byte
	var batch pgx.Batch
	batch.Queue(selectAnswer, req.ID).QueryRow(func(row pgx.Row) error { return row.Scan(&method, &fingerprint, &stored) })
	if err := tx.Send(ctx, &batch); err != nil {
		return answer, fmt.Errorf("read the answer to request %s: %w", req.ID, err)
	}
	return decodeAnswer[R](req, method, fingerprint, stored)
}

// decodeAnswer returns the first answer to a request, or why this is not the same one.
func decodeAnswer[R proto.Message](req Request, method string, fingerprint, stored []byte) (answer R, err error) {
	if len(fingerprint) == 0 {
		return answer, resolved(req.ID)
	}
	if method != req.Method || !bytes.Equal(fingerprint, req.Fingerprint) {
		return answer, fault.RequestIDReused(req.ID)
	}
	answer = answer.ProtoReflect().New().Interface().(R)
	if err := proto.Unmarshal(stored, answer); err != nil {
		return answer, fmt.Errorf("decode the answer to request %s: %w", req.ID, err)
	}
	m := answer.ProtoReflect()
	if f := m.Descriptor().Fields().ByName("replayed"); f != nil && f.Kind() == protoreflect.BoolKind {
		m.Set(f, protoreflect.ValueOfBool(true))
	}
	return answer, nil
}

// Recall returns the first answer to a request id if it is known already. Not
// found is no proof of absence: the first command may still be on its way. Only
// Execute is definite.
func Recall[R proto.Message](ctx context.Context, j *Journal, req Request) (answer R, found bool, err error) {
	if req.Fingerprint == nil {
		if req.Fingerprint, err = Fingerprint(req.Method, req.Message); err != nil {
			return answer, false, err
		}
	}
	var method string
	var fingerprint, stored []byte
	err = j.pool.QueryRow(ctx, selectAnswer, req.ID).Scan(&method, &fingerprint, &stored)
	if errors.Is(err, pgx.ErrNoRows) {
		return answer, false, nil
	}
	if err != nil {
		return answer, false, Explain(fmt.Errorf("read the answer to request %s: %w", req.ID, err))
	}
	answer, err = decodeAnswer[R](req, method, fingerprint, stored)
	return answer, err == nil, err
}

// appending is the statement that appends facts to the journal and the outbox.
type appending struct {
	sql  string
	args []any
}

func (a appending) queue(batch *pgx.Batch) { batch.Queue(a.sql, a.args...) }

// rows turns facts into the statement that appends them, and returns the new head.
func (j *Journal) rows(
	ctx context.Context, kind string, req Request, key string, head Head, epoch string, now time.Time, facts []Fact,
) (_ Head, a appending, err error) {
	if len(facts) == 0 {
		return head, a, nil
	}
	var (
		cause     = rpc.CauseOf(ctx)
		carrier   = propagation.MapCarrier{}
		partition = event.PartitionOf(key, j.cfg.Partitions)
		versions  = make([]int64, len(facts))
		ids       = make([]string, len(facts))
		names     = make([]string, len(facts))
		schemas   = make([]int32, len(facts))
		occurred  = make([]time.Time, len(facts))
		payloads  = make([][]byte, len(facts))
	)
	propagation.TraceContext{}.Inject(ctx, carrier)
	if len(carrier["tracestate"]) > maxTraceState {
		delete(carrier, "tracestate")
	}
	if cause.CausationID == "" {
		cause.CausationID = req.ID
	}
	if cause.CorrelationID == "" {
		cause.CorrelationID = key
	}
	for i, f := range facts {
		name, version, payload, err := j.cfg.Codec.Encode(f.Body)
		if errors.Is(err, avro.ErrTooLarge) {
			// Refused now, so that nothing unsendable is ever committed.
			return head, a, fault.TooLarge("the fact %s would be larger than %d bytes", f.Body.FactName(), avro.MaxRecord).Because(err)
		}
		if err != nil {
			return head, a, fmt.Errorf("state %s: %w", f.Body.FactName(), err)
		}
		id, err := uuid.NewV7()
		if err != nil {
			return head, a, fmt.Errorf("make an event id: %w", err)
		}
		at := f.OccurredAt
		if at.IsZero() {
			at = now
		}
		e := event.Envelope{
			ID: id.String(), Source: j.cfg.Source, Type: name, SchemaVersion: version,
			Aggregate: event.Aggregate{Type: kind, ID: req.AggregateID}, Version: head.Version + 1, Epoch: epoch,
			Key: key, Partition: partition, OccurredAt: at.UTC().Truncate(time.Microsecond), RecordedAt: now,
			CausationID: cause.CausationID, CorrelationID: cause.CorrelationID,
			TraceParent: carrier["traceparent"], TraceState: carrier["tracestate"],
		}
		if err := e.Validate(); err != nil {
			return head, a, fmt.Errorf("state %s: %w", name, err)
		}
		head = Head{Version: e.Version, Epoch: epoch, EventID: e.ID, RecordedAt: now}
		versions[i], ids[i], names[i], schemas[i], occurred[i], payloads[i] = e.Version, e.ID, name, int32(version), e.OccurredAt, payload
	}
	a.args = []any{
		partition, kind, req.AggregateID, epoch, key, now, cause.CausationID, cause.CorrelationID, carrier["traceparent"], carrier["tracestate"],
	}
	if len(facts) == 1 {
		a.sql, a.args = insertFact, append(a.args, versions[0], ids[0], names[0], schemas[0], occurred[0], payloads[0])
	} else {
		a.sql, a.args = insertFacts, append(a.args, versions, ids, names, schemas, occurred, payloads)
	}
	return head, a, nil
}

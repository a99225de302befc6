package journal

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

// Append states facts of an aggregate in the caller's transaction: it locks the
// aggregate in a round trip of its own and queues the rest into write, which the
// caller commits with tx. decide may state nothing. An aggregate that does not
// exist states nothing. Call appended after the commit. The caller makes sure
// that running it twice does no harm.
func Append[S any](
	ctx context.Context, j *Journal, tx *postgres.BatchTx, write *pgx.Batch, table *Table[S], id, cause string,
	decide func(state *S, now time.Time) ([]Fact, error),
) (appended func(), err error) {
	req := Request{Method: "Append", AggregateID: id}
	state := table.New(id)
	opened, err := open(ctx, tx, table.Lock, req, state)
	if err != nil {
		return nil, err
	}
	if opened.stopped != nil {
		return nil, refusal(j.cfg.Source, *opened.stopped)
	}
	if opened.head.Version == 0 {
		return func() {}, nil
	}
	now := opened.now
	if now.Before(opened.head.RecordedAt) {
		now = opened.head.RecordedAt
	}
	facts, err := decide(state, now)
	if err != nil || len(facts) == 0 {
		return func() {}, err
	}
	ctx = rpc.WithCause(ctx, rpc.Cause{CausationID: cause, CorrelationID: id})
	head, rows, err := j.rows(ctx, table.Type, req, table.Key(state), opened.head, opened.epoch, now, facts)
	if err != nil {
		return nil, err
	}
	table.Save(write, state, head, false)
	rows.queue(write)
	return j.signal, nil
}

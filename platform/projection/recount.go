package projection

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// recount counts anew what the copy has of a partition of a source: those of
// the owner's facts that are applied or wait, as one snapshot has them. It is
// for copies that were made without counting, and when nothing nearer explains
// a difference.
func (p *Projection[S]) recount(ctx context.Context, j job) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("recount: %w", err)
	}
	defer conn.Release()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("recount: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var text []byte
	if err := tx.QueryRow(ctx, "SELECT books FROM position WHERE partition = $1", j.partition).Scan(&text); err != nil {
		return fmt.Errorf("recount: %w", err)
	}
	var then completeness.Books
	if err := json.Unmarshal(text, &then); err != nil {
		return fmt.Errorf("recount: %w", err)
	}
	found := map[string]completeness.Totals{}
	for from := int64(1); from > 0; {
		facts, next, err := p.cfg.Journal.Range(ctx, j.source, j.partition, from, 0)
		if err != nil {
			return err
		}
		if err := p.recountPage(ctx, tx, j, facts, found); err != nil {
			return fmt.Errorf("recount: %w", err)
		}
		from = next
	}
	if err := tx.Rollback(ctx); err != nil {
		return fmt.Errorf("recount: %w", err)
	}
	return p.hold(ctx, j.partition, func(h *held[S]) error {
		book := h.at.books.Of(j.source)
		counted := map[string]completeness.Totals{}
		for epoch, now := range book.Totals { // what was counted since the snapshot
			before := then.Of(j.source).Totals[epoch]
			counted[epoch] = completeness.Totals{Count: now.Count - before.Count, Sum: now.Sum.Minus(before.Sum)}
		}
		for epoch, t := range found {
			if epoch >= book.Epoch {
				since := counted[epoch]
				counted[epoch] = completeness.Totals{Count: t.Count + since.Count, Sum: t.Sum.Plus(since.Sum)}
			}
		}
		book.Totals, h.noted = counted, true
		return nil
	})
}

// recountPage adds those of the facts that the copy has.
func (p *Projection[S]) recountPage(ctx context.Context, tx pgx.Tx, j job, facts []event.Fact, found map[string]completeness.Totals) error {
	ids, references := make([]string, len(facts)), make([]string, len(facts))
	for i, f := range facts {
		it := item{fact: f}
		ids[i], references[i] = f.Key, it.reference(j.partition)
	}
	versions := map[string]map[string]*fold.Applied{}
	rows, err := tx.Query(ctx, "SELECT order_id, applied FROM state WHERE order_id = ANY($1::text[])", ids)
	if err != nil {
		return err
	}
	var id, reference string
	var text []byte
	if _, err = pgx.ForEachRow(rows, []any{&id, &text}, func() error {
		doc, err := fold.OpenVersions(text)
		versions[id] = doc.Aggregates
		return err
	}); err != nil {
		return err
	}
	waits := map[string]bool{}
	if rows, err = tx.Query(ctx, selectParked, references); err != nil {
		return err
	}
	if _, err = pgx.ForEachRow(rows, []any{&reference}, func() error { waits[reference] = true; return nil }); err != nil {
		return err
	}
	for i, f := range facts {
		if waits[references[i]] || versions[f.Key][f.Aggregate.String()].Covers(f.Envelope) {
			found[f.Epoch] = found[f.Epoch].With(f.Envelope)
		}
	}
	return nil
}

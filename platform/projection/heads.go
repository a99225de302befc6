package projection

import (
	"context"
	"fmt"
	"hash/maphash"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// entry is an aggregate as the copy has it.
type entry struct {
	order  string
	record *fold.Applied
}

const (
	selectEntries = `SELECT m.aggregate_type, m.aggregate_id, m.order_id, s.applied
		FROM unnest($1::text[], $2::text[]) AS u(t, i)
		JOIN member m ON m.aggregate_type = u.t AND m.aggregate_id = u.i
		JOIN state s ON s.order_id = m.order_id`
	selectMembers = `SELECT m.aggregate_id, m.order_id FROM member m JOIN state s ON s.order_id = m.order_id
		WHERE s.partition = $1 AND m.aggregate_type = $2`
)

// compareHeads pages through the newest events of a partition at their owner.
// What is behind is fed, what differs is refolded from the journals, and what
// the owner does not have is removed.
func (p *Projection[S]) compareHeads(ctx context.Context, j job) error {
	seed, seen := maphash.MakeSeed(), map[uint64]struct{}{}
	mended := 0
	for page := ""; ; {
		heads, next, err := p.cfg.Journal.Heads(ctx, j.source, j.partition, page)
		if err != nil {
			return err
		}
		for _, h := range heads {
			seen[maphash.String(seed, h.Aggregate.ID)] = struct{}{}
		}
		n, err := p.mendPage(ctx, j, heads)
		if err != nil {
			return err
		}
		if mended += n; next == "" {
			break
		}
		page = next
	}
	ghosts, err := p.strangers(ctx, j, func(id string) bool { _, ok := seen[maphash.String(seed, id)]; return ok })
	if err != nil {
		return err
	}
	for a, order := range ghosts {
		// It may have begun after its place in the list was passed.
		facts, err := p.cfg.Journal.Events(ctx, a, 1, 1)
		if err != nil {
			return err
		}
		if len(facts) > 0 && facts[0].Key == order {
			continue
		}
		if err := p.refold(ctx, order); err != nil {
			return err
		}
		mended++
	}
	p.healed(ctx, j, mended)
	return nil
}

// mendPage brings the aggregates of one page to where their owner is.
func (p *Projection[S]) mendPage(ctx context.Context, j job, heads []event.Token) (mended int, err error) {
	entries, err := p.entries(ctx, heads)
	if err != nil {
		return 0, err
	}
	for _, h := range heads {
		e := entries[h.Aggregate]
		stands, err := p.stands(ctx, e.record, h)
		if err != nil {
			return mended, err
		}
		if stands {
			continue
		}
		if behind := e.record == nil || e.record.Version < h.Version && e.record.Epoch <= h.Epoch; behind {
			err = p.catchUp(ctx, j, h, e)
		} else {
			err = p.refold(ctx, e.order)
		}
		if err != nil {
			return mended, err
		}
		mended++
	}
	return mended, nil
}

// stands reports whether the aggregate is where its owner is. What waits to be
// mended stands too: others see to that.
func (p *Projection[S]) stands(ctx context.Context, record *fold.Applied, head event.Token) (bool, error) {
	if record == nil || record.Version < head.Version {
		return false, nil
	}
	if record.Version > head.Version { // the reader may have seen more since
		facts, err := p.cfg.Journal.Events(ctx, head.Aggregate, record.Version, record.Version)
		if err != nil || len(facts) == 0 {
			return false, err
		}
		head = facts[0].Token()
	}
	same, _ := record.Holds(head.Version, head.EventID)
	return same && record.Epoch == head.Epoch && (record.Parked == "" || record.Parked == fold.Poison), nil
}

// catchUp feeds an aggregate what it is behind. If the owner's versions do not
// continue what is here, the order is refolded.
func (p *Projection[S]) catchUp(ctx context.Context, j job, head event.Token, e entry) error {
	for e.record == nil || e.record.Version < head.Version {
		from := int64(1)
		if e.record != nil {
			from = max(e.record.Version, 1) // the last one too: it must be the same
		}
		facts, err := p.cfg.Journal.Events(ctx, head.Aggregate, from, from+healPage)
		if err != nil {
			return err
		}
		if len(facts) == 0 {
			return errStillMissing
		}
		if e.record != nil && e.record.Version > 0 && !e.record.Covers(facts[0].Envelope) {
			return p.refold(ctx, e.order)
		}
		if err := p.hold(ctx, j.partition, func(h *held[S]) error { _, err := h.feed(ctx, facts); return err }); err != nil {
			return fmt.Errorf("feed what is behind: %w", err)
		}
		entries, err := p.entries(ctx, []event.Token{head})
		if err != nil {
			return err
		}
		before := e
		e = entries[head.Aggregate]
		switch {
		case e.record == nil:
			return errOtherOrder
		case e.record.Parked != "" && e.record.Parked != fold.Gap:
			return nil // it stands still, and says so
		case before.record != nil && before.record.Version == e.record.Version:
			return errStillMissing
		}
	}
	return nil
}

// entries looks up what the copy has of some aggregates.
func (p *Projection[S]) entries(ctx context.Context, tokens []event.Token) (map[event.Aggregate]entry, error) {
	types, ids := make([]string, len(tokens)), make([]string, len(tokens))
	for i, t := range tokens {
		types[i], ids[i] = t.Type, t.ID
	}
	rows, err := p.pool.Query(ctx, selectEntries, types, ids)
	if err != nil {
		return nil, fmt.Errorf("look up aggregates: %w", err)
	}
	found := map[event.Aggregate]entry{}
	var a event.Aggregate
	var order string
	var text []byte
	_, err = pgx.ForEachRow(rows, []any{&a.Type, &a.ID, &order, &text}, func() error {
		doc, err := fold.OpenVersions(text)
		if record := doc.Aggregates[a.String()]; record != nil && (found[a].record == nil || record.Version > found[a].record.Version) {
			found[a] = entry{order, record}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look up aggregates: %w", err)
	}
	return found, nil
}

// strangers lists the aggregates of a partition and source that are not known.
func (p *Projection[S]) strangers(ctx context.Context, j job, known func(id string) bool) (map[event.Aggregate]string, error) {
	rows, err := p.pool.Query(ctx, selectMembers, j.partition, j.source)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	strangers := map[event.Aggregate]string{}
	var id, order string
	_, err = pgx.ForEachRow(rows, []any{&id, &order}, func() error {
		if !known(id) {
			strangers[event.Aggregate{Type: j.source, ID: id}] = order
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	return strangers, nil
}

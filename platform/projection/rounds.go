package projection

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// rounds is what the comparison that goes on all the time found.
type rounds struct {
	mu        sync.Mutex
	startedAt time.Time
	endedAt   time.Time // of the last whole round
	orders    int64     // compared in this round
	before    int64     // and in the last whole one
	behind    string
	differ    map[string]seenDifference // by order, table, key and field
	owners    tallies                   // of this round
	ended     tallies                   // and of the last whole one
}

type seenDifference struct {
	Difference
	at time.Time
}

func (d Difference) name() string {
	return strings.Join([]string{d.Order, d.Table, d.Key, d.Field}, "\x00")
}

const (
	roundTick = 5 * time.Second
	// defaultReconcileRate is how many orders a second are compared all the time.
	defaultReconcileRate = 2
)

// reconcileAlways compares a few orders a second for as long as the context lasts:
// those of the partitions that this process reads, so that replicas share the work.
func (p *Projection[S]) reconcileAlways(ctx context.Context) error {
	rate := p.cfg.ReconcileRate
	if rate == 0 {
		rate = defaultReconcileRate
	}
	if rate < 0 || p.cfg.Journal == nil {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(roundTick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := p.reconcileSome(ctx, rate*int(roundTick/time.Second)); err != nil && ctx.Err() == nil {
			p.cfg.Log.Warn("orders cannot be compared with their owners now", "view", p.view.Name, "error", err)
		}
	}
}

// reconcileSome compares the next n orders.
func (p *Projection[S]) reconcileSome(ctx context.Context, n int) error {
	from := p.reads.Load()
	at := p.answering()
	if !from.ready || at.own.schema != from.generation.schema {
		return nil // nothing of ours answers
	}
	partitions := at.assigned()
	if len(partitions) == 0 {
		return nil
	}
	r := &p.rounds
	r.mu.Lock()
	behind := r.behind
	if r.startedAt.IsZero() {
		r.startedAt = time.Now()
	}
	r.mu.Unlock()
	var ids []string
	rows, err := at.pool.Query(ctx, "SELECT order_id FROM state WHERE order_id > $1 AND partition = ANY($2::integer[]) ORDER BY order_id LIMIT $3", behind, partitions, n)
	if err == nil {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return fmt.Errorf("list orders: %w", err)
	}
	page, err := at.storedSome(ctx, ids)
	if err != nil {
		return err
	}
	report := &Report{Owners: at.tallies()}
	if err := at.reconcilePage(ctx, page, report); err != nil {
		return err
	}
	for _, d := range r.note(ids, report, len(ids) < n) {
		p.cfg.Log.ErrorContext(ctx, "a read model is not what its owners say", "generation", at.own.String(),
			"order", d.Order, "table", d.Table, "key", d.Key, "field", d.Field)
	}
	return nil
}

// note enters what was compared and returns the differences that are new.
func (r *rounds) note(ids []string, report *Report, ended bool) (news []Difference) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	known := map[string]seenDifference{}
	for name, d := range r.differ {
		if !slices.Contains(ids, d.Order) {
			known[name] = d
		}
	}
	for _, d := range report.Differences {
		seen, ok := r.differ[d.name()]
		if !ok {
			seen = seenDifference{d, now}
			news = append(news, d)
		}
		if len(known) < maxDiffering {
			known[d.name()] = seen
		}
	}
	r.differ, r.orders = known, r.orders+int64(len(ids))
	r.owners = r.owners.with(report.Owners)
	if ended {
		r.endedAt, r.before, r.startedAt, r.orders, r.behind = now, r.orders, now, 0, ""
		r.ended, r.owners = r.owners, nil
	} else {
		r.behind = ids[len(ids)-1]
	}
	return news
}

// assigned are the partition numbers that this process reads.
func (p *Projection[S]) assigned() []int32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var numbers []int32
	for number := range p.partitions {
		numbers = append(numbers, number)
	}
	return numbers
}

package timeline

import (
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// The queries below are queued into the batch of projection.Read, so that they
// share a snapshot with the freshness of the answer. Each sets its result from
// nothing, because a read that waits runs more than once.

const selectOrder = `SELECT document FROM orders WHERE order_id = $1`

func documents(rows pgx.Rows) ([]Document, error) {
	var docs []Document
	var text string
	_, err := pgx.ForEachRow(rows, []any{&text}, func() error {
		d, err := openDocument(text)
		if err != nil {
			return err
		}
		docs = append(docs, *d)
		return nil
	})
	return docs, err
}

// place is where a page of entries ended: entries are sorted by business time,
// then by the time they were recorded, then by event id.
type place struct {
	At       time.Time `json:"a"`
	Recorded time.Time `json:"r"`
	Event    string    `json:"e"`
}

// Entry is a stored entry.
type Entry struct {
	EntryRow
	OrderID       string
	EventID       string
	AggregateType string
	AggregateID   string
	Version       int64
}

const (
	entryColumns = `SELECT order_id, event_id, aggregate_type, aggregate_id, version, customer_id, kind, fact, summary, actor,
			occurred_at, time_estimated, recorded_at, amount, currency, trace_id
		FROM entries WHERE `
	entriesOfCustomer = `customer_id = $1`
	entriesOfOrder    = `order_id = $1`
)

// queueEntries reads a page of entries, newest business time first, behind a
// place or from the start.
func queueEntries(b *pgx.Batch, whose, id string, kinds []int32, behind *place, limit int, found *[]Entry) {
	s := postgres.Statement{SQL: entryColumns + whose, Args: []any{id}}
	if len(kinds) > 0 {
		s.Add(" AND kind = ANY(?)", kinds)
	}
	if behind != nil {
		s.Add(" AND (occurred_at, recorded_at, event_id) < (?, ?, ?)", behind.At, behind.Recorded, behind.Event)
	}
	s.Add(" ORDER BY occurred_at DESC, recorded_at DESC, event_id DESC LIMIT ?", limit)
	b.Queue(s.SQL, s.Args...).Query(func(rows pgx.Rows) error {
		var err error
		*found, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (e Entry, err error) {
			err = r.Scan(&e.OrderID, &e.EventID, &e.AggregateType, &e.AggregateID, &e.Version, &e.CustomerID, &e.Kind, &e.Fact,
				&e.Summary, &e.Actor, &e.OccurredAt, &e.TimeEstimated, &e.RecordedAt, &e.Amount, &e.Currency, &e.TraceID)
			return e, err
		})
		return err
	})
}

// overview is what is known of a customer.
type overview struct {
	known        bool
	orders, open int64
	lastAt       time.Time
	newest       []Document
	contact      *Document
	spend        []facts.Money
}

const (
	selectCounts  = `SELECT coalesce(sum(orders), 0)::bigint, coalesce(sum(open), 0)::bigint FROM customers WHERE customer_id = $1`
	selectLast    = `SELECT last_event_at FROM orders WHERE customer_id = $1 ORDER BY last_event_at DESC LIMIT 1`
	selectOpen    = `SELECT document FROM orders WHERE customer_id = $1 AND open ORDER BY placed_at DESC NULLS LAST, order_id LIMIT 20`
	selectContact = `SELECT document FROM orders WHERE customer_id = $1 AND contact_at IS NOT NULL ORDER BY contact_at DESC, order_id LIMIT 1`
	selectSpend   = `SELECT currency, sum(net)::bigint FROM spend WHERE customer_id = $1 GROUP BY currency HAVING sum(net) <> 0 ORDER BY currency`
)

func queueOverview(b *pgx.Batch, customer string, o *overview) {
	b.Queue(selectCounts, customer).QueryRow(func(r pgx.Row) error {
		*o = overview{}
		return r.Scan(&o.orders, &o.open)
	})
	b.Queue(selectLast, customer).Query(func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&o.lastAt}, func() error { o.known = true; return nil })
		return err
	})
	b.Queue(selectOpen, customer).Query(func(rows pgx.Rows) (err error) {
		o.newest, err = documents(rows)
		return err
	})
	b.Queue(selectContact, customer).Query(func(rows pgx.Rows) error {
		docs, err := documents(rows)
		if len(docs) == 1 {
			o.contact = &docs[0]
		}
		return err
	})
	b.Queue(selectSpend, customer).Query(func(rows pgx.Rows) error {
		var m facts.Money
		_, err := pgx.ForEachRow(rows, []any{&m.Currency, &m.Amount}, func() error { o.spend = append(o.spend, m); return nil })
		return err
	})
}

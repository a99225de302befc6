package operations

import (
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// The queries below are queued into the batch of projection.Read, so that they
// share a snapshot with the freshness of the answer. Each sets its result from
// nothing, because a read that waits runs more than once. The clock is always
// an argument.

// workFilter selects work items that show at an instant.
type workFilter struct {
	now         time.Time
	kinds       []int32
	minSeverity int32
	warehouse   string
	channel     string
	order       string
	overdueOnly bool
}

// workPlace is where a page of work items ended, and the instant that all its
// pages are about.
type workPlace struct {
	Now      time.Time `json:"n"`
	Severity int64     `json:"s,omitempty"`
	At       time.Time `json:"a"`
	Order    string    `json:"o"`
	Kind     int64     `json:"k"`
	Subject  string    `json:"u"`
}

// item is a work item at an instant.
type item struct {
	WorkRow
	effective int64 // severity now
}

// place is where a page that ends with the item ended.
func (i item) place(now time.Time, sort workSort) workPlace {
	p := workPlace{Now: now, At: i.Deadline, Order: i.OrderID, Kind: i.Kind, Subject: i.SubjectID}
	switch sort {
	case bySince:
		p.At = i.Since
	case bySeverity:
		p.Severity = i.effective
	}
	return p
}

type workSort int

const (
	byDeadline workSort = iota
	bySince
	bySeverity
)

// keys are the columns each order sorts by; all of them ascend.
var keys = map[workSort]string{
	byDeadline: "deadline, order_id, kind, subject_id",
	bySince:    "since, order_id, kind, subject_id",
	bySeverity: "-effective, deadline, order_id, kind, subject_id",
}

const selectWork = `SELECT order_id, kind, subject_id, customer_id, reason, channel, warehouse, since, shows_at, deadline,
		severity, late_severity, amount, currency, effective
	FROM (SELECT *, CASE WHEN deadline <= $1 THEN late_severity ELSE severity END AS effective FROM work_items) w WHERE shows_at <= $1`

func queueWork(b *pgx.Batch, f workFilter, sort workSort, behind *workPlace, limit int, found *[]item) {
	s := postgres.Statement{SQL: selectWork, Args: []any{f.now}}
	if len(f.kinds) > 0 {
		s.Add(" AND kind = ANY(?)", f.kinds)
	}
	if f.minSeverity > 0 {
		s.Add(" AND effective >= ?", f.minSeverity)
	}
	if f.warehouse != "" {
		s.Add(" AND warehouse = ?", f.warehouse)
	}
	if f.channel != "" {
		s.Add(" AND channel = ?", f.channel)
	}
	if f.order != "" {
		s.Add(" AND order_id = ?", f.order)
	}
	if f.overdueOnly {
		s.Add(" AND deadline <= $1")
	}
	if behind != nil {
		place, marks := []any{behind.At, behind.Order, behind.Kind, behind.Subject}, "?, ?, ?, ?"
		if sort == bySeverity {
			place, marks = append([]any{-behind.Severity}, place...), "?, "+marks
		}
		s.Add(" AND ("+keys[sort]+") > ("+marks+")", place...)
	}
	s.Add(" ORDER BY "+keys[sort]+" LIMIT ?", limit)
	b.Queue(s.SQL, s.Args...).Query(func(rows pgx.Rows) error {
		var err error
		*found, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (i item, err error) {
			err = r.Scan(&i.OrderID, &i.Kind, &i.SubjectID, &i.CustomerID, &i.Reason, &i.Channel, &i.Warehouse, &i.Since, &i.ShowsAt,
				&i.Deadline, &i.Severity, &i.Late, &i.Amount, &i.Currency, &i.effective)
			return i, err
		})
		return err
	})
}

// selectPassed is the last instant at which the clock alone changed the work
// items of an order.
const selectPassed = `SELECT max(t) FROM work_items, LATERAL (VALUES (shows_at), (deadline)) AS v(t) WHERE order_id = $1 AND t <= $2`

func queuePassed(b *pgx.Batch, order string, now time.Time, passed **time.Time) {
	b.Queue(selectPassed, order, now).QueryRow(func(r pgx.Row) error {
		*passed = nil
		return r.Scan(passed)
	})
}

// workCount counts the work items of one kind.
type workCount struct {
	kind           int32
	count, overdue int64
}

const (
	countWork = `SELECT kind, count(*), count(*) FILTER (WHERE deadline <= $1) FROM work_items
		WHERE shows_at <= $1 AND ($2 = '' OR warehouse = $2) GROUP BY kind ORDER BY kind`
	// nextWork is when the clock alone will change the counts.
	nextWork = `SELECT min(t) FROM (
		(SELECT shows_at AS t FROM work_items WHERE shows_at > $1 ORDER BY shows_at LIMIT 1) UNION ALL
		(SELECT deadline FROM work_items WHERE deadline > $1 ORDER BY deadline LIMIT 1)) u`
)

func queueBoard(b *pgx.Batch, now time.Time, warehouse string, counts *[]workCount, next **time.Time) {
	b.Queue(countWork, now, warehouse).Query(func(rows pgx.Rows) error {
		*counts = nil
		var c workCount
		_, err := pgx.ForEachRow(rows, []any{&c.kind, &c.count, &c.overdue}, func() error { *counts = append(*counts, c); return nil })
		return err
	})
	b.Queue(nextWork, now).QueryRow(func(r pgx.Row) error {
		*next = nil
		return r.Scan(next)
	})
}

// openPlace is where a page of open orders ended.
type openPlace struct {
	Placed    time.Time `json:"p"`
	Order     string    `json:"o"`
	Warehouse string    `json:"w"`
}

const selectOpen = `SELECT order_id, warehouse, customer_id, status, on_hold, placed_at, promised_at, total, currency, channel
	FROM open_orders WHERE true`

func queueOpen(b *pgx.Batch, warehouse string, behind *openPlace, limit int, found *[]OpenOrderRow) {
	s := postgres.Statement{SQL: selectOpen}
	if warehouse != "" {
		s.Add(" AND warehouse = ?", warehouse)
	}
	if behind != nil {
		s.Add(" AND (placed_at, order_id, warehouse) > (?, ?, ?)", behind.Placed, behind.Order, behind.Warehouse)
	}
	s.Add(" ORDER BY placed_at, order_id, warehouse LIMIT ?", limit)
	b.Queue(s.SQL, s.Args...).Query(func(rows pgx.Rows) error {
		var err error
		*found, err = pgx.CollectRows(rows, pgx.RowToStructByName[OpenOrderRow])
		return err
	})
}

const selectWarehouses = `SELECT warehouse, sum(open_orders)::bigint AS open_orders, sum(shipments_planned)::bigint AS shipments_planned,
		sum(shipments_in_transit)::bigint AS shipments_in_transit
	FROM warehouses GROUP BY warehouse HAVING sum(open_orders) <> 0 OR sum(shipments_planned) <> 0 OR sum(shipments_in_transit) <> 0
	ORDER BY open_orders DESC, warehouse LIMIT $1`

func queueWarehouses(b *pgx.Batch, limit int, found *[]WarehouseSum) {
	b.Queue(selectWarehouses, limit).Query(func(rows pgx.Rows) error {
		var err error
		*found, err = pgx.CollectRows(rows, pgx.RowToStructByName[WarehouseSum])
		return err
	})
}

const selectThroughput = `SELECT date_trunc($1, hour, 'UTC') AS hour, '' AS channel, sum(placed)::bigint AS placed, sum(confirmed)::bigint AS confirmed,
		sum(shipped)::bigint AS shipped, sum(delivered)::bigint AS delivered, sum(completed)::bigint AS completed, sum(cancelled)::bigint AS cancelled
	FROM throughput WHERE hour >= $2 AND hour < $3 AND ($4 = '' OR channel = $4) GROUP BY 1
	HAVING sum(placed) <> 0 OR sum(confirmed) <> 0 OR sum(shipped) <> 0 OR sum(delivered) <> 0 OR sum(completed) <> 0 OR sum(cancelled) <> 0
	ORDER BY 1`

func queueThroughput(b *pgx.Batch, unit string, from, to time.Time, channel string, found *[]ThroughputSum) {
	b.Queue(selectThroughput, unit, from, to, channel).Query(func(rows pgx.Rows) error {
		var err error
		*found, err = pgx.CollectRows(rows, pgx.RowToStructByName[ThroughputSum])
		return err
	})
}

const (
	selectStatuses = `SELECT CASE WHEN $2 THEN channel ELSE '' END AS channel, status, sum(orders)::bigint AS orders FROM statuses
		WHERE ($1 = '' OR channel = $1) GROUP BY 1, 2 HAVING sum(orders) <> 0 ORDER BY 1, 2`
	selectMoney = `SELECT channel, method, currency, sum(payments)::bigint AS payments, sum(requested)::bigint AS requested,
			sum(captured)::bigint AS captured, sum(refunded)::bigint AS refunded
		FROM money WHERE ($1 = '' OR channel = $1) GROUP BY 1, 2, 3 HAVING sum(payments) <> 0 ORDER BY 1, 2, 3`
)

// queueStatuses counts orders by status, per channel or over all of them.
func queueStatuses(b *pgx.Batch, channel string, perChannel bool, found *[]StatusSum) {
	b.Queue(selectStatuses, channel, perChannel).Query(func(rows pgx.Rows) error {
		var err error
		*found, err = pgx.CollectRows(rows, pgx.RowToStructByName[StatusSum])
		return err
	})
}

func queueMoney(b *pgx.Batch, channel string, found *[]MoneySum) {
	b.Queue(selectMoney, channel).Query(func(rows pgx.Rows) error {
		var err error
		*found, err = pgx.CollectRows(rows, pgx.RowToStructByName[MoneySum])
		return err
	})
}

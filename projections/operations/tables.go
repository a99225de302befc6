package operations

import "time"

// OpenOrderRow is a row of the table open_orders: an open order, once for every
// warehouse that has work to do for it.
type OpenOrderRow struct {
	OrderID    string     `db:"order_id,key"`
	Warehouse  string     `db:"warehouse,key"`
	CustomerID string     `db:"customer_id"`
	Status     string     `db:"status"`
	OnHold     bool       `db:"on_hold"`
	PlacedAt   time.Time  `db:"placed_at"`
	PromisedAt *time.Time `db:"promised_at"`
	Total      int64      `db:"total"`
	Currency   string     `db:"currency"`
	Channel    string     `db:"channel"`
}

func openOrders(id string, s *State, put func(OpenOrderRow)) {
	st := s.standing()
	if s.Order == nil || s.Order.PlacedAt == nil || !st.open() {
		return
	}
	for _, warehouse := range s.warehouses() {
		put(OpenOrderRow{
			OrderID: id, Warehouse: warehouse, CustomerID: s.customer(), Status: st.status, OnHold: s.Order.HeldAt != nil,
			PlacedAt: *s.Order.PlacedAt, PromisedAt: s.Order.PromisedAt, Total: s.Order.Total.Amount, Currency: s.Order.Total.Currency,
			Channel: s.Order.Channel,
		})
	}
}

// WarehouseSum counts what a warehouse has to do.
type WarehouseSum struct {
	Warehouse string `db:"warehouse,key"`
	Open      int64  `db:"open_orders,sum"`
	Planned   int64  `db:"shipments_planned,sum"`
	Transit   int64  `db:"shipments_in_transit,sum"`
}

func warehouseSums(id string, s *State, add func(WarehouseSum)) {
	openOrders(id, s, func(r OpenOrderRow) { add(WarehouseSum{Warehouse: r.Warehouse, Open: 1}) })
	for _, p := range s.Shipments {
		switch p.Step {
		case "planned":
			add(WarehouseSum{Warehouse: p.Warehouse, Planned: 1})
		case "dispatched":
			add(WarehouseSum{Warehouse: p.Warehouse, Transit: 1})
		}
	}
}

// ThroughputSum counts what happened to orders in one hour of business time.
type ThroughputSum struct {
	Hour      time.Time `db:"hour,key"`
	Channel   string    `db:"channel,key"`
	Placed    int64     `db:"placed,sum"`
	Confirmed int64     `db:"confirmed,sum"`
	Shipped   int64     `db:"shipped,sum"`
	Delivered int64     `db:"delivered,sum"`
	Completed int64     `db:"completed,sum"`
	Cancelled int64     `db:"cancelled,sum"`
}

func throughputSums(_ string, s *State, add func(ThroughputSum)) {
	at := func(t *time.Time, sum ThroughputSum) {
		if t != nil {
			sum.Hour, sum.Channel = t.UTC().Truncate(time.Hour), s.channel()
			add(sum)
		}
	}
	st := s.standing()
	at(st.shippedAt, ThroughputSum{Shipped: 1})
	at(st.deliveredAt, ThroughputSum{Delivered: 1})
	if o := s.Order; o != nil {
		at(o.PlacedAt, ThroughputSum{Placed: 1})
		at(o.ConfirmedAt, ThroughputSum{Confirmed: 1})
		at(o.CompletedAt, ThroughputSum{Completed: 1})
		at(o.CancelledAt, ThroughputSum{Cancelled: 1})
	}
}

// StatusSum counts orders by where they stand.
type StatusSum struct {
	Channel string `db:"channel,key"`
	Status  string `db:"status,key"`
	Orders  int64  `db:"orders,sum"`
}

func statusSums(_ string, s *State, add func(StatusSum)) {
	if s.Order != nil {
		add(StatusSum{Channel: s.Order.Channel, Status: s.standing().status, Orders: 1})
	}
}

// MoneySum adds up the payments of one method, in minor units.
type MoneySum struct {
	Channel   string `db:"channel,key"`
	Method    string `db:"method,key"`
	Currency  string `db:"currency,key"`
	Payments  int64  `db:"payments,sum"`
	Requested int64  `db:"requested,sum"`
	Captured  int64  `db:"captured,sum"`
	Refunded  int64  `db:"refunded,sum"`
}

func moneySums(_ string, s *State, add func(MoneySum)) {
	for _, p := range s.Payments {
		add(MoneySum{
			Channel: s.channel(), Method: p.Method, Currency: p.Currency, Payments: 1,
			Requested: p.Requested, Captured: p.Captured, Refunded: p.Refunded,
		})
	}
}

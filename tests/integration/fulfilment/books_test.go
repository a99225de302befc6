package fulfilment

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
)

// book is what the owners say about one order in the end.
type book struct {
	state, attention, customer string
	ended, forced              bool
	payments                   []payment
	parcels                    []parcel
	lines                      []line
	fee                        int64
}

type payment struct {
	ID, Phase, Reference             string
	Captured, Refunded, Open, Voided int64
	Attempt                          *struct{ Key string }
}

type parcel struct {
	State string
	Lines []struct {
		ID       string
		Quantity int32
	}
}

type line struct {
	ID        string
	Quantity  int32
	UnitPrice struct{ Amount int64 }
}

// effect is what the provider did under one key.
type effect struct {
	key, kind string
	amount    int64
	approved  bool
	calls     int64
}

// net is what the payment service says the customer has paid.
func (b *book) net() (sum int64) {
	for _, p := range b.payments {
		sum += p.Captured - p.Refunded
	}
	return sum
}

// kept is what the customer has of the order, in money.
func (b *book) kept() (sum int64) {
	have := map[string]int32{}
	for _, p := range b.parcels {
		if p.State == "DELIVERED" {
			for _, l := range p.Lines {
				have[l.ID] += l.Quantity
			}
		}
	}
	for _, l := range b.lines {
		sum += int64(min(l.Quantity, have[l.ID])) * l.UnitPrice.Amount
	}
	if sum > 0 {
		sum += b.fee
	}
	return sum
}

// board waits until the operations view shows exactly the orders that need a
// person, and the timeline what a customer may know of it.
func (w *world) board(ctx context.Context) {
	w.t.Helper()
	var needed, shown map[string]bool
	same := until(ctx, settle, func() bool {
		needed = w.ids(ctx, "order", `SELECT id FROM process_instance WHERE attention <> ''`)
		shown = map[string]bool{}
		for token := ""; ; {
			page, err := w.to.Operations.ListWorkItems(ctx, &operationsv1.ListWorkItemsRequest{
				Kinds: []operationsv1.WorkKind{operationsv1.WorkKind_WORK_KIND_NEEDS_PERSON}, PageSize: 200, PageToken: token,
			})
			if err != nil {
				return false
			}
			for _, item := range page.GetWorkItems() {
				shown[item.GetOrderId()] = true
			}
			if token = page.GetNextPageToken(); token == "" {
				return maps.Equal(needed, shown)
			}
		}
	})
	if !same {
		w.t.Errorf("orders that need a person: %v; shown to operations: %v", needed, shown)
	}
	said, err := w.Entries(ctx, `fact = 'OrderNeedsAttention'`)
	if err != nil || said < int64(len(needed)) {
		w.t.Errorf("the timeline says %d times that somebody looks after an order (%v), for %d orders", said, err, len(needed))
	}
}

// byHand plays the person: steps that were refused for good are settled by word.
func (w *world) byHand(ctx context.Context) {
	w.t.Helper()
	for token := ""; ; {
		page, err := w.to.Processes.ListProcesses(ctx, &orderv1.ListProcessesRequest{NeedsPerson: true, PageSize: 100, PageToken: token})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, p := range page.GetProcesses() {
			w.met.add("given to a person", 1)
			detail, err := w.to.Processes.GetProcess(ctx, &orderv1.GetProcessRequest{OrderId: p.GetOrderId()})
			if err != nil {
				w.t.Fatal(err)
			}
			for _, step := range detail.GetSteps() {
				if step.GetStatus() != "refused" || !strings.Contains(p.GetAttention(), step.GetStep()) {
					continue
				}
				_, err := w.to.Processes.ForceStep(ctx, &orderv1.ForceStepRequest{
					Actor: "operator:test", OrderId: p.GetOrderId(), Step: step.GetStep(), Reason: "written off",
				})
				if err != nil {
					w.t.Fatal(err)
				}
				w.met.add("settled by a person", 1)
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			return
		}
	}
}

// balance compares the books of the three services with the provider's, and the
// read models with them.
func (w *world) balance(ctx context.Context, scripts []script) {
	w.t.Helper()
	books, effects := w.read(ctx), w.provider(ctx)
	ends := map[string]int{}
	for _, s := range scripts {
		b := books[s.id]
		if b == nil {
			w.t.Errorf("%s was placed and is gone", s.id)
			continue
		}
		if s.split {
			w.met.add("paid by voucher and card", 1)
		}
		complain := func(format string, args ...any) {
			w.t.Errorf("%s (%s, %q): %s: %+v %+v", s.id, b.state, b.attention, fmt.Sprintf(format, args...), b.payments, b.parcels)
		}
		for _, p := range b.payments {
			if trouble := w.compare(p, effects[p.ID], b.ended); trouble != "" {
				complain("%s; the provider did %+v", trouble, effects[p.ID])
			}
		}
		switch net := b.net(); {
		case !b.ended && b.attention == "":
			complain("it did not end and nobody is told")
		case b.attention != "":
			ends["with a person"]++
			if net > s.total {
				complain("charged %d of %d", net, s.total)
			}
			continue
		case b.state == "CANCELLED" && net != 0:
			complain("cancelled, and charged %d", net)
		case b.state == "COMPLETED" && net != b.kept() && !(b.forced && net < b.kept()):
			complain("charged %d for what is worth %d", net, b.kept())
		}
		ends[strings.ToLower(b.state)]++
		for _, p := range b.parcels {
			if b.state == "CANCELLED" && (p.State == "PLANNED" || p.State == "DISPATCHED") {
				complain("a parcel of a cancelled order is %s", p.State)
			}
		}
	}
	if len(books) != len(scripts) {
		w.t.Errorf("%d orders, %d were placed", len(books), len(scripts))
	}
	w.t.Logf("orders ended: %v", ends)
	w.commands(ctx, effects)
	w.views(ctx, books)
}

// compare says what the payment service and the provider disagree about, and
// what of an ended order is alive at the provider.
func (w *world) compare(p payment, did []effect, ended bool) string {
	sum := map[string]int64{}
	for _, e := range did {
		switch {
		case !e.approved && e.kind == "AUTHORIZE":
			w.met.add("provider declined", 1)
		case e.approved:
			sum[e.kind] += e.amount
		}
		if e.calls > 1 {
			w.met.add("provider's answer got lost and was asked for again", 1)
		}
		switch {
		case p.Reference == "tok_duplicate":
			w.met.add("provider answered twice", 1)
		case strings.HasPrefix(p.Reference, "tok_slow"):
			w.met.add("provider was slow", 1)
		}
	}
	if p.Reference == "tok_lapse_3602" && p.Phase == "VOIDED" {
		w.met.add("authorisations given back before they lapsed", 1)
	}
	w.met.add("voids at the provider", min(1, sum["VOID"]+sum["LATE_VOID"]))
	w.met.add("refunds at the provider", min(1, sum["REFUND"]))
	live := sum["AUTHORIZE"] - sum["CAPTURE"] - sum["VOID"] - sum["LATE_VOID"]
	switch {
	case sum["CAPTURE"] != p.Captured || sum["REFUND"] != p.Refunded:
		return fmt.Sprintf("the provider collected %d and gave back %d", sum["CAPTURE"], sum["REFUND"])
	case p.Attempt != nil:
		return "a call to the provider is open"
	case ended && live != 0:
		return fmt.Sprintf("%d are held at the provider for ever", live)
	}
	return ""
}

// commands checks that what the provider did was asked for by one step each, and
// that a step which is said to have had no effect had none.
func (w *world) commands(ctx context.Context, effects map[string][]effect) {
	w.t.Helper()
	status := map[string]string{}
	var id, how string
	w.Rows(ctx, "order", `SELECT request_id::text, status FROM process_command WHERE target = 'payment'`, []any{&id, &how}, func() { status[id] = how })
	took := map[string]bool{}
	for payment, all := range effects {
		for _, e := range all {
			if e.kind == "LATE_VOID" {
				continue // the payment service's own
			}
			switch how := status[e.key]; {
			case how == "":
				w.t.Errorf("the provider did %+v for payment %s, which no step asked for", e, payment)
			case e.approved && how != "done" && how != "forced":
				w.t.Errorf("the provider did %+v for payment %s, and its step is %s", e, payment, how)
			}
			took[e.key] = took[e.key] || e.approved
		}
	}
	w.t.Logf("%d commands to the payment service, %d effects at the provider", len(status), len(took))
}

// views compares the read models with the payments themselves.
func (w *world) views(ctx context.Context, books map[string]*book) {
	w.t.Helper()
	var captured, refunded int64
	spent := map[string]int64{}
	for _, b := range books {
		for _, p := range b.payments {
			captured, refunded = captured+p.Captured, refunded+p.Refunded
		}
		if n := b.net(); n != 0 {
			spent[b.customer] += n
		}
	}
	var shown, back int64
	w.Rows(ctx, "operations", `SELECT coalesce(sum(captured), 0)::bigint, coalesce(sum(refunded), 0)::bigint FROM `+w.table(ctx, "operations", "money"),
		[]any{&shown, &back}, func() {})
	if shown != captured || back != refunded {
		w.t.Errorf("operations shows %d collected and %d given back; the payments say %d and %d", shown, back, captured, refunded)
	}
	var customer string
	var net int64
	w.Rows(ctx, "timeline", `SELECT customer_id, sum(net)::bigint FROM `+w.table(ctx, "timeline", "spend")+` GROUP BY 1`, []any{&customer, &net}, func() {
		if net != spent[customer] {
			w.t.Errorf("the timeline says that %s paid %d; the payments say %d", customer, net, spent[customer])
		}
		delete(spent, customer)
	})
	for customer, n := range spent {
		w.t.Errorf("the timeline knows of no payment of %s, who paid %d", customer, n)
	}
	w.t.Logf("collected %d, given back %d, by the provider, the payments and both read models", captured, refunded)
}

func (w *world) table(ctx context.Context, view, name string) string {
	var schema string
	w.Rows(ctx, view, `SELECT schemaname FROM pg_tables WHERE tablename = '`+name+`'`, []any{&schema}, func() {})
	return schema + "." + name
}

// read reads the books of the three services.
func (w *world) read(ctx context.Context) map[string]*book {
	w.t.Helper()
	books := map[string]*book{}
	var id, customer, state, status, attention string
	var text []byte
	w.Rows(ctx, "order", `SELECT o.id, o.customer_id, o.state_name, o.state, p.status, p.attention
		  FROM orders AS o JOIN process_instance AS p ON p.id = o.id`, []any{&id, &customer, &state, &text, &status, &attention}, func() {
		var doc struct {
			Lines       []line
			ShippingFee struct{ Amount int64 }
		}
		w.decode(text, &doc)
		books[id] = &book{state: state, attention: attention, customer: customer, ended: status == "ended", lines: doc.Lines, fee: doc.ShippingFee.Amount}
	})
	for id := range w.ids(ctx, "order", `SELECT instance_id FROM process_audit WHERE action = 'force'`) {
		books[id].forced = true
	}
	w.Rows(ctx, "payment", `SELECT order_id, state FROM payments`, []any{&id, &text}, func() {
		var p payment
		w.decode(text, &p)
		books[id].payments = append(books[id].payments, p)
	})
	w.Rows(ctx, "shipment", `SELECT order_id, state FROM shipments`, []any{&id, &text}, func() {
		var p parcel
		w.decode(text, &p)
		books[id].parcels = append(books[id].parcels, p)
	})
	return books
}

// provider reads what the provider says it did, by payment.
func (w *world) provider(ctx context.Context) map[string][]effect {
	w.t.Helper()
	all := map[string][]effect{}
	var id string
	var e effect
	w.Rows(ctx, "payment", `SELECT payment_id, key, kind, amount, approved, calls FROM simulated_provider`,
		[]any{&id, &e.key, &e.kind, &e.amount, &e.approved, &e.calls}, func() { all[id] = append(all[id], e) })
	return all
}

func (w *world) decode(text []byte, into any) {
	w.t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		w.t.Fatal(err)
	}
}

package olistexpect

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// Check compares what the query services answer with the expectation and
// returns one line for each difference, sorted. The channel is the one under
// which the orders were imported.
func Check(ctx context.Context, timeline, operations grpc.ClientConnInterface, e *Expectation, channel string) ([]string, error) {
	var mu sync.Mutex
	var differences []string
	queries := timelinev1.NewTimelineServiceClient(timeline)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for id, want := range e.Orders {
		group.Go(func() error {
			found, err := checkOrder(groupCtx, queries, id, want)
			if err != nil {
				return fmt.Errorf("order %s: %w", id, err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, f := range found {
				differences = append(differences, "order "+id+": "+f)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	found, err := checkTotals(ctx, operationsv1.NewOperationsServiceClient(operations), e, channel)
	if err != nil {
		return nil, err
	}
	differences = append(differences, found...)
	if found, err = checkKept(ctx, operationsv1.NewOperationsServiceClient(operations), e, channel); err != nil {
		return nil, err
	}
	differences = append(differences, found...)
	slices.Sort(differences)
	return differences, nil
}

func checkOrder(ctx context.Context, queries timelinev1.TimelineServiceClient, id string, want *Order) (found []string, err error) {
	differ := func(what string, got, want any) {
		if got != want {
			found = append(found, fmt.Sprintf("%s is %v, want %v", what, got, want))
		}
	}
	answer, err := queries.GetOrderStatus(ctx, &timelinev1.GetOrderStatusRequest{OrderId: id})
	if err != nil {
		return nil, err
	}
	view := answer.GetOrder()
	differ("customer", view.GetCustomerId(), want.Customer)
	differ("status", strings.TrimPrefix(view.GetStatus().String(), "ORDER_STATUS_"), want.Status)
	differ("cancel reason", view.GetCancelReason(), want.Reason)
	// The rest of the files' words are words of this business too.
	for _, word := range []string{"invoiced", "processing", "canceled"} {
		if strings.Contains(view.String(), word) {
			found = append(found, "the status carries the files' word "+word)
		}
	}
	requested, captured := map[string]int64{}, map[string]int64{}
	for _, p := range view.GetPayments() {
		method := strings.TrimPrefix(p.GetMethod().String(), "PAYMENT_METHOD_")
		requested[method] += p.GetRequested().GetAmount()
		captured[method] += p.GetCaptured().GetAmount()
	}
	for method := range requested {
		differ(method+" requested", requested[method], want.Requested[method])
		differ(method+" captured", captured[method], want.Captured[method])
	}
	for method := range want.Requested {
		if _, ok := requested[method]; !ok {
			found = append(found, "no payment by "+method)
		}
	}
	shown, notes, err := entries(ctx, queries, id, want.Customer)
	if err != nil {
		return nil, err
	}
	found = append(found, notes...)
	slices.SortFunc(shown, compareFacts)
	for _, f := range want.Facts {
		if !slices.Contains(shown, f) {
			found = append(found, fmt.Sprintf("not shown: %+v", f))
		}
	}
	for _, f := range shown {
		if !slices.Contains(want.Facts, f) {
			found = append(found, fmt.Sprintf("shown, but not in the files: %+v", f))
		}
	}
	differ("number of entries", len(shown), len(want.Facts))
	return found, nil
}

// entries pages through the timeline of an order and notes what is wrong with
// its order.
func entries(ctx context.Context, queries timelinev1.TimelineServiceClient, id, customer string) (shown []Fact, notes []string, err error) {
	newer := ""
	for token := ""; ; {
		page, err := queries.ListOrderTimeline(ctx, &timelinev1.ListOrderTimelineRequest{OrderId: id, PageSize: 7, PageToken: token})
		if err != nil {
			return nil, nil, err
		}
		for _, entry := range page.GetEntries() {
			f := Fact{
				At: instant(entry.GetOccurredAt().AsTime()), Name: entry.GetFact(), Aggregate: entry.GetAggregateId(),
				Cents: entry.GetAmount().GetAmount(), Estimated: entry.GetTimeEstimated(),
			}
			if newer != "" && f.At > newer {
				notes = append(notes, fmt.Sprintf("%s at %s stands below an entry of %s", f.Name, f.At, newer))
			}
			newer = f.At
			if entry.GetActor() != "import" || entry.GetCustomerId() != customer || entry.GetOrderId() != id || entry.GetSummary() == "" {
				notes = append(notes, fmt.Sprintf("entry %v", entry))
			}
			shown = append(shown, f)
		}
		if token = page.GetNextPageToken(); token == "" {
			return shown, notes, nil
		}
	}
}

func checkTotals(ctx context.Context, queries operationsv1.OperationsServiceClient, e *Expectation, channel string) (found []string, err error) {
	totals, err := queries.GetTotals(ctx, &operationsv1.GetTotalsRequest{Channel: channel})
	if err != nil {
		return nil, fmt.Errorf("totals: %w", err)
	}
	states := map[string]int64{}
	for _, s := range totals.GetOrders() {
		if s.GetOrders() != 0 {
			states[strings.ToUpper(s.GetStatus())] += s.GetOrders()
		}
	}
	requested, captured, payments := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, m := range totals.GetMoney() {
		if m.GetCurrency() != "BRL" {
			found = append(found, "totals in "+m.GetCurrency())
		}
		method := strings.TrimPrefix(m.GetMethod().String(), "PAYMENT_METHOD_")
		requested[method] += m.GetRequested()
		captured[method] += m.GetCaptured()
		payments[method] += m.GetPayments()
	}
	for _, c := range []struct {
		what      string
		got, want map[string]int64
	}{
		{"orders by status", states, e.States}, {"requested", requested, e.Requested},
		{"captured", captured, e.Captured}, {"payments", payments, e.Payments},
	} {
		if !maps.Equal(c.got, c.want) {
			found = append(found, fmt.Sprintf("totals: %s are %v, want %v", c.what, c.got, c.want))
		}
	}
	return found, nil
}

// checkKept wants one work item for each payment that was collected for an order
// which is cancelled: the files know of no money given back.
func checkKept(ctx context.Context, queries operationsv1.OperationsServiceClient, e *Expectation, channel string) (found []string, err error) {
	want, got := map[string]int64{}, map[string]int64{}
	for id, o := range e.Orders {
		for _, f := range o.Facts {
			if o.Status == "CANCELLED" && f.Name == "PaymentCaptured" {
				want[id+" "+f.Aggregate] = f.Cents
			}
		}
	}
	for token := ""; ; {
		page, err := queries.ListWorkItems(ctx, &operationsv1.ListWorkItemsRequest{
			Kinds: []operationsv1.WorkKind{operationsv1.WorkKind_WORK_KIND_CAPTURED_BUT_CANCELLED}, Channel: channel, PageSize: 100, PageToken: token,
		})
		if err != nil {
			return nil, fmt.Errorf("work items: %w", err)
		}
		for _, w := range page.GetWorkItems() {
			got[w.GetOrderId()+" "+w.GetSubjectId()] += w.GetAmount().GetAmount()
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	for subject, cents := range want {
		if got[subject] != cents {
			found = append(found, fmt.Sprintf("work item for money kept of order %s is over %d, want %d", subject, got[subject], cents))
		}
	}
	for subject, cents := range got {
		if _, ok := want[subject]; !ok {
			found = append(found, fmt.Sprintf("work item for money kept of order %s over %d, the files know of none", subject, cents))
		}
	}
	return found, nil
}

package order

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	commercepb "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
	orderpb "github.com/tidemark-dev/tidemark/proto/order/v1"
)

// unmanaged is an order that no process moves, so that only the test does.
func unmanaged() *orderpb.PlaceOrderRequest {
	r := placing()
	r.Fulfilment = commercepb.Fulfilment_FULFILMENT_EXTERNAL
	return r
}

// holdRow locks an order's row, as a command or the process does.
func (s *service) holdRow(id, sql string) pgx.Tx {
	s.Helper()
	tx, err := s.pool.Begin(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	if _, err := tx.Exec(s.Context(), sql, id); err != nil {
		s.Fatal(err)
	}
	return tx
}

func (s *service) blocked(n int) {
	s.Helper()
	s.eventually("commands wait for the row", func() bool {
		var waiting int
		err := s.pool.QueryRow(s.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
		return err == nil && waiting == n
	})
}

// history returns the names of an order's facts.
func (s *service) history(id string) (names []string) {
	s.Helper()
	events, err := s.journal.GetEvents(s.Context(), &journalpb.GetEventsRequest{AggregateType: "order", AggregateId: id})
	if err != nil {
		s.Fatal(err)
	}
	for _, e := range events.GetEvents() {
		names = append(names, strings.TrimPrefix(e.GetType(), "Order"))
	}
	return names
}

// Cancel, confirm and amend meet at the order's lock, in every order: each takes
// effect at one point or is refused, a confirmation never overtakes an amendment
// that it does not know of, and the cancellation is never lost.
func TestCancelConfirmAndAmendAreLinear(t *testing.T) {
	s := start(t)
	for _, order := range [][]string{
		{"amend", "confirm", "cancel"}, {"amend", "cancel", "confirm"}, {"confirm", "amend", "cancel"},
		{"confirm", "cancel", "amend"}, {"cancel", "amend", "confirm"}, {"cancel", "confirm", "amend"},
	} {
		id := s.place(unmanaged()).GetOrder().GetOrderId()
		seen := int32(0)
		commands := map[string]func() error{
			"amend": func() error {
				_, err := s.AmendOrder(t.Context(), &orderpb.AmendOrderRequest{RequestId: uuid.NewString(), OrderId: id,
					ShippingFee: &commercepb.Money{Amount: 700, Currency: "EUR"}})
				return err
			},
			"confirm": func() error {
				_, err := s.ConfirmOrder(t.Context(), &orderpb.ConfirmOrderRequest{RequestId: uuid.NewString(), OrderId: id, AmendmentsSeen: &seen})
				return err
			},
			"cancel": func() error {
				_, err := s.CancelOrder(t.Context(), &orderpb.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: id,
					Reason: orderpb.CancelReason_CANCEL_REASON_CUSTOMER})
				return err
			},
		}
		tx := s.holdRow(id, `SELECT FROM orders WHERE id = $1 FOR UPDATE`)
		ends := map[string]chan error{}
		for i, name := range order {
			end := make(chan error, 1)
			ends[name] = end
			go func() { end <- commands[name]() }()
			s.blocked(i + 1)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		took := map[string]bool{}
		for name, end := range ends {
			err := <-end
			took[name] = err == nil
			if code := status.Code(err); err != nil && code != codes.FailedPrecondition {
				t.Errorf("%v: %s: %v", order, name, err)
			}
		}
		history := s.history(id)
		for name, fact := range map[string]string{"amend": "Amended", "confirm": "Confirmed", "cancel": "Cancelled"} {
			if slices.Contains(history, fact) != took[name] {
				t.Errorf("%v: %s answered %v, history %v", order, name, took[name], history)
			}
		}
		if history[len(history)-1] != "Cancelled" {
			t.Errorf("%v: a cancellation was lost: %v", order, history)
		}
		if took["amend"] && took["confirm"] {
			t.Errorf("%v: a confirmation overtook an amendment: %v", order, history)
		}
	}
}

// The process learns of a dispatch while an amendment of the address waits for
// the order's row: whoever is first wins, and the amendment sees it.
func TestAnAmendmentSeesADispatchThatWasFirst(t *testing.T) {
	s := start(t)
	id := s.place(unmanaged()).GetOrder().GetOrderId()
	if _, err := s.ConfirmOrder(t.Context(), &orderpb.ConfirmOrderRequest{RequestId: uuid.NewString(), OrderId: id}); err != nil {
		t.Fatal(err)
	}
	amend := func() error {
		_, err := s.AmendOrder(t.Context(), &orderpb.AmendOrderRequest{RequestId: uuid.NewString(), OrderId: id,
			Address: &commercepb.Address{City: "Bonn", Country: "DE"}})
		return rpc.Fault(err)
	}
	if err := amend(); err != nil {
		t.Fatal("before a dispatch:", err)
	}
	tx := s.holdRow(id, `UPDATE orders SET dispatched = true WHERE id = $1`) // as the process does
	end := make(chan error, 1)
	go func() { end <- amend() }()
	s.blocked(1)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-end; fault.ReasonOf(err) != fault.ReasonRuleViolated {
		t.Errorf("after a dispatch: %v", err)
	}
	if diff := cmp.Diff([]string{"Placed", "Confirmed", "Amended"}, s.history(id)); diff != "" {
		t.Error(diff)
	}
}

// A service is down: operators see which order waits for what since when, can
// have the step sent again, and can answer for it themselves, which is noted.
func TestOperatorsSeeAndMoveProcesses(t *testing.T) {
	s := start(t)
	id := s.place(placing()).GetOrder().GetOrderId()
	var got *orderpb.GetProcessResponse
	s.eventually("the step has failed", func() bool {
		var err error
		got, err = s.GetProcess(t.Context(), &orderpb.GetProcessRequest{OrderId: id})
		return err == nil && len(got.GetSteps()) == 1 && got.GetSteps()[0].GetOutcome() != ""
	})
	if w := got.GetWaits()[0]; w.GetKind() != orderpb.WaitKind_WAIT_KIND_TECHNICAL || !strings.Contains(w.GetFor(), "the payment service to answer authorize/1/0") {
		t.Errorf("waits for %v", got.GetWaits())
	}
	list, err := s.ListProcesses(t.Context(), &orderpb.ListProcessesRequest{State: orderpb.ProcessState_PROCESS_STATE_RUNNING})
	if err != nil || len(list.GetProcesses()) != 1 || list.GetProcesses()[0].GetOpenSteps() != 1 {
		t.Errorf("%v, %v", list, err)
	}
	for range 2 {
		other := s.place(placing()).GetOrder().GetOrderId()
		s.eventually("its process is there", func() bool {
			_, err := s.GetProcess(t.Context(), &orderpb.GetProcessRequest{OrderId: other})
			return err == nil
		})
	}
	var paged []string
	for token := ""; ; {
		page, err := s.ListProcesses(t.Context(), &orderpb.ListProcessesRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page.GetProcesses() {
			paged = append(paged, p.GetOrderId())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if len(paged) != 3 || paged[0] != id {
		t.Errorf("paged %v", paged)
	}
	if _, err := s.RetryStep(t.Context(), &orderpb.RetryStepRequest{Actor: "operator:eva", OrderId: id, Step: "authorize/1/0"}); err != nil {
		t.Error(err)
	}
	if _, err := s.RetryStep(t.Context(), &orderpb.RetryStepRequest{Actor: "operator:eva", OrderId: id, Step: "dance"}); fault.ReasonOf(rpc.Fault(err)) != fault.ReasonRuleViolated {
		t.Errorf("a step that does not exist: %v", err)
	}
	if _, err := s.ForceStep(t.Context(), &orderpb.ForceStepRequest{Actor: "operator:eva", OrderId: id, Step: "authorize/1/0"}); fault.KindOf(rpc.Fault(err)) != fault.KindInvalid {
		t.Errorf("forced without a reason: %v", err)
	}
	if _, err := s.ForceStep(t.Context(), &orderpb.ForceStepRequest{Actor: "operator:eva", OrderId: id, Step: "authorize/1/0", Reason: "paid in cash"}); err != nil {
		t.Fatal(err)
	}
	got, err = s.GetProcess(t.Context(), &orderpb.GetProcessRequest{OrderId: id})
	if err != nil || got.GetSteps()[0].GetStatus() != "forced" {
		t.Fatalf("%v, %v", got, err)
	}
	var did []string
	for _, h := range got.GetHistory() {
		if h.GetKind() == "operator" {
			did = append(did, h.GetText())
		}
	}
	if diff := cmp.Diff([]string{"operator:eva: retry authorize/1/0", "operator:eva: force authorize/1/0: paid in cash"}, did); diff != "" {
		t.Error(diff)
	}
	if _, err := s.GetProcess(t.Context(), &orderpb.GetProcessRequest{OrderId: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("an order that does not exist: %v", err)
	}
}

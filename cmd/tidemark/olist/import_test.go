package olist

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
)

var options = Options{Channel: "olist", Concurrency: 4, Patience: time.Minute}

func TestImportBalancesAndASecondOneChangesNothing(t *testing.T) {
	source := load(t)
	recorder, fleet := start(t)
	sent, err := Import(t.Context(), fleet, source, options)
	if err != nil {
		t.Fatal(err)
	}
	report, err := Compare(t.Context(), fleet, source, sent, options)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Balances || len(report.Mismatches) != 0 {
		t.Errorf("does not balance: %+v", report)
	}
	if got := recorder.steps("many"); !slices.IsSortedFunc(got, func(a, b string) int { return rank(a) - rank(b) }) {
		t.Errorf("steps of one order are not in causal order: %v", got)
	}
	before, effects := recorder.dump(), len(recorder.effects)

	again, err := Import(t.Context(), fleet, source, options)
	if err != nil {
		t.Fatal(err)
	}
	if again.Replayed != again.Commands || again.Commands != sent.Commands || len(recorder.effects) != effects {
		t.Errorf("second import: %d of %d commands in effect before, %d new effects", again.Replayed, again.Commands, len(recorder.effects)-effects)
	}
	if diff := cmp.Diff(before, recorder.dump()); diff != "" {
		t.Error(diff)
	}
}

// rank is the causal place of a command of order "many".
func rank(step string) int {
	return slices.Index([]string{"PlaceOrder", "AuthorizePayment", "ConfirmOrder", "PlanShipment", "CancelOrder"},
		strings.NewReplacer("CapturePayment", "AuthorizePayment", "DispatchShipment", "PlanShipment", "DeliverShipment", "PlanShipment").Replace(step))
}

func TestImportGetsThroughUnknownOutcomes(t *testing.T) {
	source := load(t)
	recorder, fleet := start(t)
	recorder.chance = 0.3
	sent, err := Import(t.Context(), fleet, source, options)
	if err != nil {
		t.Fatal(err)
	}
	report, err := Compare(t.Context(), fleet, source, sent, options)
	if err != nil || !report.Balances {
		t.Errorf("balances %v, error %v, mismatches %v", report.Balances, err, report.Mismatches)
	}
	if int64(len(recorder.effects)) != sent.Commands {
		t.Errorf("%d effects of %d commands", len(recorder.effects), sent.Commands)
	}
}

func TestImportStoppedAnywhereResumes(t *testing.T) {
	source := load(t)
	for _, at := range []int{1, 2, 7, 20, 33} {
		recorder, fleet := start(t)
		ctx, stop := context.WithCancel(t.Context())
		recorder.after = func(effects int) {
			if effects == at {
				stop()
			}
		}
		if _, err := Import(ctx, fleet, source, options); !errors.Is(err, context.Canceled) {
			t.Errorf("stopped after %d effects: error %v, want canceled", at, err)
		}
		sent, err := Import(t.Context(), fleet, source, options)
		if err != nil {
			t.Fatal(err)
		}
		report, err := Compare(t.Context(), fleet, source, sent, options)
		if err != nil || !report.Balances {
			t.Errorf("stopped after %d effects: balances %v, error %v, mismatches %v", at, report.Balances, err, report.Mismatches)
		}
	}
}

func TestImportRunsOutOfPatience(t *testing.T) {
	recorder, fleet := start(t)
	recorder.chance = 2 // every call fails before it takes effect
	impatient := options
	impatient.Patience = 30 * time.Millisecond
	if _, err := Import(t.Context(), fleet, load(t), impatient); !errors.Is(err, client.ErrPatience) {
		t.Errorf("error %v, want that the patience ended", err)
	}
}

func TestARefusedOrderIsNamedAndTheOthersGoOn(t *testing.T) {
	recorder, fleet := start(t)
	recorder.deny = func(m proto.Message) error {
		if c, ok := m.(*orderv1.ConfirmOrderRequest); ok && c.GetOrderId() == "many" {
			return status.Error(codes.FailedPrecondition, "order is on hold")
		}
		return nil
	}
	source := load(t)
	sent, err := Import(t.Context(), fleet, source, options)
	if err != nil {
		t.Fatal(err)
	}
	want := []Failure{{OrderID: "many", Step: "confirm", Reason: "FailedPrecondition: order is on hold"}}
	if diff := cmp.Diff(want, sent.Failed); diff != "" {
		t.Error(diff)
	}
	report, err := Compare(t.Context(), fleet, source, sent, options)
	if err != nil {
		t.Fatal(err)
	}
	if report.Balances || len(report.Mismatches) != 1 || report.Mismatches[0].OrderID != "many" {
		t.Errorf("balances %v, mismatches %v; want order many to differ", report.Balances, report.Mismatches)
	}
}

func TestReportFindsACentAndAnOrderThatAreWrong(t *testing.T) {
	source := load(t)
	recorder, fleet := start(t)
	if _, err := Import(t.Context(), fleet, source, options); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() func(){
		"a cent": func() func() {
			_, p := recorder.payment("many-p2")
			p.Captured.Amount++
			return func() { p.Captured.Amount-- }
		},
		"an order too many": func() func() {
			recorder.view("intruder").Status = 1
			recorder.channels["intruder"] = "olist"
			return func() { delete(recorder.views, "intruder") }
		},
		"an order too few": func() func() {
			v := recorder.views["fresh"]
			delete(recorder.views, "fresh")
			return func() { recorder.views["fresh"] = v }
		},
	} {
		restore := spoil()
		report, err := Compare(t.Context(), fleet, source, nil, options)
		if err != nil {
			t.Fatal(err)
		}
		if report.Balances {
			t.Errorf("%s: the report balances", name)
		}
		restore()
	}
	report, err := Compare(t.Context(), fleet, source, nil, options)
	if err != nil || !report.Balances {
		t.Errorf("restored: balances %v, error %v", report.Balances, err)
	}
}

func TestReportForPeopleAndPrograms(t *testing.T) {
	source := load(t)
	_, fleet := start(t)
	sent, err := Import(t.Context(), fleet, source, options)
	if err != nil {
		t.Fatal(err)
	}
	report, err := Compare(t.Context(), fleet, source, sent, options)
	if err != nil {
		t.Fatal(err)
	}
	var text, raw bytes.Buffer
	if err := errors.Join(report.WriteText(&text), report.WriteJSON(&raw)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"rows refused: 30", "wrong encoding: 2", "BRL 489.72", "The read models balance with the files."} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, text.String())
		}
	}
	var back Report
	if err := json.Unmarshal(raw.Bytes(), &back); err != nil || !back.Balances || len(back.States) != 5 {
		t.Errorf("read back: %v, %+v", err, back)
	}
}

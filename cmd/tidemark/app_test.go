package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// wire answers calls of the command line with what a test prepared.
type wire struct {
	orderv1.UnimplementedOrderServiceServer
	timelinev1.UnimplementedTimelineServiceServer
	placed *orderv1.PlaceOrderRequest
	asked  *timelinev1.GetOrderStatusRequest
	fail   error
}

func (w *wire) PlaceOrder(_ context.Context, r *orderv1.PlaceOrderRequest) (*orderv1.PlaceOrderResponse, error) {
	w.placed = r
	if w.fail != nil {
		return nil, w.fail
	}
	return &orderv1.PlaceOrderResponse{
		Order: &orderv1.Order{OrderId: "o1", CustomerId: r.GetCustomerId(), State: orderv1.OrderState_ORDER_STATE_PLACED, Total: &commercev1.Money{Amount: 3790, Currency: "EUR"}},
		Token: &freshnessv1.Token{AggregateType: "order", AggregateId: "o1", Version: 1, Epoch: "e", EventId: "v"},
	}, nil
}

func (w *wire) GetOrderStatus(_ context.Context, r *timelinev1.GetOrderStatusRequest) (*timelinev1.GetOrderStatusResponse, error) {
	w.asked = r
	if w.fail != nil {
		return nil, w.fail
	}
	return &timelinev1.GetOrderStatusResponse{
		Order:     &timelinev1.OrderView{OrderId: "o1", Status: timelinev1.OrderStatus_ORDER_STATUS_SHIPPED, Headline: "On its \x1b[31mway"},
		Freshness: &freshnessv1.Freshness{Generation: "timeline/1", DemandMet: true},
	}, nil
}

// serve starts the wire and returns the flags that lead to it.
func serve(t *testing.T) (*wire, []string) {
	t.Helper()
	t.Setenv("TIDEMARK_CONFIG", filepath.Join(t.TempDir(), "none.json"))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, w := grpc.NewServer(), &wire{}
	orderv1.RegisterOrderServiceServer(server, w)
	timelinev1.RegisterTimelineServiceServer(server, w)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return w, []string{"--addr-order", listener.Addr().String(), "--addr-timeline", listener.Addr().String()}
}

func command(t *testing.T, flags []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), append(args, flags...), &out, &err)
	return code, out.String(), err.String()
}

func TestPlaceADemoOrder(t *testing.T) {
	w, flags := serve(t)
	code, out, errText := command(t, flags, "order", "place")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, errText)
	}
	for _, want := range []string{"o1", "EUR 37.90", "order/o1/1/e/v", "next: tidemark timeline status o1 --token order/o1/1/e/v"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	if got := w.placed.GetPaymentPlan()[0].GetAmount().GetAmount(); got != 2*1250+800+490 {
		t.Errorf("planned payment %d, want the total", got)
	}
}

func TestPlaceReadsLinesPaymentsAndTheRequestID(t *testing.T) {
	w, flags := serve(t)
	code, _, errText := command(t, flags, "order", "place", "--customer", "ada", "--line", "mug:2:12.50:berlin", "--line", "x:1:0.29",
		"--fee", "1", "--pay", "voucher:10", "--pay", "card:16.29:tok_1", "--request-id", "0199a4de-0000-4000-8000-000000000001", "--at", "2026-01-02", "-o", "json")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, errText)
	}
	if w.placed.GetRequestId() != "0199a4de-0000-4000-8000-000000000001" || w.placed.GetOccurredAt().AsTime() != time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC) {
		t.Errorf("request %v", w.placed)
	}
	want := []string{"mug/2/1250/berlin", "x/1/29/main", "PAYMENT_METHOD_VOUCHER/1000/", "PAYMENT_METHOD_CARD/1629/tok_1"}
	var got []string
	for _, l := range w.placed.GetLines() {
		got = append(got, strings.Join([]string{l.GetSku(), itoa(l.GetQuantity()), count(l.GetUnitPrice().GetAmount()), l.GetWarehouse()}, "/"))
	}
	for _, p := range w.placed.GetPaymentPlan() {
		got = append(got, strings.Join([]string{p.GetMethod().String(), count(p.GetAmount().GetAmount()), p.GetReference()}, "/"))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestStatusCarriesTokensAndCleansWhatItShows(t *testing.T) {
	w, flags := serve(t)
	code, out, errText := command(t, flags, "timeline", "status", "o1", "--token", "order/o1/1/e/v", "--token", "payment/p/2/e/w", "--wait", "3s", "--stale")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, errText)
	}
	if n := len(w.asked.GetRead().GetAtLeast().GetTokens()); n != 2 || w.asked.GetRead().GetWaitBudget().AsDuration() != 3*time.Second {
		t.Errorf("asked %v", w.asked)
	}
	if !strings.Contains(out, "SHIPPED") || strings.Contains(out, "\x1b") {
		t.Errorf("output:\n%q", out)
	}
	if _, out, _ = command(t, flags, "timeline", "status", "o1", "-o", "json"); !json.Valid([]byte(out)) || !strings.Contains(out, `"order_id": "o1"`) {
		t.Errorf("json output:\n%s", out)
	}
}

func fault(t *testing.T, code codes.Code, message string, details ...protoadapt.MessageV1) error {
	t.Helper()
	s, err := status.New(code, message).WithDetails(details...)
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

func TestErrorsSayReasonFieldsAndTheNextStep(t *testing.T) {
	w, flags := serve(t)
	info := func(reason string) protoadapt.MessageV1 {
		return protoadapt.MessageV1Of(&errdetails.ErrorInfo{Reason: reason})
	}
	for _, tc := range []struct {
		name string
		fail error
		args []string
		want []string
	}{
		{
			"a wrong field", fault(t, codes.InvalidArgument, "invalid request", info("INVALID_FIELD"), protoadapt.MessageV1Of(&errdetails.BadRequest{
				FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "lines[0].sku", Description: "must not be empty"}},
			})),
			[]string{"order", "place"},
			[]string{"invalid request", "reason: INVALID_FIELD", "field:  lines[0].sku: must not be empty", "next:"},
		},
		{"an illegal transition", fault(t, codes.FailedPrecondition, "order is CANCELLED", info("ILLEGAL_TRANSITION")), []string{"order", "place"}, []string{"order is CANCELLED", "get command"}},
		{"an unknown outcome", fault(t, codes.DeadlineExceeded, "late"), []string{"order", "place", "--request-id", "0199a4de-0000-4000-8000-00000000000a"}, []string{"outcome is unknown", "--request-id 0199a4de-0000-4000-8000-00000000000a"}},
		{
			"not yet projected", fault(t, codes.NotFound, "not here", protoadapt.MessageV1Of(&freshnessv1.Absence{Kind: freshnessv1.Absence_KIND_NOT_YET_PROJECTED})),
			[]string{"timeline", "status", "o1"},
			[]string{"not here", "--wait"},
		},
		{"not built", fault(t, codes.Unimplemented, "max_staleness"), []string{"timeline", "status", "o1"}, []string{"does not exist yet"}},
	} {
		w.fail = tc.fail
		code, out, errText := command(t, flags, tc.args...)
		if code != exitError || out != "" {
			t.Errorf("%s: exit %d, output %q", tc.name, code, out)
		}
		for _, want := range tc.want {
			if !strings.Contains(errText, want) {
				t.Errorf("%s: lacks %q:\n%s", tc.name, want, errText)
			}
		}
	}
	w.fail = fault(t, codes.NotFound, "no", info("NOT_FOUND"))
	_, _, errText := command(t, flags, "timeline", "status", "o1", "-o", "json")
	var shown map[string]problem
	if err := json.Unmarshal([]byte(errText), &shown); err != nil || shown["error"].Reason != "NOT_FOUND" || shown["error"].Code != "NOT_FOUND" {
		t.Errorf("json error %v:\n%s", err, errText)
	}
}

func TestNoFleetIsSaidSo(t *testing.T) {
	t.Setenv("TIDEMARK_CONFIG", filepath.Join(t.TempDir(), "none.json"))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	code, _, errText := command(t, nil, "order", "get", "x", "--addr-order", address)
	if code != exitError || !strings.Contains(errText, "is the fleet running?") {
		t.Errorf("exit %d:\n%s", code, errText)
	}
}

func TestWrongUseExitsWithTwo(t *testing.T) {
	_, flags := serve(t)
	for _, args := range [][]string{
		{"order", "gett", "x"}, {"order", "get"}, {"order", "place", "--line", "mug"}, {"order", "place", "--line", "mug:1:1e3"},
		{"order", "place", "--pay", "gold:1"}, {"order", "place", "--at", "yesterday"}, {"timeline", "status", "x", "--token", "zzz"},
		{"order", "list", "--state", "open"}, {"order", "get", "x", "-o", "xml"}, {"order", "get", "x", "--addr", "h:x"},
		{"traffic", "--rate", "NaN"}, {"import", "olist", "/nowhere/at/all"},
	} {
		if code, _, errText := command(t, flags, args...); code != exitUsage || !strings.Contains(errText, "next:") {
			t.Errorf("%v: exit %d:\n%s", args, code, errText)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, tc := range []struct {
		globals globals
		want    client.Addresses
	}{
		{globals{Addr: "127.0.0.1:7000"}, client.Addresses{Order: "127.0.0.1:7101", Payment: "127.0.0.1:7102", Shipment: "127.0.0.1:7103", Timeline: "127.0.0.1:7201", Operations: "127.0.0.1:7202"}},
		{globals{Addr: "fleet.example", AddrTimeline: "[::1]:9"}, client.Addresses{Order: "fleet.example:7101", Payment: "fleet.example:7102", Shipment: "fleet.example:7103", Timeline: "[::1]:9", Operations: "fleet.example:7202"}},
		{globals{Addr: "h:17000"}, client.Addresses{Order: "h:17101", Payment: "h:17102", Shipment: "h:17103", Timeline: "h:17201", Operations: "h:17202"}},
	} {
		got, err := tc.globals.addresses()
		if err != nil || got != tc.want {
			t.Errorf("%+v: %+v, %v", tc.globals, got, err)
		}
	}
}

func TestFlagsComeFromTheConfigFileToo(t *testing.T) {
	w, flags := serve(t)
	path := filepath.Join(t.TempDir(), "config.json")
	raw, err := json.Marshal(map[string]string{"addr-order": "unused:1", "addr_order": flags[1]})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TIDEMARK_CONFIG", path)
	if code, _, errText := command(t, nil, "order", "place", "--customer", "from-config"); code != 0 || w.placed.GetCustomerId() != "from-config" {
		t.Errorf("exit %d: %s", code, errText)
	}
}

func TestCompletionKnowsEveryCommand(t *testing.T) {
	_, flags := serve(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, out, _ := command(t, flags, "completion", shell)
		if code != 0 {
			t.Errorf("%s: exit %d", shell, code)
		}
		for _, want := range []string{"timeline", "overview", "report-only", "request-id"} {
			if !strings.Contains(out, want) {
				t.Errorf("the %s script lacks %q", shell, want)
			}
		}
	}
}

package payment

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	commercepb "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
	paymentpb "github.com/tidemark-dev/tidemark/proto/payment/v1"
)

// service is a running payment service and what a test looks at.
type service struct {
	testing.TB
	paymentpb.PaymentServiceClient
	journal journalpb.JournalServiceClient
	pool    *pgxpool.Pool
	cfg     Config
	addr    string
	stop    func()
}

func start(t testing.TB, change func(*Config)) *service {
	t.Helper()
	cfg, err := lifecycle.Defaults[Config]()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Postgres.URL = testkit.PostgresURL(t)
	cfg.Kafka.Brokers, cfg.Kafka.RegistryURL = testkit.Broker(t).Addr(), ""
	cfg.RPC.Addr, cfg.RPC.HTTPAddr = "127.0.0.1:0", ""
	cfg.Provider = ProviderConfig{Timeout: time.Second, RetryAfter: 200 * time.Millisecond, RecoverEvery: 10 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	s := &service{TB: t, cfg: cfg}
	s.run()
	if s.pool, err = postgres.Open(context.Background(), cfg.Postgres, telemetry.Off()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.pool.Close)
	return s
}

// run starts the service, again after stop.
func (s *service) run() {
	s.Helper()
	ready, done := make(chan string, 1), make(chan error, 1)
	s.cfg.Ready = func(addr string) { ready <- addr }
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- Run(ctx, s.cfg) }()
	var conn *grpc.ClientConn
	select {
	case addr := <-ready:
		s.addr = addr
		var err error
		// No retries: the tests want to see every answer.
		if conn, err = rpc.Dial(addr, telemetry.Off(), grpc.WithDisableRetry()); err != nil {
			s.Fatal(err)
		}
	case err := <-done:
		s.Fatal(err)
	}
	s.PaymentServiceClient, s.journal = paymentpb.NewPaymentServiceClient(conn), journalpb.NewJournalServiceClient(conn)
	var once sync.Once
	s.stop = func() {
		once.Do(func() {
			_ = conn.Close()
			cancel()
			if err := <-done; err != nil {
				s.Errorf("Run() = %v", err)
			}
		})
	}
	s.Cleanup(s.stop)
}

func eur(amount int64) *commercepb.Money {
	return &commercepb.Money{Amount: amount, Currency: "EUR"}
}

func asking(reference string) *paymentpb.AuthorizePaymentRequest {
	return &paymentpb.AuthorizePaymentRequest{
		RequestId: uuid.NewString(), PaymentId: uuid.NewString(), OrderId: "o-1", CustomerId: "c-1",
		Fulfilment: commercepb.Fulfilment_FULFILMENT_MANAGED, Method: commercepb.PaymentMethod_PAYMENT_METHOD_CARD,
		Amount: eur(1000), Reference: reference,
	}
}

func (s *service) authorize(r *paymentpb.AuthorizePaymentRequest) *paymentpb.Payment {
	s.Helper()
	resp, err := s.AuthorizePayment(s.Context(), r)
	if err != nil {
		s.Fatal(err)
	}
	return resp.GetPayment()
}

// facts returns the names of a payment's facts.
func (s *service) facts(id string) []string {
	s.Helper()
	resp, err := s.journal.GetEvents(s.Context(), &journalpb.GetEventsRequest{AggregateType: "payment", AggregateId: id})
	if err != nil {
		s.Fatal(err)
	}
	var names []string
	for _, e := range resp.GetEvents() {
		if e.GetKey() != "o-1" || e.GetVersion() != int64(len(names)+1) {
			s.Errorf("event %v", e)
		}
		names = append(names, e.GetType())
	}
	return names
}

func (s *service) expect(id string, want ...string) {
	s.Helper()
	if diff := cmp.Diff(want, s.facts(id)); diff != "" {
		s.Error(diff)
	}
}

func (s *service) eventually(what string, condition func() bool) {
	s.Helper()
	ticker, timeout := time.NewTicker(3*time.Millisecond), time.After(time.Minute)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-timeout:
			s.Fatalf("did not come true: %s", what)
		}
	}
}

// live returns what the provider still holds or has collected for a payment.
func (s *service) live(id string) (live int64) {
	s.Helper()
	if err := s.pool.QueryRow(context.Background(), `SELECT coalesce(sum(CASE WHEN kind = 'AUTHORIZE' THEN amount
		WHEN kind IN ('VOID', 'LATE_VOID', 'REFUND') THEN -amount ELSE 0 END), 0) FROM simulated_provider WHERE payment_id = $1 AND approved`, id).
		Scan(&live); err != nil {
		s.Fatal(err)
	}
	return live
}

func reason(err error) fault.Reason { return fault.ReasonOf(rpc.Fault(err)) }

func TestLifeOfAManagedPayment(t *testing.T) {
	s := start(t, nil)
	p := s.authorize(asking("tok_visa"))
	if p.GetState() != paymentpb.PaymentState_PAYMENT_STATE_AUTHORIZED || p.GetVersion() != 2 || p.GetProviderReference() == "" {
		t.Fatalf("payment = %v", p)
	}
	id := p.GetPaymentId()
	capture := func(amount int64) (*paymentpb.CapturePaymentResponse, error) {
		return s.CapturePayment(t.Context(), &paymentpb.CapturePaymentRequest{RequestId: uuid.NewString(), PaymentId: id, Amount: eur(amount), ShipmentId: "s-1"})
	}
	part, err := capture(400)
	if err != nil || part.GetPayment().GetState() != paymentpb.PaymentState_PAYMENT_STATE_PARTIALLY_CAPTURED {
		t.Fatalf("%v, %v", part, err)
	}
	if _, err := capture(700); reason(err) != fault.ReasonRuleViolated {
		t.Errorf("more than is left: %v", err)
	}
	if _, err := capture(0); fault.KindOf(rpc.Fault(err)) != fault.KindInvalid {
		t.Errorf("nothing: %v", err)
	}
	void, err := s.VoidPayment(t.Context(), &paymentpb.VoidPaymentRequest{RequestId: uuid.NewString(), PaymentId: id})
	if err != nil || void.GetPayment().GetState() != paymentpb.PaymentState_PAYMENT_STATE_CAPTURED || void.GetPayment().GetVoided().GetAmount() != 600 {
		t.Fatalf("%v, %v", void, err)
	}
	refund, err := s.RefundPayment(t.Context(), &paymentpb.RefundPaymentRequest{RequestId: uuid.NewString(), PaymentId: id, Amount: eur(400)})
	if err != nil || refund.GetPayment().GetState() != paymentpb.PaymentState_PAYMENT_STATE_REFUNDED {
		t.Fatalf("%v, %v", refund, err)
	}
	if _, err := s.VoidPayment(t.Context(), &paymentpb.VoidPaymentRequest{RequestId: uuid.NewString(), PaymentId: id}); reason(err) != fault.ReasonIllegalTransition {
		t.Errorf("void of a refunded payment: %v", err)
	}
	correct, err := s.CorrectPayment(t.Context(), &paymentpb.CorrectPaymentRequest{
		RequestId: uuid.NewString(), PaymentId: id, CorrectedCaptured: eur(450), EffectiveAt: timestamppb.Now(), Reason: "cash"})
	if err != nil || correct.GetPayment().GetCaptured().GetAmount() != 450 || correct.GetToken().GetVersion() != correct.GetPayment().GetVersion() {
		t.Fatalf("%v, %v", correct, err)
	}
	s.expect(id, "PaymentRequested", "PaymentAuthorized", "PaymentCaptured", "PaymentVoided", "PaymentRefunded", "PaymentCorrected")
	if live := s.live(id); live != 0 {
		t.Errorf("the provider still has %d", live)
	}
}

// TestAnAuthorisationLapses: the provider says when, counted from its approval,
// and the same for every asking.
func TestAnAuthorisationLapses(t *testing.T) {
	s := start(t, func(c *Config) { c.Simulator.Validity = 48 * time.Hour })
	for reference, want := range map[string]time.Duration{"tok": 48 * time.Hour, "tok_lapse_90": 90 * time.Second} {
		r := asking(reference)
		p := s.authorize(r)
		var approved time.Time
		err := s.pool.QueryRow(t.Context(), `SELECT created_at FROM simulated_provider WHERE payment_id = $1`, r.GetPaymentId()).Scan(&approved)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.GetExpiresAt().AsTime().Sub(approved); got != want {
			t.Errorf("%s lapses %s after its approval, want %s", reference, got, want)
		}
	}
}

func TestARefusalIsAnAnswer(t *testing.T) {
	s := start(t, nil)
	r := asking("tok_decline")
	p := s.authorize(r)
	if p.GetState() != paymentpb.PaymentState_PAYMENT_STATE_DECLINED || p.GetDeclineCode() != "INSUFFICIENT_FUNDS" || !p.GetDeclineRetryable() {
		t.Errorf("payment = %v", p)
	}
	s.expect(p.GetPaymentId(), "PaymentRequested", "PaymentDeclined")
	_, err := s.CapturePayment(t.Context(), &paymentpb.CapturePaymentRequest{RequestId: uuid.NewString(), PaymentId: p.GetPaymentId(), Amount: eur(1)})
	if f := fault.As(rpc.Fault(err)); f == nil || f.Metadata["state"] != "DECLINED" || f.Metadata["command"] != "CapturePayment" {
		t.Errorf("err = %v", err)
	}
}

func TestARefusedCaptureChangesNothingAndMayBeRepeated(t *testing.T) {
	s := start(t, nil)
	p := s.authorize(asking("tok_decline_capture"))
	r := &paymentpb.CapturePaymentRequest{RequestId: uuid.NewString(), PaymentId: p.GetPaymentId(), Amount: eur(1)}
	for range 2 {
		if _, err := s.CapturePayment(t.Context(), r); reason(err) != reasonRefused {
			t.Errorf("err = %v", err)
		}
	}
	s.expect(p.GetPaymentId(), "PaymentRequested", "PaymentAuthorized")
}

func TestAnExternalPaymentNeverTouchesTheProvider(t *testing.T) {
	s := start(t, nil)
	r := asking("")
	r.Fulfilment, r.Amount = commercepb.Fulfilment_FULFILMENT_EXTERNAL, eur(0)
	if _, err := s.AuthorizePayment(t.Context(), r); fault.KindOf(rpc.Fault(err)) != fault.KindInvalid {
		t.Errorf("without an outcome: %v", err)
	}
	r.ExternalOutcome = paymentpb.ExternalOutcome_EXTERNAL_OUTCOME_AUTHORIZED
	r.OccurredAt = timestamppb.New(time.Date(2017, 10, 2, 10, 56, 33, 0, time.UTC))
	r.ExternalDecidedAt = timestamppb.New(time.Date(2017, 10, 2, 10, 50, 0, 0, time.UTC)) // before it was asked for
	p := s.authorize(r)
	capture, err := s.CapturePayment(t.Context(), &paymentpb.CapturePaymentRequest{RequestId: uuid.NewString(), PaymentId: p.GetPaymentId(), Amount: eur(0)})
	if err != nil || capture.GetPayment().GetState() != paymentpb.PaymentState_PAYMENT_STATE_CAPTURED {
		t.Errorf("%v, %v", capture, err)
	}
	s.expect(p.GetPaymentId(), "PaymentRequested", "PaymentAuthorized", "PaymentCaptured")
	var calls int
	if err := s.pool.QueryRow(t.Context(), `SELECT count(*) FROM simulated_provider`).Scan(&calls); err != nil || calls != 0 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestPaymentsAreListedInPages(t *testing.T) {
	s := start(t, nil)
	var want []string
	for i := range 7 {
		r := asking("tok")
		r.OrderId = fmt.Sprintf("o-%d", i%2)
		if p := s.authorize(r); i%2 == 1 {
			want = append([]string{p.GetPaymentId()}, want...)
		}
	}
	var got []string
	req := &paymentpb.ListPaymentsRequest{OrderId: "o-1", PageSize: 2, States: []paymentpb.PaymentState{paymentpb.PaymentState_PAYMENT_STATE_AUTHORIZED}}
	for page := 0; page == 0 || req.GetPageToken() != ""; page++ {
		resp, err := s.ListPayments(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range resp.GetPayments() {
			got = append(got, p.GetPaymentId())
		}
		if token := resp.GetNextPageToken(); token != "" {
			if _, err := s.ListPayments(t.Context(), &paymentpb.ListPaymentsRequest{OrderId: "o-0", PageToken: token}); fault.KindOf(rpc.Fault(err)) != fault.KindInvalid {
				t.Errorf("another filter took the token: %v", err)
			}
		}
		req.PageToken = resp.GetNextPageToken()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

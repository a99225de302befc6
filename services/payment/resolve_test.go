package payment

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
	paymentpb "github.com/tidemark-dev/tidemark/proto/payment/v1"
)

// resolve asks for the outcome of a request.
func (s *service) resolve(requestID, method string) (journalpb.RequestOutcome, error) {
	s.Helper()
	conn, err := rpc.Dial(s.addr, telemetry.Off())
	if err != nil {
		s.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	resp, err := journalpb.NewRequestServiceClient(conn).ResolveRequest(s.Context(), &journalpb.ResolveRequestRequest{RequestId: requestID, Method: method})
	return resp.GetOutcome(), err
}

// Killed after the provider collected and before our commit, and then the order
// is cancelled: the capture is neither effective nor refused until the provider
// has answered; then it is refunded, and no live charge remains.
func TestACaptureInDoubtIsNotRefused(t *testing.T) {
	s := start(t, func(c *Config) { c.Provider.RetryAfter = time.Hour })
	authorize := asking("tok_timeout") // of every call the first answer is lost
	if _, err := s.AuthorizePayment(t.Context(), authorize); reason(err) != reasonNoAnswer {
		t.Fatalf("err = %v", err)
	}
	id := s.authorize(authorize).GetPaymentId()
	capture := &paymentpb.CapturePaymentRequest{RequestId: uuid.NewString(), PaymentId: id, Amount: eur(1000), ShipmentId: "s-1"}
	if _, err := s.CapturePayment(t.Context(), capture); reason(err) != reasonNoAnswer {
		t.Fatalf("err = %v", err)
	}
	s.stop() // killed; the provider has the money
	s.run()
	if _, err := s.resolve(capture.GetRequestId(), "CapturePayment"); fault.ReasonOf(rpc.Fault(err)) != fault.ReasonUnavailable {
		t.Fatalf("resolved while in doubt: %v", err)
	}
	s.stop()
	s.cfg.Provider.RetryAfter = 200 * time.Millisecond
	if _, err := s.pool.Exec(t.Context(), `UPDATE payments SET attempt_due = clock_timestamp() WHERE attempt_due IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
	s.run()
	s.eventually("it is decided", func() bool {
		outcome, err := s.resolve(capture.GetRequestId(), "CapturePayment")
		if outcome == journalpb.RequestOutcome_REQUEST_OUTCOME_REFUSED {
			t.Fatal("refused although the provider collected")
		}
		return err == nil
	})
	refund := &paymentpb.RefundPaymentRequest{RequestId: uuid.NewString(), PaymentId: id, Amount: eur(1000), Reason: "cancelled"}
	s.eventually("the refund is answered", func() bool {
		_, err := s.RefundPayment(t.Context(), refund)
		return err == nil
	})
	if live := s.live(id); live != 0 {
		t.Errorf("the provider still has %d", live)
	}
	s.expect(id, "PaymentRequested", "PaymentAuthorized", "PaymentCaptured", "PaymentRefunded")
}

// An authorisation was resolved as refused before it arrived: it does not reach
// the provider any more.
func TestAnAuthorisationThatArrivesAfterItsRefusalChargesNobody(t *testing.T) {
	s := start(t, nil)
	r := asking("tok_visa")
	if outcome, err := s.resolve(r.GetRequestId(), "AuthorizePayment"); err != nil || outcome != journalpb.RequestOutcome_REQUEST_OUTCOME_REFUSED {
		t.Fatalf("%v, %v", outcome, err)
	}
	if _, err := s.AuthorizePayment(t.Context(), r); reason(err) != fault.ReasonRequestResolved {
		t.Errorf("the late request: %v", err)
	}
	if live := s.live(r.GetPaymentId()); live != 0 {
		t.Errorf("the provider holds %d", live)
	}
}

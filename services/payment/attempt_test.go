package payment

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/owner"
	paymentpb "github.com/tidemark-dev/tidemark/proto/payment/v1"
)

// The answer is lost; the caller repeats the command; the provider has done it
// once and says so.
func TestALostAnswerIsAskedForAgain(t *testing.T) {
	s := start(t, func(c *Config) { c.Provider.RetryAfter = time.Hour })
	r := asking("tok_timeout")
	if _, err := s.AuthorizePayment(t.Context(), r); reason(err) != reasonNoAnswer {
		t.Fatalf("err = %v", err)
	}
	got, err := s.GetPayment(t.Context(), &paymentpb.GetPaymentRequest{PaymentId: r.GetPaymentId()})
	if err != nil || got.GetPayment().GetState() != paymentpb.PaymentState_PAYMENT_STATE_REQUESTED {
		t.Errorf("%v, %v", got, err)
	}
	first := s.authorize(r)
	again, err := s.AuthorizePayment(t.Context(), r)
	if err != nil || !again.GetReplayed() {
		t.Fatalf("%v, %v", again, err)
	}
	if diff := cmp.Diff(first, again.GetPayment(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	r.Amount = eur(1001)
	if _, err := s.AuthorizePayment(t.Context(), r); reason(err) != fault.ReasonRequestIDReused {
		t.Errorf("another body: %v", err)
	}
	s.expect(r.GetPaymentId(), "PaymentRequested", "PaymentAuthorized")
}

// The process dies between the commit of the attempt and the answer; after the
// restart the attempt is finished without any caller.
func TestAnAttemptIsFinishedAfterARestart(t *testing.T) {
	s := start(t, func(c *Config) { c.Provider.RecoverEvery = time.Hour })
	r := asking("tok_timeout")
	if _, err := s.AuthorizePayment(t.Context(), r); reason(err) != reasonNoAnswer {
		t.Fatalf("err = %v", err)
	}
	s.stop()
	s.cfg.Provider.RecoverEvery = 10 * time.Millisecond
	s.run()
	s.eventually("the attempt is finished", func() bool { return len(s.facts(r.GetPaymentId())) == 2 })
	resp, err := s.AuthorizePayment(t.Context(), r)
	if err != nil || !resp.GetReplayed() || resp.GetPayment().GetState() != paymentpb.PaymentState_PAYMENT_STATE_AUTHORIZED {
		t.Errorf("%v, %v", resp, err)
	}
}

// Killed after the provider approved and before our commit, then voided: no
// live charge remains.
func TestALateApprovalOfAVoidedPaymentIsReleased(t *testing.T) {
	s := start(t, func(c *Config) { c.Provider.RecoverEvery = time.Hour }) // not before the void
	r := asking("tok_timeout")
	if _, err := s.AuthorizePayment(t.Context(), r); reason(err) != reasonNoAnswer {
		t.Fatalf("err = %v", err)
	}
	if live := s.live(r.GetPaymentId()); live != 1000 {
		t.Fatalf("the provider holds %d", live)
	}
	void, err := s.VoidPayment(t.Context(), &paymentpb.VoidPaymentRequest{RequestId: uuid.NewString(), PaymentId: r.GetPaymentId(), Reason: "cancelled"})
	if err != nil || void.GetPayment().GetState() != paymentpb.PaymentState_PAYMENT_STATE_VOIDED {
		t.Fatalf("%v, %v", void, err)
	}
	s.stop()
	s.cfg.Provider.RecoverEvery = 10 * time.Millisecond
	s.run()
	s.eventually("nothing is held", func() bool { return s.live(r.GetPaymentId()) == 0 })
	s.expect(r.GetPaymentId(), "PaymentRequested", "PaymentVoided")
	s.eventually("the attempt is over", func() bool {
		p, err := owner.Get(t.Context(), s.pool, newTable(0), r.GetPaymentId())
		return err == nil && p.State.Attempt == nil
	})
	resp, err := s.AuthorizePayment(t.Context(), r)
	if err != nil || resp.GetPayment().GetState() != paymentpb.PaymentState_PAYMENT_STATE_VOIDED {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestADuplicateAnswerMeansNothing(t *testing.T) {
	s := start(t, nil)
	p := s.authorize(asking("tok_duplicate"))
	if _, err := s.CapturePayment(t.Context(), &paymentpb.CapturePaymentRequest{RequestId: uuid.NewString(), PaymentId: p.GetPaymentId(), Amount: eur(500)}); err != nil {
		t.Fatal(err)
	}
	s.expect(p.GetPaymentId(), "PaymentRequested", "PaymentAuthorized", "PaymentCaptured")
}

// The same capture comes many times at once: it is collected once, and
// everybody who gets an answer gets the same.
func TestTheSameCaptureManyTimesAtOnce(t *testing.T) {
	s := start(t, nil)
	p := s.authorize(asking("tok_slow_20"))
	r := &paymentpb.CapturePaymentRequest{RequestId: uuid.NewString(), PaymentId: p.GetPaymentId(), Amount: eur(300)}
	answers := make(chan *paymentpb.CapturePaymentResponse, 8)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			resp, err := s.CapturePayment(t.Context(), r)
			if err != nil {
				t.Error(err)
				return
			}
			answers <- resp
		})
	}
	wg.Wait()
	close(answers)
	for a := range answers {
		if a.GetPayment().GetCaptured().GetAmount() != 300 || a.GetToken().GetVersion() != 3 {
			t.Errorf("answer %v", a)
		}
	}
	s.expect(p.GetPaymentId(), "PaymentRequested", "PaymentAuthorized", "PaymentCaptured")
}

// Two different captures race for the same money.
func TestTwoCapturesDoNotTakeTheSameMoney(t *testing.T) {
	s := start(t, nil)
	p := s.authorize(asking("tok_slow_20"))
	var wg sync.WaitGroup
	var mu sync.Mutex
	var taken int64
	for range 6 {
		wg.Go(func() {
			_, err := s.CapturePayment(t.Context(), &paymentpb.CapturePaymentRequest{RequestId: uuid.NewString(), PaymentId: p.GetPaymentId(), Amount: eur(400)})
			if err == nil {
				mu.Lock()
				taken += 400
				mu.Unlock()
			} else if r := reason(err); r != fault.ReasonConflict && r != fault.ReasonRuleViolated {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := s.GetPayment(t.Context(), &paymentpb.GetPaymentRequest{PaymentId: p.GetPaymentId()})
	if err != nil || got.GetPayment().GetCaptured().GetAmount() != taken || taken > 1000 || taken == 0 {
		t.Errorf("took %d: %v, %v", taken, got, err)
	}
}

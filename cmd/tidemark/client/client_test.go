package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
)

func TestTokenAsText(t *testing.T) {
	token := &freshnessv1.Token{
		AggregateType: "order", AggregateId: "a.b_c-1", Version: 7,
		Epoch: "20261130T101502.123Z-9f1c22d07ab34e55", EventId: "0199a4de-0000-7000-8000-000000000001",
	}
	got, err := ParseToken(FormatToken(token))
	if err != nil || !proto.Equal(got, token) {
		t.Errorf("read back %v, %v", got, err)
	}
	for _, bad := range []string{"", "order/1/1/e", "order//1/e/x", "order/1/0/e/x", "order/1/one/e/x", "order/1/1/e/x/y"} {
		if _, err := ParseToken(bad); err == nil {
			t.Errorf("token %q was read", bad)
		}
	}
}

func withReason(t *testing.T, code codes.Code, reason string) error {
	t.Helper()
	s, err := status.New(code, "no").WithDetails(&errdetails.ErrorInfo{Reason: reason})
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

func TestRetry(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fail  error
		tries int // with two failures before an answer
	}{
		{"out of reach", status.Error(codes.Unavailable, ""), 3},
		{"deadline", status.Error(codes.DeadlineExceeded, ""), 3},
		{"conflict", status.Error(codes.Aborted, ""), 3},
		{"server stops", status.Error(codes.Canceled, ""), 3},
		{"defect", status.Error(codes.Internal, ""), 3},
		{"overloaded", withReason(t, codes.ResourceExhausted, "OVERLOADED"), 3},
		{"too large", withReason(t, codes.ResourceExhausted, "TOO_LARGE"), 1},
		{"invalid", status.Error(codes.InvalidArgument, ""), 1},
		{"refused", status.Error(codes.FailedPrecondition, ""), 1},
	} {
		tries := 0
		_, err := Retry(t.Context(), time.Second, time.Minute, func(context.Context) (int, error) {
			if tries++; tries < 3 {
				return 0, tc.fail
			}
			return 1, nil
		})
		if tries != tc.tries || (err == nil) != (tc.tries == 3) {
			t.Errorf("%s: %d tries, error %v; want %d tries", tc.name, tries, err, tc.tries)
		}
	}
}

func TestRetryGivesUp(t *testing.T) {
	away := func(context.Context) (int, error) { return 0, status.Error(codes.Unavailable, "away") }
	_, err := Retry(t.Context(), time.Second, time.Millisecond, away)
	if !errors.Is(err, ErrPatience) {
		t.Errorf("error %v, want out of patience", err)
	}
	broken := func(context.Context) (int, error) { return 0, status.Error(codes.Internal, "broken") }
	if _, err := Retry(t.Context(), time.Second, time.Hour, broken); status.Code(err) != codes.Internal {
		t.Errorf("error %v, want the server's own after a few tries", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := Retry(ctx, time.Second, time.Hour, away); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want canceled", err)
	}
}

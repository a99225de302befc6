package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	firstDelay = 20 * time.Millisecond
	maxDelay   = 2 * time.Second
	// unclassified is how often an answer that may be a defect of the server,
	// or a connection that broke at a bad moment, is tried again.
	unclassified = 6
)

// ErrPatience is wrapped by the error of Retry when a server stayed out of
// reach longer than the caller was ready to wait.
var ErrPatience = errors.New("out of patience")

// Reason returns the reason of the ErrorInfo inside a gRPC error, or "".
func Reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// Retry calls a server until it answers definitely. Unknown outcomes (out of
// reach, deadline passed, overloaded, conflict) are tried again, so call must
// repeat the same request id. Every attempt gets its own deadline. When the
// trouble lasts longer than patience, the last error is returned, wrapping
// ErrPatience.
func Retry[Resp any](ctx context.Context, attempt, patience time.Duration, call func(context.Context) (Resp, error)) (Resp, error) {
	var zero Resp
	started := time.Now()
	delay := firstDelay
	for tries := 1; ; tries++ {
		callCtx, cancel := context.WithTimeout(ctx, attempt)
		resp, err := call(callCtx)
		cancel()
		if err == nil {
			return resp, nil
		}
		if ctx.Err() != nil {
			return zero, context.Cause(ctx)
		}
		if !retryable(err, tries) {
			return zero, err
		}
		if waited := time.Since(started); waited >= patience {
			return zero, fmt.Errorf("%w after %s: %w", ErrPatience, waited.Round(time.Second), err)
		}
		wait := time.NewTimer(delay/2 + rand.N(delay))
		select {
		case <-ctx.Done():
			wait.Stop()
			return zero, context.Cause(ctx)
		case <-wait.C:
		}
		delay = min(delay*2, maxDelay)
	}
}

// retryable reports whether the same request may get another answer. The
// caller's own context is known to be alive, so Canceled means that the server
// was stopping.
func retryable(err error, tries int) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted, codes.Canceled:
		return true
	case codes.ResourceExhausted:
		return Reason(err) == "OVERLOADED"
	case codes.Internal, codes.Unknown:
		return tries < unclassified
	default:
		return false
	}
}

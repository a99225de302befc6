package rpc

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Metadata keys that carry why a call is made. Values are ids, never personal data.
const (
	CausationKey   = "x-causation-id"
	CorrelationKey = "x-correlation-id"
)

const maxID = 128

// Cause says why something happens: the event or request that caused it, and
// the conversation it belongs to. Either may be empty.
type Cause struct {
	CausationID   string
	CorrelationID string
}

type causeKey struct{}

// WithCause returns a context whose outgoing calls (through Dial) and whose
// commands carry the cause.
func WithCause(ctx context.Context, c Cause) context.Context {
	return context.WithValue(ctx, causeKey{}, c)
}

// CauseOf returns the cause in ctx: set by WithCause, or by the server kit from
// the caller's metadata.
func CauseOf(ctx context.Context) Cause {
	c, _ := ctx.Value(causeKey{}).(Cause)
	return c
}

// causeFromMetadata reads the cause that a caller sent. Ids that are too long
// or not printable are dropped: they would go into headers.
func causeFromMetadata(ctx context.Context) context.Context {
	c := Cause{CausationID: first(ctx, CausationKey), CorrelationID: first(ctx, CorrelationKey)}
	if c == (Cause{}) {
		return ctx
	}
	return WithCause(ctx, c)
}

func first(ctx context.Context, key string) string {
	values := metadata.ValueFromIncomingContext(ctx, key)
	if len(values) == 0 || len(values[0]) > maxID {
		return ""
	}
	if strings.ContainsFunc(values[0], func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return values[0]
}

func causeToMetadata(ctx context.Context) context.Context {
	c := CauseOf(ctx)
	if c.CausationID != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, CausationKey, c.CausationID)
	}
	if c.CorrelationID != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, CorrelationKey, c.CorrelationID)
	}
	return ctx
}

func causeUnaryClient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(causeToMetadata(ctx), method, req, reply, cc, opts...)
}

func causeStreamClient(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return streamer(causeToMetadata(ctx), desc, cc, method, opts...)
}

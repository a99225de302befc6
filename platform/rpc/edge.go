package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tidemark-dev/tidemark/platform/fault"
)

// edge is the one interceptor: recovery, deadline cap, cause, validation, and
// the translation of errors. What it logs is logged nowhere else.
type edge struct {
	log         *slog.Logger
	validator   protovalidate.Validator
	maxDeadline time.Duration
}

func (e *edge) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	ctx, cancel := e.capped(ctx)
	defer cancel()
	resp, err = e.guarded(func() (any, error) {
		if err := e.validate(req); err != nil {
			return nil, err
		}
		return handler(causeFromMetadata(ctx), req)
	})
	if err != nil {
		return nil, e.translate(ctx, info.FullMethod, err)
	}
	return resp, nil
}

func (e *edge) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	wrapped := &validatedStream{ServerStream: ss, ctx: causeFromMetadata(ss.Context()), validate: e.validate}
	_, err := e.guarded(func() (any, error) { return nil, handler(srv, wrapped) })
	if err != nil {
		return e.translate(ss.Context(), info.FullMethod, err)
	}
	return nil
}

func (e *edge) unknown(_ any, ss grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(ss)
	return Status(fault.Unimplemented("this server has no method %s", method)).Err()
}

// capped bounds a call by our own limit; grpc-go sets the caller's only.
func (e *edge) capped(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, e.maxDeadline)
}

type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func (e *edge) guarded(call func() (any, error)) (resp any, err error) {
	defer func() {
		if v := recover(); v != nil {
			resp, err = nil, &panicError{value: v, stack: debug.Stack()}
		}
	}()
	return call()
}

func (e *edge) validate(req any) error {
	m, ok := req.(proto.Message)
	if !ok {
		return nil
	}
	err := e.validator.Validate(m)
	if err == nil {
		// No rule language can say it of all fields, and no database stores it.
		if path := findNUL(m.ProtoReflect()); path != "" {
			return fault.Invalid(path, "must not contain the character NUL")
		}
		return nil
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return fmt.Errorf("validate %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	violations := make([]fault.Violation, 0, len(invalid.Violations))
	for _, v := range invalid.Violations {
		violations = append(violations, fault.Violation{
			Field:       protovalidate.FieldPathString(v.Proto.GetField()),
			Description: v.Proto.GetMessage(),
		})
	}
	return fault.InvalidFields(violations...)
}

// translate turns an error into a status, and writes down what is our own fault.
func (e *edge) translate(ctx context.Context, method string, err error) error {
	st := Status(err)
	switch st.Code() {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		attrs := []slog.Attr{slog.String("method", method), slog.Any("error", err)}
		if p := (*panicError)(nil); errors.As(err, &p) {
			attrs = append(attrs, slog.String("stack", string(p.stack)))
		}
		e.log.LogAttrs(ctx, slog.LevelError, "call failed", attrs...)
	case codes.Unavailable, codes.DeadlineExceeded:
		e.log.LogAttrs(ctx, slog.LevelWarn, "call failed", slog.String("method", method), slog.Any("error", err))
	}
	return st.Err()
}

type validatedStream struct {
	grpc.ServerStream
	ctx      context.Context
	validate func(any) error
}

func (s *validatedStream) Context() context.Context { return s.ctx }

func (s *validatedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.validate(m)
}

// findNUL returns the path of a string that contains NUL, or "".
func findNUL(m protoreflect.Message) (path string) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.IsMap() || f.Kind() != protoreflect.StringKind && f.Message() == nil {
			return true
		}
		name := string(f.Name())
		if !f.IsList() {
			path = nulIn(f, v, name)
			return path == ""
		}
		for i := range v.List().Len() {
			if path = nulIn(f, v.List().Get(i), fmt.Sprintf("%s[%d]", name, i)); path != "" {
				return false
			}
		}
		return true
	})
	return path
}

func nulIn(f protoreflect.FieldDescriptor, v protoreflect.Value, name string) string {
	if f.Kind() == protoreflect.StringKind {
		if strings.IndexByte(v.String(), 0) >= 0 {
			return name
		}
		return ""
	}
	if inner := findNUL(v.Message()); inner != "" {
		return name + "." + inner
	}
	return ""
}

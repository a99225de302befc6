package session

import (
	"context"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
)

// UnaryClientInterceptor makes calls whose context has a session part of it: it
// takes the tokens of every answer into the session, and has every query that
// demands nothing of its own see them. A query that demands something, were it
// "any", is left as it is; its wait budget and what to do on violation stay the
// caller's in any case. The caller's request is never changed.
func UnaryClientInterceptor(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	s := FromContext(ctx)
	if s == nil {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	if err := invoke(ctx, method, s.demand(req), reply, cc, opts...); err != nil {
		s.undone(err)
		return err
	}
	s.capture(reply)
	return nil
}

// StreamClientInterceptor is UnaryClientInterceptor for streams.
func StreamClientInterceptor(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, cc, method, opts...)
	if s := FromContext(ctx); s != nil && err == nil {
		return &clientStream{stream, s}, nil
	}
	return stream, err
}

type clientStream struct {
	grpc.ClientStream
	session *Session
}

func (c *clientStream) SendMsg(m any) error { return c.ClientStream.SendMsg(c.session.demand(m)) }

func (c *clientStream) RecvMsg(m any) error {
	err := c.ClientStream.RecvMsg(m)
	if err == nil {
		c.session.capture(m)
	} else {
		c.session.undone(err)
	}
	return err
}

var (
	optionsName = (&freshnessv1.ReadOptions{}).ProtoReflect().Descriptor().FullName()
	tokenName   = (&freshnessv1.Token{}).ProtoReflect().Descriptor().FullName()
)

// field returns the field of a message that holds another one of a type, nil if
// there is none.
func field(m protoreflect.Message, of protoreflect.FullName) protoreflect.FieldDescriptor {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.Message() != nil && !f.IsMap() && f.Message().FullName() == of {
			return f
		}
	}
	return nil
}

// demand returns the request with the session's demand, if it is a query
// without one.
func (s *Session) demand(req any) any {
	m, ok := req.(proto.Message)
	if !ok {
		return req
	}
	read := field(m.ProtoReflect(), optionsName)
	atLeast := s.AtLeast()
	if read == nil || read.IsList() || atLeast == nil {
		return req
	}
	options := &freshnessv1.ReadOptions{}
	if own, ok := m.ProtoReflect().Get(read).Message().Interface().(*freshnessv1.ReadOptions); ok && own != nil {
		if own.GetConsistency() != nil {
			return req
		}
		proto.Merge(options, own)
	}
	options.Consistency = atLeast
	demanding := proto.Clone(m)
	demanding.ProtoReflect().Set(read, protoreflect.ValueOfMessage(options.ProtoReflect()))
	return demanding
}

// capture takes the tokens of an answer.
func (s *Session) capture(reply any) {
	m, ok := reply.(proto.Message)
	if !ok {
		return
	}
	f := field(m.ProtoReflect(), tokenName)
	if f == nil || !m.ProtoReflect().Has(f) {
		return
	}
	if !f.IsList() {
		s.take(m.ProtoReflect().Get(f))
		return
	}
	for i, list := 0, m.ProtoReflect().Get(f).List(); i < list.Len(); i++ {
		s.take(list.Get(i))
	}
}

func (s *Session) take(v protoreflect.Value) {
	if token, ok := v.Message().Interface().(*freshnessv1.Token); ok {
		s.Add(token)
	}
}

// undone forgets the writes that an error says a restore has undone. The error
// tells it once; then reads go on.
func (s *Session) undone(err error) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetReason() == "WRITE_LOST_BY_RESTORE" {
			for aggregate := range strings.SplitSeq(info.GetMetadata()["aggregates"], ",") {
				s.Forget(aggregate)
			}
		}
	}
}

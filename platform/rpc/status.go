package rpc

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/tidemark-dev/tidemark/platform/fault"
)

// Domain is the ErrorInfo domain of every error of Tidemark.
const Domain = "tidemark.dev"

// table is the one place where a kind of fault becomes a gRPC code.
var table = map[fault.Kind]codes.Code{
	fault.KindInternal:           codes.Internal,
	fault.KindInvalid:            codes.InvalidArgument,
	fault.KindNotFound:           codes.NotFound,
	fault.KindAlreadyExists:      codes.AlreadyExists,
	fault.KindFailedPrecondition: codes.FailedPrecondition,
	fault.KindConflict:           codes.Aborted,
	fault.KindResourceExhausted:  codes.ResourceExhausted,
	fault.KindUnavailable:        codes.Unavailable,
	fault.KindDeadlineExceeded:   codes.DeadlineExceeded,
	fault.KindCanceled:           codes.Canceled,
	fault.KindPermissionDenied:   codes.PermissionDenied,
	fault.KindUnimplemented:      codes.Unimplemented,
	fault.KindDataLoss:           codes.DataLoss,
}

type detailed struct {
	error
	details []proto.Message
}

func (d *detailed) Unwrap() error { return d.error }

// WithDetails attaches messages that Status sends as details beside ErrorInfo,
// for example freshness.v1.Absence.
func WithDetails(err error, details ...proto.Message) error {
	return &detailed{error: err, details: details}
}

// Status turns any error into the gRPC status a caller gets. A fault keeps its
// reason, fields and public message. An error that nobody classified becomes
// INTERNAL with a fixed message: its text stays in our own log.
func Status(err error) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	f := fault.As(err)
	if f == nil {
		f = classify(err)
	}
	code, ok := table[f.Kind]
	if !ok {
		code = codes.Internal
	}
	st := status.New(code, f.Public())
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: string(f.Reason), Domain: Domain, Metadata: f.Metadata}}
	if len(f.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range f.Violations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: v.Field, Description: v.Description, Reason: string(f.Reason),
			})
		}
		details = append(details, bad)
	}
	if d := (*detailed)(nil); errors.As(err, &d) {
		for _, m := range d.details {
			details = append(details, protoadapt.MessageV1Of(m))
		}
	}
	full, detailErr := st.WithDetails(details...)
	if detailErr != nil {
		return st
	}
	return full
}

// classify gives an error without a fault the kind that its nature says.
func classify(err error) *fault.Error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.KindDeadlineExceeded, fault.ReasonDeadlineExceeded, "the deadline passed before the answer was ready")
	case errors.Is(err, context.Canceled):
		return fault.New(fault.KindCanceled, fault.ReasonCanceled, "the caller went away")
	}
	// A status of a server that we called says something about us only where it
	// says that the call did not get through; anything else is our defect.
	if st, ok := status.FromError(err); ok {
		switch kind := kindOf(st.Code()); kind {
		case fault.KindUnavailable, fault.KindDeadlineExceeded, fault.KindCanceled, fault.KindUnimplemented:
			return fault.New(kind, defaultReason(kind), "%s", st.Message())
		}
	}
	return fault.New(fault.KindInternal, fault.ReasonInternal, "internal error")
}

// Fault turns the error of a call back into a fault with the server's reason,
// fields and metadata; the inverse of Status. A nil error stays nil.
func Fault(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	f := fault.New(kindOf(st.Code()), fault.ReasonInternal, "%s", st.Message()).Because(fmt.Errorf("call failed: %w", err))
	f.Reason = defaultReason(f.Kind)
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == Domain {
				f.Reason = fault.Reason(d.GetReason())
				f.Metadata = d.GetMetadata()
			}
		case *errdetails.BadRequest:
			// The message repeats the violations; keep them once.
			f.Message = "invalid request"
			for _, v := range d.GetFieldViolations() {
				f.Violations = append(f.Violations, fault.Violation{Field: v.GetField(), Description: v.GetDescription()})
			}
		}
	}
	return f
}

func kindOf(code codes.Code) fault.Kind {
	for kind, c := range table {
		if c == code {
			return kind
		}
	}
	if code == codes.OutOfRange {
		return fault.KindInvalid
	}
	return fault.KindInternal
}

func defaultReason(kind fault.Kind) fault.Reason {
	switch kind {
	case fault.KindUnavailable:
		return fault.ReasonUnavailable
	case fault.KindDeadlineExceeded:
		return fault.ReasonDeadlineExceeded
	case fault.KindCanceled:
		return fault.ReasonCanceled
	case fault.KindUnimplemented:
		return fault.ReasonUnimplemented
	case fault.KindResourceExhausted:
		return fault.ReasonOverloaded
	case fault.KindNotFound:
		return fault.ReasonNotFound
	case fault.KindInvalid:
		return fault.ReasonInvalidField
	default:
		return fault.ReasonInternal
	}
}

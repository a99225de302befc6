// Package fault is the one error vocabulary of Tidemark. Domain code says what
// went wrong in the words of this package; platform/rpc has the one table that
// turns them into gRPC statuses. The package imports the standard library only,
// so that a pure aggregate may use it.
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Kind is the class of a fault; each maps to exactly one gRPC code.
type Kind uint8

// The kinds. Internal is the zero value: an error that nobody classified is a
// defect of ours, never the caller's.
const (
	KindInternal Kind = iota
	KindInvalid
	KindNotFound
	KindAlreadyExists
	KindFailedPrecondition
	KindConflict
	KindResourceExhausted
	KindUnavailable
	KindDeadlineExceeded
	KindCanceled
	KindPermissionDenied
	KindUnimplemented
	KindDataLoss
)

var kindNames = [...]string{
	KindInternal:           "internal",
	KindInvalid:            "invalid",
	KindNotFound:           "not found",
	KindAlreadyExists:      "already exists",
	KindFailedPrecondition: "failed precondition",
	KindConflict:           "conflict",
	KindResourceExhausted:  "resource exhausted",
	KindUnavailable:        "unavailable",
	KindDeadlineExceeded:   "deadline exceeded",
	KindCanceled:           "canceled",
	KindPermissionDenied:   "permission denied",
	KindUnimplemented:      "unimplemented",
	KindDataLoss:           "data loss",
}

// String returns the name of the kind for logs.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Kinds returns every kind, so that a table over kinds can be tested for holes.
func Kinds() []Kind {
	kinds := make([]Kind, len(kindNames))
	for i := range kindNames {
		kinds[i] = Kind(i)
	}
	return kinds
}

// Reason is a stable, machine-readable cause in UPPER_SNAKE_CASE. Callers
// branch on it, so a reason is never renamed.
type Reason string

// Reasons that more than one package gives.
const (
	ReasonInternal          Reason = "INTERNAL"
	ReasonInvalidField      Reason = "INVALID_FIELD"
	ReasonNotFound          Reason = "NOT_FOUND"
	ReasonAlreadyExists     Reason = "ALREADY_EXISTS"
	ReasonRequestIDReused   Reason = "REQUEST_ID_REUSED"
	ReasonRequestResolved   Reason = "REQUEST_RESOLVED"
	ReasonIllegalTransition Reason = "ILLEGAL_TRANSITION"
	ReasonRuleViolated      Reason = "RULE_VIOLATED"
	ReasonConflict          Reason = "CONFLICT"
	ReasonTooLarge          Reason = "TOO_LARGE"
	ReasonOverloaded        Reason = "OVERLOADED"
	ReasonUnavailable       Reason = "UNAVAILABLE"
	ReasonDeadlineExceeded  Reason = "DEADLINE_EXCEEDED"
	ReasonCanceled          Reason = "CANCELED"
	ReasonPermissionDenied  Reason = "PERMISSION_DENIED"
	ReasonUnimplemented     Reason = "UNIMPLEMENTED"
	ReasonDataLoss          Reason = "DATA_LOSS"
)

// Violation names one field of a request and what is wrong with it. Field is
// the path a caller wrote, for example "lines[2].quantity".
type Violation struct {
	Field       string
	Description string
}

// Error is a classified error. Message is for the caller and therefore carries
// no personal data and no internals; the wrapped cause is for our own logs.
type Error struct {
	Kind       Kind
	Reason     Reason
	Message    string
	Violations []Violation
	// Metadata are the variable parts of the message, for programs: "state",
	// "command", "id".
	Metadata map[string]string
	cause    error
}

// Error returns the message, the violations and the cause.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Public())
	if e.cause != nil {
		b.WriteString(": ")
		b.WriteString(e.cause.Error())
	}
	return b.String()
}

// Public returns what a caller may read: the message and the violations,
// without the cause.
func (e *Error) Public() string {
	if len(e.Violations) == 0 {
		return e.Message
	}
	parts := make([]string, len(e.Violations))
	for i, v := range e.Violations {
		parts[i] = v.Field + ": " + v.Description
	}
	return e.Message + ": " + strings.Join(parts, "; ")
}

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.cause }

// With returns a copy of the error with one more metadata entry.
func (e *Error) With(key, value string) *Error {
	c := *e
	c.Metadata = make(map[string]string, len(e.Metadata)+1)
	for k, v := range e.Metadata {
		c.Metadata[k] = v
	}
	c.Metadata[key] = value
	return &c
}

// Because returns a copy of the error that wraps cause.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// New makes an error of any kind. The constructors below cover the usual ones.
func New(kind Kind, reason Reason, format string, args ...any) *Error {
	return &Error{Kind: kind, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Invalid says that one field of the request is wrong.
func Invalid(field, format string, args ...any) *Error {
	return InvalidFields(Violation{Field: field, Description: fmt.Sprintf(format, args...)})
}

// InvalidFields says that several fields of the request are wrong.
func InvalidFields(violations ...Violation) *Error {
	return &Error{Kind: KindInvalid, Reason: ReasonInvalidField, Message: "invalid request", Violations: violations}
}

// NotFound says that the named thing does not exist.
func NotFound(what, id string) *Error {
	return New(KindNotFound, ReasonNotFound, "%s %q does not exist", what, id).With("type", what).With("id", id)
}

// AlreadyExists says that a caller-given id is taken.
func AlreadyExists(what, id string) *Error {
	return New(KindAlreadyExists, ReasonAlreadyExists, "%s %q exists already", what, id).With("type", what).With("id", id)
}

// RequestIDReused says that the request id was used before with another body.
func RequestIDReused(requestID string) *Error {
	return New(KindAlreadyExists, ReasonRequestIDReused,
		"request id %s was used before with another request", requestID).With("request_id", requestID)
}

// IllegalTransition says that a command does not fit the state it met.
func IllegalTransition(what, state, command string) *Error {
	return New(KindFailedPrecondition, ReasonIllegalTransition, "%s is %s: %s is not possible", what, state, command).
		With("type", what).With("state", state).With("command", command)
}

// RuleViolated says that a command is possible in this state but breaks a rule
// that depends on the aggregate, for example a refund above what was captured.
func RuleViolated(state, command, format string, args ...any) *Error {
	return New(KindFailedPrecondition, ReasonRuleViolated, format, args...).With("state", state).With("command", command)
}

// Conflict says that somebody else changed the same thing; trying again helps.
func Conflict(format string, args ...any) *Error {
	return New(KindConflict, ReasonConflict, format, args...)
}

// TooLarge says that a fact would be larger than a message may be.
func TooLarge(format string, args ...any) *Error {
	return New(KindResourceExhausted, ReasonTooLarge, format, args...)
}

// Unavailable says that something we need does not answer; trying again helps.
func Unavailable(format string, args ...any) *Error {
	return New(KindUnavailable, ReasonUnavailable, format, args...)
}

// Unimplemented says that this part of a contract does not exist yet.
func Unimplemented(format string, args ...any) *Error {
	return New(KindUnimplemented, ReasonUnimplemented, format, args...)
}

// As returns the classified error inside err, or nil if there is none.
func As(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// KindOf returns the kind of err; KindInternal if nobody classified it.
func KindOf(err error) Kind {
	if e := As(err); e != nil {
		return e.Kind
	}
	return KindInternal
}

// ReasonOf returns the reason of err; ReasonInternal if nobody classified it.
func ReasonOf(err error) Reason {
	if e := As(err); e != nil {
		return e.Reason
	}
	return ReasonInternal
}

// Is reports whether err is a fault of this kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

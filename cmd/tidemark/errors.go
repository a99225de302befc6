package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
)

// writeError is a failed command; its request id makes a repetition safe.
type writeError struct {
	requestID string
	cause     error
}

func (e *writeError) Error() string { return e.cause.Error() }
func (e *writeError) Unwrap() error { return e.cause }

// statusError is an error that a server answered.
type statusError interface {
	error
	GRPCStatus() *status.Status
}

// problem is an error in the words in which it is shown.
type problem struct {
	Code     string            `json:"code"`
	Reason   string            `json:"reason,omitempty"`
	Message  string            `json:"message"`
	Fields   []fieldProblem    `json:"fields,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Absence  string            `json:"absence,omitempty"`
	Next     string            `json:"next,omitempty"`
}

// fieldProblem is one wrong field of a request.
type fieldProblem struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

// explain writes an error for the person or the program that sees it.
func (a *app) explain(err error) {
	p := diagnose(err)
	if a.json() {
		raw, jsonErr := json.MarshalIndent(map[string]problem{"error": p}, "", "  ")
		if jsonErr == nil {
			fmt.Fprintln(a.err, string(raw))
			return
		}
	}
	fmt.Fprintf(a.err, "tidemark: %s\n", clean(p.Message))
	if p.Reason != "" {
		fmt.Fprintf(a.err, "  reason: %s\n", clean(p.Reason))
	}
	for _, f := range p.Fields {
		fmt.Fprintf(a.err, "  field:  %s: %s\n", clean(f.Field), clean(f.Description))
	}
	if p.Next != "" {
		fmt.Fprintf(a.err, "  next:   %s\n", clean(p.Next))
	}
}

// diagnose finds out what an error says and what to do about it.
func diagnose(err error) problem {
	if bad, ok := errors.AsType[*usageError](err); ok {
		return problem{Code: "USAGE", Message: bad.message, Next: "tidemark --help"}
	}
	if errors.Is(err, context.Canceled) {
		return problem{Code: "CANCELED", Message: "stopped"}
	}
	if d, ok := errors.AsType[*devError](err); ok {
		return problem{Code: "FAILED_PRECONDITION", Message: d.message, Next: d.next}
	}
	if t, ok := errors.AsType[*traceError](err); ok {
		return problem{Code: "UNAVAILABLE", Message: t.Error(), Next: "spans are kept by the dev run (`make run`), asked at " + t.url +
			"; --traces names another place; a deployed fleet's spans are in its trace backend, under the ids above"}
	}
	answered, ok := errors.AsType[statusError](err)
	if !ok {
		return problem{Code: "UNKNOWN", Message: err.Error()}
	}
	s := answered.GRPCStatus()
	p := problem{Code: codeName(s.Code()), Message: s.Message()}
	if p.Message == "" {
		p.Message = s.Code().String()
	}
	if errors.Is(err, client.ErrPatience) {
		p.Message = "a server stayed out of reach longer than --patience: " + p.Message
	}
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			p.Reason, p.Metadata = d.GetReason(), d.GetMetadata()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				p.Fields = append(p.Fields, fieldProblem{Field: v.GetField(), Description: v.GetDescription()})
			}
		case *freshnessv1.Absence:
			p.Absence = strings.TrimPrefix(d.GetKind().String(), "KIND_")
		}
	}
	requestID := ""
	if w, ok := errors.AsType[*writeError](err); ok {
		requestID = w.requestID
	}
	p.Next = next(s.Code(), p, requestID)
	return p
}

// next is the step that helps after an error.
func next(code codes.Code, p problem, requestID string) string {
	again := ""
	if requestID != "" {
		again = "; run it again with --request-id " + requestID + ": it takes effect once"
	}
	switch p.Reason {
	case "ILLEGAL_TRANSITION", "RULE_VIOLATED":
		if kind := p.Metadata["type"]; kind != "" {
			return "see where it stands: tidemark " + kind + " get ID"
		}
		return "see where it stands with the get command"
	case "REQUEST_ID_REUSED":
		return "leave --request-id out, or repeat the first command unchanged"
	case "ALREADY_EXISTS":
		return "choose another id, or look at the existing one with the get command"
	case "SOURCE_WENT_BACK":
		return "see why: tidemark source status; then begin a new epoch: tidemark source new-epoch SOURCE --reason …" + again
	case "TOPIC_REPLACED":
		return "tidemark source republish SOURCE --reason …"
	case "OTHER_EVENT_BLOCKED":
		return "look again: tidemark source blocked show SOURCE AGGREGATE"
	case "TOO_STALE":
		return "see why with tidemark source status, allow more with --max-staleness or --wait, or take what there is with --stale"
	case "WRITE_LOST_BY_RESTORE":
		return "the write is gone: its source was restored to an earlier state; look at what stands now and decide again"
	}
	switch p.Absence {
	case "NEVER_EXISTED":
		return "check the id; no source ever mentioned it"
	case "NOT_YET_PROJECTED":
		return "it is on its way: try again with --wait 5s and the token of the command"
	case "QUARANTINED":
		return "one of its facts cannot be applied; see the projection's log"
	case "REBUILDING":
		return "the view is being built; try again in a moment"
	}
	switch code {
	case codes.Unavailable:
		if strings.Contains(p.Message, "connection refused") {
			return "is the fleet running? `make run` starts it; --addr names one elsewhere" + again
		}
		return "try again in a moment" + again
	case codes.DeadlineExceeded:
		if requestID != "" {
			return "the outcome is unknown" + again
		}
		return "try a longer --timeout or --wait"
	case codes.InvalidArgument:
		return "correct the field and try again; --help shows the form"
	case codes.Unimplemented:
		return "this part of the contract does not exist yet; leave the option out"
	case codes.NotFound:
		return "check the id; the list command shows what there is"
	case codes.Internal, codes.DataLoss, codes.Unknown:
		return "this is a defect or a broken server: see .tidemark/log" + again
	default:
		return ""
	}
}

// codeName writes a code as the contract does: INVALID_ARGUMENT.
func codeName(c codes.Code) string {
	var b strings.Builder
	for i, r := range c.String() {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}

package event

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Header is one Kafka record header.
type Header struct {
	Key   string
	Value []byte
}

// Header names and fixed values: CloudEvents 1.0, Kafka protocol binding,
// binary mode, with our extension attributes, and W3C trace context.
const (
	headerSpecVersion = "ce_specversion"
	headerContentType = "content-type"
	headerID          = "ce_id"
	headerSource      = "ce_source"
	headerType        = "ce_type"
	headerTime        = "ce_time"
	headerSubject     = "ce_subject"
	headerDataSchema  = "ce_dataschema"
	headerRecordedAt  = "ce_recordedat"
	headerEpoch       = "ce_epoch"
	headerAggregate   = "ce_aggregate"
	headerVersion     = "ce_version"
	headerCausation   = "ce_causationid"
	headerCorrelation = "ce_correlationid"
	headerTraceParent = "traceparent"
	headerTraceState  = "tracestate"

	specVersion  = "1.0"
	contentType  = "application/avro" // the value's Confluent frame is Kafka's own custom
	sourcePrefix = "tidemark/"
	typePrefix   = "tidemark."

	// maxHeader bounds one header value in bytes. It leaves room for the
	// longest ids and the 512 bytes of a trace state.
	maxHeader = 1024
)

// ErrNoHeaders reports a record that carries no CloudEvents headers: somebody
// else's record.
var ErrNoHeaders = errors.New("record carries no CloudEvents headers")

// HeaderError reports a header that is missing, doubled or malformed.
type HeaderError struct {
	Header string // name of the header
	Reason string // what is wrong with it
}

// Error returns the header's name and what is wrong with it, never its value.
func (e *HeaderError) Error() string { return "header " + e.Header + ": " + e.Reason }

// Headers returns the Kafka headers of the fact. Partition and Sequence are
// not among them; causation, correlation and trace are left out when empty.
func (e Envelope) Headers() []Header {
	headers := make([]Header, 0, 16)
	all, start := make([]byte, 0, 768), 0 // one buffer for all values
	put := func(name string) {
		headers = append(headers, Header{name, all[start:len(all):len(all)]})
		start = len(all)
	}
	text := func(name string, parts ...string) {
		for _, part := range parts {
			all = append(all, part...)
		}
		put(name)
	}
	text(headerSpecVersion, specVersion)
	text(headerContentType, contentType)
	text(headerID, e.ID)
	text(headerSource, sourcePrefix, e.Source)
	text(headerType, typePrefix, e.Type)
	all = e.OccurredAt.UTC().AppendFormat(all, time.RFC3339Nano)
	put(headerTime)
	text(headerSubject, e.Key)
	all = append(append(all, e.Type...), '/')
	all = strconv.AppendInt(all, int64(e.SchemaVersion), 10)
	put(headerDataSchema)
	all = e.RecordedAt.UTC().AppendFormat(all, time.RFC3339Nano)
	put(headerRecordedAt)
	text(headerEpoch, e.Epoch)
	text(headerAggregate, e.Aggregate.Type, "/", e.Aggregate.ID)
	all = strconv.AppendInt(all, e.Version, 10)
	put(headerVersion)
	for _, optional := range [...][2]string{
		{headerCausation, e.CausationID}, {headerCorrelation, e.CorrelationID},
		{headerTraceParent, e.TraceParent}, {headerTraceState, e.TraceState},
	} {
		if optional[1] != "" {
			text(optional[0], optional[1])
		}
	}
	return headers
}

// ParseHeaders is the strict inverse of [Envelope.Headers]. Unknown headers
// are ignored. A header of ours that is missing, doubled or malformed gives a
// [*HeaderError]; a record with none of them gives [ErrNoHeaders]. Either way
// the envelope holds all that could be read, so that a bad record can still be
// named. An unreadable trace context is dropped: it is never worth a fact.
func ParseHeaders(headers []Header) (Envelope, error) {
	p := newParser(headers)
	if !p.ours {
		return Envelope{}, ErrNoHeaders
	}
	p.constant(headerSpecVersion, specVersion)
	p.constant(headerContentType, contentType)
	e := Envelope{
		ID:            p.required(headerID),
		Source:        p.after(headerSource, sourcePrefix),
		Type:          p.after(headerType, typePrefix),
		Key:           p.required(headerSubject),
		OccurredAt:    p.time(headerTime),
		RecordedAt:    p.time(headerRecordedAt),
		Epoch:         p.required(headerEpoch),
		Version:       p.positive(headerVersion, p.required(headerVersion)),
		CausationID:   p.optional(headerCausation),
		CorrelationID: p.optional(headerCorrelation),
		TraceParent:   p.optional(headerTraceParent),
		TraceState:    p.optional(headerTraceState),
	}
	e.Aggregate.Type, e.Aggregate.ID = p.pair(headerAggregate)
	name, version := p.pair(headerDataSchema)
	e.SchemaVersion = int(p.positive(headerDataSchema, version))
	if name != e.Type {
		p.fail(headerDataSchema, "names another fact than "+headerType)
	}
	return e, p.err
}

// SchemaOf returns what the headers of a fact or a control record say about its
// source and its schema ("OrderPlaced/1"), at the price of a look at each
// header's name. Either may be empty; whether all is right, ParseHeaders and
// ParseControl tell. The bytes are part of the headers, not copies.
func SchemaOf(headers []Header) (source, schema []byte) {
	for _, h := range headers {
		switch h.Key {
		case headerSource:
			source = bytes.TrimPrefix(h.Value, []byte(sourcePrefix))
		case headerDataSchema:
			schema = h.Value
		}
	}
	return source, schema
}

// Validate reports whether the envelope survives the wire: whether ParseHeaders
// accepts what Headers makes of it. A journal calls it before it takes a fact,
// because afterwards every reader would have to park it.
func (e Envelope) Validate() error {
	parsed, err := ParseHeaders(e.Headers())
	if err == nil && parsed.Aggregate != e.Aggregate {
		err = &HeaderError{Header: headerAggregate, Reason: "type contains a slash"}
	}
	return err
}

// headerNames are the headers that are read; all others are ignored.
var headerNames = [...]string{
	headerSpecVersion, headerContentType, headerID, headerSource, headerType, headerTime, headerSubject, headerDataSchema, headerRecordedAt,
	headerEpoch, headerAggregate, headerVersion, headerCausation, headerCorrelation, headerTraceParent, headerTraceState,
}

// placeOf is the place of a header in headerNames, or -1.
func placeOf(header string) int { return slices.Index(headerNames[:], header) }

// parser reads headers and remembers the first thing that was wrong.
type parser struct {
	values [len(headerNames)]string
	given  [len(headerNames)]bool
	ours   bool // a CloudEvents header was among them
	err    error
}

func newParser(headers []Header) *parser {
	p := &parser{}
	for _, h := range headers {
		p.read(h)
	}
	return p
}

func (p *parser) fail(header, reason string) {
	if p.err == nil {
		p.err = &HeaderError{Header: header, Reason: reason}
	}
}

func (p *parser) read(h Header) {
	p.ours = p.ours || strings.HasPrefix(h.Key, "ce_")
	i := placeOf(h.Key)
	if i < 0 {
		return
	}
	reason := unclean(h.Value)
	if p.given[i] {
		reason = "appears twice"
	}
	switch trace := h.Key == headerTraceParent || h.Key == headerTraceState; {
	case reason != "" && !trace:
		p.fail(h.Key, reason)
	case reason != "":
	case h.Key == headerSpecVersion && string(h.Value) == specVersion:
		p.values[i], p.given[i] = specVersion, true
	case h.Key == headerContentType && string(h.Value) == contentType:
		p.values[i], p.given[i] = contentType, true
	default:
		p.values[i], p.given[i] = string(h.Value), true
	}
}

// optional is what a header says, or "".
func (p *parser) optional(header string) string { return p.values[placeOf(header)] }

// unclean says why a value can be no header of ours, or "". Control characters
// are refused because ids go into databases and logs, and some of them (NUL in
// Postgres) cannot be stored at all.
func unclean(value []byte) string {
	switch {
	case len(value) > maxHeader:
		return fmt.Sprintf("longer than %d bytes", maxHeader)
	case !utf8.Valid(value):
		return "not UTF-8"
	}
	for _, b := range value {
		if b < ' ' || b == 0x7f {
			return "contains a control character"
		}
	}
	return ""
}

func (p *parser) required(header string) string {
	value := p.optional(header)
	switch {
	case !p.given[placeOf(header)]:
		p.fail(header, "missing")
	case value == "":
		p.fail(header, "empty")
	}
	return value
}

func (p *parser) constant(header, want string) {
	if got := p.required(header); got != want {
		p.fail(header, "is not "+want)
	}
}

func (p *parser) after(header, prefix string) string {
	value, ok := strings.CutPrefix(p.required(header), prefix)
	if !ok {
		p.fail(header, "does not start with "+prefix)
		return ""
	}
	if value == "" {
		p.fail(header, "empty after "+prefix)
	}
	return value
}

func (p *parser) pair(header string) (left, right string) {
	left, right, _ = strings.Cut(p.required(header), "/")
	if left == "" || right == "" {
		p.fail(header, "is not two words joined by a slash")
	}
	return left, right
}

// positive reads a whole number from 1 on, written the one canonical way.
func (p *parser) positive(header, value string) int64 {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 1 || strconv.FormatInt(n, 10) != value {
		p.fail(header, "is not a whole number from 1 on")
		return 0
	}
	return n
}

func (p *parser) time(header string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, p.required(header))
	if err != nil || t.IsZero() {
		p.fail(header, "is not an RFC 3339 time")
		return time.Time{}
	}
	return t.UTC()
}

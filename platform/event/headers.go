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
	var p parser
	p.parse(headers)
	if !p.ours {
		return Envelope{}, ErrNoHeaders
	}
	p.constant(atSpecVersion, specVersion)
	p.constant(atContentType, contentType)
	id, source, named := p.required(atID), p.after(atSource, sourcePrefix), p.after(atType, typePrefix)
	e := Envelope{
		Key:        string(p.required(atSubject)),
		OccurredAt: p.time(atTime),
		RecordedAt: p.time(atRecordedAt),
		Epoch:      string(p.required(atEpoch)),
		Version:    p.positive(atVersion, p.required(atVersion)),
	}
	texts := together([...][]byte{id, named, p.values[atCausation], p.values[atCorrelation], p.values[atTraceParent], p.values[atTraceState]})
	e.ID, e.Type, e.CausationID, e.CorrelationID, e.TraceParent, e.TraceState = texts[0], texts[1], texts[2], texts[3], texts[4], texts[5]
	e.Source = string(source)
	kind, aggregate := p.pair(atAggregate)
	e.Aggregate = Aggregate{same(kind, e.Source), same(aggregate, e.Key)}
	name, version := p.pair(atDataSchema)
	e.SchemaVersion = int(p.positive(atDataSchema, version))
	if string(name) != e.Type {
		p.fail(atDataSchema, "names another fact than "+headerType)
	}
	return e, p.err
}

// same is the text, in the memory of another one if they are equal.
func same(text []byte, other string) string {
	if string(text) == other {
		return other
	}
	return string(text)
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

// headerNames are the headers that are read, as Headers orders them; all others
// are ignored.
var headerNames = [...]string{
	atSpecVersion: headerSpecVersion, atContentType: headerContentType, atID: headerID, atSource: headerSource, atType: headerType, atTime: headerTime,
	atSubject: headerSubject, atDataSchema: headerDataSchema, atRecordedAt: headerRecordedAt, atEpoch: headerEpoch, atAggregate: headerAggregate,
	atVersion: headerVersion, atCausation: headerCausation, atCorrelation: headerCorrelation, atTraceParent: headerTraceParent, atTraceState: headerTraceState,
}

// place is a place in headerNames.
type place int

const (
	atSpecVersion place = iota
	atContentType
	atID
	atSource
	atType
	atTime
	atSubject
	atDataSchema
	atRecordedAt
	atEpoch
	atAggregate
	atVersion
	atCausation
	atCorrelation
	atTraceParent
	atTraceState
)

// parser reads headers and remembers the first thing that was wrong. It copies
// nothing.
type parser struct {
	values [len(headerNames)][]byte
	given  [len(headerNames)]bool
	ours   bool // a CloudEvents header was among them
	err    error
}

func (p *parser) parse(headers []Header) {
	next := place(0)
	for i := range headers {
		next = p.read(&headers[i], next)
	}
}

func (p *parser) fail(at place, reason string) {
	if p.err == nil {
		p.err = &HeaderError{Header: headerNames[at], Reason: reason}
	}
}

// read takes one header, which is probably the expected one, and returns which is
// to be expected next.
func (p *parser) read(h *Header, expected place) (next place) {
	at := expected
	if int(at) >= len(headerNames) || headerNames[at] != h.Key {
		at = place(slices.Index(headerNames[:], h.Key))
	}
	p.ours = p.ours || strings.HasPrefix(h.Key, "ce_")
	if at < 0 {
		return expected
	}
	reason := unclean(h.Value)
	if p.given[at] {
		reason = "appears twice"
	}
	switch {
	case reason == "":
		p.values[at], p.given[at] = h.Value, true
	case at != atTraceParent && at != atTraceState:
		p.fail(at, reason)
	}
	return at + 1
}

// together makes texts that share their memory: what a record says of itself, but
// nobody keeps for long.
func together(values [6][]byte) (texts [6]string) {
	var buf [512]byte
	all := buf[:0]
	for _, value := range values {
		all = append(all, value...)
	}
	rest := string(all)
	for i, value := range values {
		texts[i], rest = rest[:len(value)], rest[len(value):]
	}
	return texts
}

// unclean says why a value can be no header of ours, or "". Control characters
// are refused because ids go into databases and logs, and some of them (NUL in
// Postgres) cannot be stored at all.
func unclean(value []byte) string {
	if len(value) > maxHeader {
		return fmt.Sprintf("longer than %d bytes", maxHeader)
	}
	ascii, control := true, false
	for _, b := range value {
		ascii = ascii && b < utf8.RuneSelf
		control = control || b < ' ' || b == 0x7f
	}
	switch {
	case !ascii && !utf8.Valid(value):
		return "not UTF-8"
	case control:
		return "contains a control character"
	}
	return ""
}

func (p *parser) required(at place) []byte {
	value := p.values[at]
	switch {
	case !p.given[at]:
		p.fail(at, "missing")
	case len(value) == 0:
		p.fail(at, "empty")
	}
	return value
}

func (p *parser) constant(at place, want string) {
	if string(p.required(at)) != want {
		p.fail(at, "is not "+want)
	}
}

func (p *parser) after(at place, prefix string) []byte {
	value := p.required(at)
	if len(value) < len(prefix) || string(value[:len(prefix)]) != prefix {
		p.fail(at, "does not start with "+prefix)
		return nil
	}
	if len(value) == len(prefix) {
		p.fail(at, "empty after "+prefix)
	}
	return value[len(prefix):]
}

func (p *parser) pair(at place) (left, right []byte) {
	left, right, _ = bytes.Cut(p.required(at), []byte{'/'})
	if len(left) == 0 || len(right) == 0 {
		p.fail(at, "is not two words joined by a slash")
	}
	return left, right
}

// positive reads a whole number from 1 on, written the one canonical way.
func (p *parser) positive(at place, value []byte) int64 {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n < 1 || value[0] < '1' || value[0] > '9' {
		p.fail(at, "is not a whole number from 1 on")
		return 0
	}
	return n
}

func (p *parser) time(at place) time.Time {
	t, err := time.Parse(time.RFC3339Nano, string(p.required(at)))
	if err != nil || t.IsZero() {
		p.fail(at, "is not an RFC 3339 time")
		return time.Time{}
	}
	return t.UTC()
}

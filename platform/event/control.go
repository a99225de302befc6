package event

import (
	"strconv"
	"time"
)

// TypeControl is the ce_type of a control record: the running totals that a
// relay writes between facts.
const TypeControl = typePrefix + "control"

// controlSchema is the name of the control record's schema.
const controlSchema = "ControlRecord"

// IsControl reports whether the headers are those of a control record.
func IsControl(headers []Header) bool {
	for _, h := range headers {
		if h.Key == headerType {
			return string(h.Value) == TypeControl
		}
	}
	return false
}

// Control is what the headers of a control record say. All else is in its value.
type Control struct {
	ID            string    // unique for ever
	Source        string    // whose facts it counts; also the Kafka key
	SchemaVersion int       // version of the schema its bytes were written with
	AsOf          time.Time // up to when the source is complete in the topic
}

// Headers returns the Kafka headers of the control record.
func (c Control) Headers() []Header {
	var headers []Header
	put := func(name, value string) { headers = append(headers, Header{name, []byte(value)}) }
	put(headerSpecVersion, specVersion)
	put(headerContentType, contentType)
	put(headerID, c.ID)
	put(headerSource, sourcePrefix+c.Source)
	put(headerType, TypeControl)
	put(headerTime, c.AsOf.UTC().Format(time.RFC3339Nano))
	put(headerDataSchema, controlSchema+"/"+strconv.Itoa(c.SchemaVersion))
	return headers
}

// ParseControl is the strict inverse of [Control.Headers], with the errors of
// [ParseHeaders].
func ParseControl(headers []Header) (Control, error) {
	var p parser
	p.parse(headers)
	if !p.ours {
		return Control{}, ErrNoHeaders
	}
	p.constant(atSpecVersion, specVersion)
	p.constant(atContentType, contentType)
	p.constant(atType, TypeControl)
	c := Control{
		ID:     string(p.required(atID)),
		Source: string(p.after(atSource, sourcePrefix)),
		AsOf:   p.time(atTime),
	}
	name, version := p.pair(atDataSchema)
	if string(name) != controlSchema {
		p.fail(atDataSchema, "does not name "+controlSchema)
	}
	c.SchemaVersion = int(p.positive(atDataSchema, version))
	return c, p.err
}

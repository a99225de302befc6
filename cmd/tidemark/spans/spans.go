// Package spans answers "what happened in the journey of this order?" from the
// spans that a running fleet exported: over HTTP from the span sink of the
// embedded run, and as a tree for people.
package spans

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tidemark-dev/tidemark/platform/telemetry/sink"
)

// Limits of one question and its answer.
const (
	MaxTraces   = 200
	MaxSpans    = 20_000
	maxAnswer   = 64 << 20
	traceIDSize = 32
)

// PortOffset lies between a fleet's port base and the port of its handler.
const PortOffset = 80

// Query names an order and the traces that are known to concern it. Either may
// be empty, not both.
type Query struct {
	Order  string
	Traces []string
}

// Answer is the spans of a journey, by start time.
type Answer struct {
	Spans []sink.Span `json:"spans"`
	// Truncated says that there are more spans than an answer may hold.
	Truncated bool `json:"truncated,omitempty"`
	// Kept is how many spans the sink holds of all traces. It keeps the latest,
	// so a journey of long ago is gone.
	Kept int `json:"kept"`
}

// Handler serves
//
//	GET /traces?order=ID[&trace=TRACE_ID …]
//
// which answers all spans of the named traces, of the traces that hold a span
// about the order itself, and of the batches that link to these.
func Handler(s *sink.Sink) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /traces", func(w http.ResponseWriter, r *http.Request) {
		values := r.URL.Query()
		query := Query{Order: values.Get("order"), Traces: values["trace"]}
		if err := query.check(); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// A client that hung up needs no answer.
		_ = json.NewEncoder(w).Encode(find(s.Spans(), query))
	})
	return mux
}

func (q Query) check() error {
	if q.Order == "" && len(q.Traces) == 0 {
		return errors.New("name an order or a trace: /traces?order=ID or /traces?trace=TRACE_ID")
	}
	if len(q.Traces) > MaxTraces {
		return fmt.Errorf("%d traces are more than %d", len(q.Traces), MaxTraces)
	}
	for _, id := range q.Traces {
		if len(id) != traceIDSize || strings.Trim(id, "0123456789abcdef") != "" {
			return fmt.Errorf("trace %.40q: a trace id is %d hex digits", id, traceIDSize)
		}
	}
	return nil
}

func find(all []sink.Span, q Query) Answer {
	aggregate := "order/" + q.Order // as the relay names what it sends
	journey := sink.Journey(all, func(s sink.Span) bool {
		return slices.Contains(q.Traces, s.Trace) || q.Order != "" && s.Attributes["tidemark.aggregate"] == aggregate
	})
	answer := Answer{Spans: journey, Kept: len(all)}
	if len(journey) > MaxSpans {
		answer.Spans, answer.Truncated = journey[:MaxSpans], true
	}
	return answer
}

// Fetch asks the handler at base, for instance "http://127.0.0.1:7080".
func Fetch(ctx context.Context, base string, q Query) (Answer, error) {
	if err := q.check(); err != nil {
		return Answer{}, err
	}
	values := url.Values{"trace": q.Traces}
	if q.Order != "" {
		values.Set("order", q.Order)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(base, "/")+"/traces?"+values.Encode(), nil)
	if err != nil {
		return Answer{}, fmt.Errorf("ask for spans: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return Answer{}, fmt.Errorf("ask for spans: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 500)) // the status says enough
		return Answer{}, fmt.Errorf("ask for spans: %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	var answer Answer
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&answer); err != nil {
		return Answer{}, fmt.Errorf("read the spans: %w", err)
	}
	return answer, nil
}

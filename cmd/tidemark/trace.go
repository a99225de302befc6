package main

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/spans"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

type traceCmd struct {
	Order      string `arg:"" help:"Id of the order."`
	Traces     string `help:"Where the dev run answers for its spans. Default: port BASE+80 of --addr." env:"TIDEMARK_TRACES" placeholder:"URL"`
	Statements bool   `help:"Show the database calls one by one." short:"s"`
}

// Run shows the spans of an order's journey. The timeline knows which traces
// changed the order; the dev run keeps the spans.
func (c *traceCmd) Run(a *app) error {
	query := spans.Query{Order: c.Order}
	var unknown error
	query.Traces, unknown = a.tracesOf(c.Order)
	url, err := c.url(a)
	if err != nil {
		return err
	}
	ctx, cancel := a.call()
	defer cancel()
	answer, err := spans.Fetch(ctx, url, query)
	if err != nil {
		a.listTraces(query.Traces)
		return &traceError{url: url, cause: err}
	}
	if a.json() {
		encoder := json.NewEncoder(a.out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(answer)
	}
	if len(answer.Spans) == 0 {
		if unknown != nil {
			return unknown
		}
		a.listTraces(query.Traces)
		fmt.Fprintf(a.out, "no spans of order %s are kept: the dev run keeps its latest %s, and this journey is older or was not recorded\n",
			clean(c.Order), strconv.Itoa(answer.Kept))
		return nil
	}
	if err := spans.Tree(a.out, answer.Spans, c.Statements); err != nil {
		return err
	}
	if answer.Truncated {
		fmt.Fprintf(a.out, "there are more spans; these are the first %d\n", len(answer.Spans))
	}
	if unknown != nil {
		fmt.Fprintf(a.out, "the timeline could not name the order's traces, so payments and shipments may be missing: %s\n", clean(unknown.Error()))
	}
	return nil
}

// tracesOf asks the timeline for the traces of an order's facts.
func (a *app) tracesOf(order string) ([]string, error) {
	var traces []string
	seen := map[string]bool{}
	request := &timelinev1.ListOrderTimelineRequest{OrderId: order, PageSize: 500}
	for {
		ctx, cancel := a.call()
		page, err := a.Timeline.ListOrderTimeline(ctx, request)
		cancel()
		if err != nil {
			return traces, err
		}
		for _, entry := range page.GetEntries() {
			if id := entry.GetTraceId(); id != "" && !seen[id] && len(traces) < spans.MaxTraces {
				seen[id] = true
				traces = append(traces, id)
			}
		}
		if page.GetNextPageToken() == "" || len(traces) == spans.MaxTraces {
			return traces, nil
		}
		request.PageToken = page.GetNextPageToken()
	}
}

// listTraces helps where another tool has the spans.
func (a *app) listTraces(traces []string) {
	if len(traces) == 0 || a.json() {
		return
	}
	fmt.Fprintln(a.out, "traces of the order, newest first:")
	for _, id := range traces {
		fmt.Fprintln(a.out, "  "+clean(id))
	}
}

func (c *traceCmd) url(a *app) (string, error) {
	if c.Traces != "" {
		return c.Traces, nil
	}
	host, base, err := a.globals.base()
	if err != nil {
		return "", err
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(base+spans.PortOffset)), nil
}

// traceError says that nobody answers for spans.
type traceError struct {
	url   string
	cause error
}

func (e *traceError) Error() string { return e.cause.Error() }
func (e *traceError) Unwrap() error { return e.cause }

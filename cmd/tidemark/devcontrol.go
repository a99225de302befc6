package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/tidemark-dev/tidemark/platform/telemetry/sink"
)

// startControl serves what the dev run knows about itself:
//
//	GET /healthz          200 once the fleet is ready
//	GET /spans?order=ID   the spans of an order's journey, as JSON
//	GET /spans?trace=ID   the spans of one trace and those that link to it
func startControl(addr string, spans *sink.Sink) (*http.Server, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("control port: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /spans", func(w http.ResponseWriter, req *http.Request) {
		order, trace := req.URL.Query().Get("order"), req.URL.Query().Get("trace")
		if (order == "") == (trace == "") {
			http.Error(w, "name one of ?order= and ?trace=", http.StatusBadRequest)
			return
		}
		journey := sink.Journey(spans.Spans(), func(s sink.Span) bool {
			return trace != "" && s.Trace == trace || order != "" && s.Attributes[orderAttribute] == order
		})
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(journey) // the caller went away: nothing to tell it
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends with Close
	return server, nil
}

// orderAttribute is the span attribute that names the order.
const orderAttribute = "tidemark.order.id"

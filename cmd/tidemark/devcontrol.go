package main

import (
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/spans"
	"github.com/tidemark-dev/tidemark/platform/telemetry/sink"
)

// startControl serves what the dev run knows about itself:
//
//	GET /healthz    200 once the fleet is ready
//	GET /traces     the spans of an order's journey; see package spans
func startControl(addr string, received *sink.Sink) (*http.Server, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("control port: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("GET /traces", spans.Handler(received))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends with Close
	return server, nil
}

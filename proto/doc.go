// Package proto holds the RPC contracts of Tidemark as protocol buffers, with
// the generated Go beside each file. Run `make generate` after a change.
package proto

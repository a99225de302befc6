// Package conformance tries whether a view keeps what the projection kernel
// demands of it. A projection's own tests call [Run] with the view and a
// generator of histories; what the kit finds, it says with the smallest history
// or the seed that shows it.
package conformance

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"google.golang.org/grpc"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/schemas"
)

// Suite is a view and what the kit needs to try it.
type Suite[S any] struct {
	View fold.View[S]
	// Truths say how it is compared with what the owners answer; nil if it is not.
	Truths []projection.Truth[S]
	// History draws what may happen: one slice of facts per aggregate, in
	// version order. Nothing in it may park. Facts are generated types of
	// package facts, which the kit writes with every version of their schemas.
	History func(*rapid.T) [][]event.Fact
	// Sample is a fixed list of facts for [Golden].
	Sample []event.Fact
	// Service is the query service, for [Contract].
	Service grpc.ServiceDesc
	// Dir holds readmodel.yaml and testdata; empty is the working directory.
	Dir string
}

// check is one thing that is tried. It returns what is wrong with the view;
// what is wrong with the machine fails the test.
type check[S any] struct {
	name string
	try  func(k *kit[S], t *testing.T) error
}

// checks are all that is tried, from the fast to the slow.
func checks[S any]() []check[S] {
	return []check[S]{
		{"law", (*kit[S]).law},
		{"determinism", (*kit[S]).determinism},
		{"absent", (*kit[S]).absent},
		{"size", (*kit[S]).size},
		{"personal data", (*kit[S]).personal},
		{"stored", (*kit[S]).stored},
		{"bulk", (*kit[S]).bulk},
		{"rederived", (*kit[S]).rederived},
		{"crash", (*kit[S]).crash},
		{"rebalance", (*kit[S]).rebalance},
	}
}

// Run tries everything, each as a subtest:
//
//   - law: any interleaving of aggregates, cut into any batches, with duplicates
//     and delays, gives the rows of [fold.Reference]; functions change
//     nothing they are only given to read
//   - determinism: the same facts again, at another time of the clock, give the
//     same rows
//   - absent: every fact there is, in every version of its schema, with nothing
//     given that may be absent, and facts that nobody knows yet
//   - size: a state does not grow with the number of facts
//   - personal data: what is personal in rows is named in readmodel.yaml, and
//     is found by the order
//   - stored: the real kernel on a real Postgres, from bytes of old and new
//     schemas; then everything again from offset 0; then two rebuilds
//   - bulk: a new generation that copies in bulk what the logs have, in several
//     passes, has every row, state and version that the ordinary way leaves
//   - rederived: a next version that says it folds as this one takes its states
//     over and comes to the same rows without reading facts
//   - crash: a batch that fails between any two of its writes, or at its commit,
//     leaves nothing, and passes when it comes again
//   - rebalance: two replicas take a partition from each other; the former owner
//     writes nothing
//   - contract and golden: see [Contract] and [Golden]
//
// Seeds are logged; TIDEMARK_SEED repeats those of the stored checks, and
// -rapid.seed those of the law.
func Run[S any](t *testing.T, s Suite[S]) {
	t.Helper()
	k := newKit(t, s)
	for _, c := range checks[S]() {
		t.Run(c.name, func(t *testing.T) {
			if err := c.try(k, t); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("contract", func(t *testing.T) { Contract(t, s.View, s.Truths, s.Service, s.Sample...) })
	t.Run("golden", func(t *testing.T) { Golden(t, s.View, s.Sample) })
}

// kit is a suite that runs.
type kit[S any] struct {
	Suite[S]
	seed  uint64
	bytes *writer
}

func newKit[S any](t *testing.T, s Suite[S]) *kit[S] {
	t.Helper()
	if err := s.View.Check(); err != nil {
		t.Fatal(err)
	}
	bytes, err := newWriter(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	k := &kit[S]{Suite: s, seed: uint64(rand.Uint32()), bytes: bytes}
	if given := os.Getenv("TIDEMARK_SEED"); given != "" {
		if k.seed, err = strconv.ParseUint(given, 10, 32); err != nil {
			t.Fatalf("TIDEMARK_SEED=%q is not a number of 32 bits", given)
		}
	}
	t.Logf("to repeat: TIDEMARK_SEED=%d", k.seed)
	return k
}

func (k *kit[S]) file(name string) string { return filepath.Join(k.Dir, name) }

// same compares rows; JSON in any spelling.
func same(what string, want, got map[string][]map[string]any) error {
	if diff := diff(want, got); diff != "" {
		return fmt.Errorf("%s (-reference +kernel):\n%s", what, diff)
	}
	return nil
}

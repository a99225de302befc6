package conformance

import (
	"fmt"
	"math/rand/v2"

	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas"
)

// story is a drawn history and one way in which it arrives.
type story struct {
	aggregates [][]event.Fact
	batches    [][]event.Fact
}

// draw returns a story of the seed; the same number, the same story. Its
// identities are its own, so that many stories fit into one database.
func (k *kit[S]) draw(n int) story { return k.drawn(n, n) }

// drawn is draw with another way to arrive.
func (k *kit[S]) drawn(n, way int) story {
	aggregates := rapid.Custom(k.History).Example(int(k.seed) + n)
	for _, facts := range aggregates {
		for i := range facts {
			facts[i].Key = fmt.Sprintf("%s-%d", facts[i].Key, n)
			facts[i].Aggregate.ID = fmt.Sprintf("%s-%d", facts[i].Aggregate.ID, n)
			facts[i].ID = fmt.Sprintf("%s-%d", facts[i].ID, n)
		}
	}
	arrives := rapid.Custom(func(t *rapid.T) [][]event.Fact { return Shuffle(t, aggregates) })
	return story{aggregates, arrives.Example(int(k.seed) + 7919*way)}
}

// mixed writes the facts of stories, each with a version of its schema that
// chance picks, and returns what a reader sees and the batches as bytes.
func (k *kit[S]) mixed(stories []story) (facts []event.Fact, batches [][]sent, err error) {
	type identity struct {
		aggregate event.Aggregate
		version   int64
	}
	choice := rand.New(rand.NewPCG(k.seed, 1))
	written := map[identity]sent{}
	for _, s := range stories {
		for _, f := range flat(s.aggregates) {
			record, ok := f.Body.(schemas.Record)
			if !ok {
				return nil, nil, fmt.Errorf("history: %T is no generated fact", f.Body)
			}
			one, err := k.bytes.send(f, 1+choice.IntN(k.bytes.set.Today(record.FactName())))
			if err != nil { // what an old version cannot hold is written as today
				if one, err = k.bytes.send(f, record.AvroSchemaVersion()); err != nil {
					return nil, nil, err
				}
			}
			written[identity{f.Aggregate, f.Version}] = one
			facts = append(facts, one.fact)
		}
		for _, batch := range s.batches {
			var bytes []sent
			for _, f := range batch {
				bytes = append(bytes, written[identity{f.Aggregate, f.Version}])
			}
			batches = append(batches, bytes)
		}
	}
	return facts, batches, nil
}

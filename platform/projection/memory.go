package projection

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// Memory runs a view without a database, through the same engine. It is the
// reference that stored rows are compared with, and what a view's own tests
// use: feed facts, look at rows. It is not safe for concurrent use.
type Memory[S any] struct {
	engine engine[S]
	orders map[string]encoded
	tables []map[string]row
	parked []parkedFact
}

// NewMemory returns an empty copy. It panics if the view is malformed.
func NewMemory[S any](view View[S]) *Memory[S] {
	if err := view.Check(); err != nil {
		panic(err)
	}
	m := &Memory[S]{engine: engine[S]{view}, orders: map[string]encoded{}}
	for range view.specs() {
		m.tables = append(m.tables, map[string]row{})
	}
	return m
}

// Apply takes one batch of facts. Every order is decoded from its stored bytes
// first, so a state that does not survive its encoding shows.
func (m *Memory[S]) Apply(batch ...event.Fact) error {
	inputs := map[string][]input{}
	var ids []string
	for _, f := range batch {
		if inputs[f.Key] == nil {
			ids = append(ids, f.Key)
		}
		inputs[f.Key] = append(inputs[f.Key], input{fact: f})
	}
	d := m.engine.newDelta()
	for _, id := range ids {
		o, err := openOrder[S](id, m.orders[id])
		if err != nil {
			return err
		}
		out, err := m.engine.run(o, inputs[id])
		if err != nil {
			return err
		}
		d.merge(id, out, o.applied)
	}
	for _, s := range d.states {
		m.orders[s.order] = s.encoded
	}
	m.parked = append(m.parked, d.parked...)
	for i, t := range d.tables {
		m.write(m.tables[i], t)
	}
	return nil
}

func (m *Memory[S]) write(stored map[string]row, t tableDelta) {
	switch t.spec.kind {
	case kindSums:
		for key, r := range t.upserts {
			if old, ok := stored[key]; ok {
				t.spec.addTo(r, old, 1)
			}
			stored[key] = r
			if t.spec.empty(r) {
				delete(stored, key)
			}
		}
	case kindRows:
		maps.Copy(stored, t.upserts)
		for key := range t.deletes {
			delete(stored, key)
		}
	case kindLog:
		for _, r := range t.rows {
			stored[keyOf(t.spec.all, r)] = r
		}
	}
}

// Rows returns the rows of a table as column → value, in a fixed order. Times
// are UTC to the microsecond, integers are int64, NULL is nil. Sums that are
// zero are left out.
func (m *Memory[S]) Rows(table string) []map[string]any {
	for i, spec := range m.engine.view.specs() {
		if spec.name != table {
			continue
		}
		return spec.named(m.tables[i])
	}
	panic(fmt.Sprintf("view %s has no table %s", m.engine.view.Name, table))
}

// All returns the rows of every table, by table: what two runs of a view are
// compared by.
func (m *Memory[S]) All() map[string][]map[string]any {
	all := map[string][]map[string]any{}
	for _, spec := range m.engine.view.specs() {
		all[spec.name] = m.Rows(spec.name)
	}
	return all
}

// Parked returns how many facts were set aside, and the first reason.
func (m *Memory[S]) Parked() (n int, reason string) {
	if len(m.parked) == 0 {
		return 0, ""
	}
	return len(m.parked), fmt.Sprintf("%s: %s", m.parked[0].verdict, m.parked[0].reason)
}

// States returns the stored state of every order, as JSON, by order.
func (m *Memory[S]) States() map[string]json.RawMessage {
	states := map[string]json.RawMessage{}
	for id, bytes := range m.orders {
		states[id] = json.RawMessage(bytes.state)
	}
	return states
}

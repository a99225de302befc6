package fold

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
	engine Engine[S]
	orders map[string]Encoded
	tables []map[string]Row
	parked []ParkedFact
}

// NewMemory returns an empty copy. It panics if the view is malformed.
func NewMemory[S any](view View[S]) *Memory[S] {
	if err := view.Check(); err != nil {
		panic(err)
	}
	m := &Memory[S]{engine: Engine[S]{view}, orders: map[string]Encoded{}}
	for range view.Specs() {
		m.tables = append(m.tables, map[string]Row{})
	}
	return m
}

// Apply takes one batch of facts. Every order is decoded from its stored bytes
// first, so a state that does not survive its encoding shows.
func (m *Memory[S]) Apply(batch ...event.Fact) error {
	inputs := map[string][]Input{}
	var ids []string
	for _, f := range batch {
		if inputs[f.Key] == nil {
			ids = append(ids, f.Key)
		}
		inputs[f.Key] = append(inputs[f.Key], Input{Fact: f})
	}
	d := m.engine.NewDelta()
	for _, id := range ids {
		o, err := OpenOrder[S](id, m.orders[id])
		if err != nil {
			return err
		}
		out, err := m.engine.Run(o, inputs[id])
		if err != nil {
			return err
		}
		d.Merge(id, out, o.Applied)
	}
	for _, s := range d.States {
		m.orders[s.Order] = s.Encoded
	}
	m.parked = append(m.parked, d.Parked...)
	for i, t := range d.Tables {
		m.write(m.tables[i], t)
	}
	return nil
}

func (m *Memory[S]) write(stored map[string]Row, t TableDelta) {
	switch t.Spec.Kind {
	case KindSums:
		for key, r := range t.Upserts {
			if old, ok := stored[key]; ok {
				t.Spec.AddTo(r, old, 1)
			}
			stored[key] = r
			if t.Spec.Empty(r) {
				delete(stored, key)
			}
		}
	case KindRows:
		maps.Copy(stored, t.Upserts)
		for key := range t.Deletes {
			delete(stored, key)
		}
	case KindLog:
		for _, r := range t.Rows {
			stored[KeyOf(t.Spec.All, r)] = r
		}
	}
}

// Rows returns the rows of a table as column → value, in a fixed order. Times
// are UTC to the microsecond, integers are int64, NULL is nil. Sums that are
// zero are left out.
func (m *Memory[S]) Rows(table string) []map[string]any {
	for i, spec := range m.engine.View.Specs() {
		if spec.Name != table {
			continue
		}
		return spec.Named(m.tables[i])
	}
	panic(fmt.Sprintf("view %s has no table %s", m.engine.View.Name, table))
}

// All returns the rows of every table, by table: what two runs of a view are
// compared by.
func (m *Memory[S]) All() map[string][]map[string]any {
	all := map[string][]map[string]any{}
	for _, spec := range m.engine.View.Specs() {
		all[spec.Name] = m.Rows(spec.Name)
	}
	return all
}

// Parked returns how many facts were set aside, and the first reason.
func (m *Memory[S]) Parked() (n int, reason string) {
	if len(m.parked) == 0 {
		return 0, ""
	}
	return len(m.parked), fmt.Sprintf("%s: %s", m.parked[0].Verdict, m.parked[0].Reason)
}

// States returns the stored state of every order, as JSON, by order.
func (m *Memory[S]) States() map[string]json.RawMessage {
	states := map[string]json.RawMessage{}
	for id, bytes := range m.orders {
		states[id] = json.RawMessage(bytes.State)
	}
	return states
}

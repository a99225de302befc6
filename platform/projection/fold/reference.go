package fold

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// Reference returns the rows that facts lead to, as [Memory.All] has them,
// worked out in the plainest way there is: every order's facts once each,
// aggregate by aggregate, by version, folded into a new state, and rows derived
// from that. It knows no batches, differences, stored states or verdicts, so it
// is what the kernel is compared with. Facts may come in any order and again.
//
// The error says which of the view's functions panicked, or changed what it was
// only given to read.
func Reference[S any](view View[S], facts []event.Fact) (rows map[string][]map[string]any, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			rows, err = nil, fmt.Errorf("view %s panicked: %v", view.Name, cause)
		}
	}()
	orders := map[string]map[event.Aggregate]map[int64]event.Fact{}
	for _, f := range facts {
		if orders[f.Key] == nil {
			orders[f.Key] = map[event.Aggregate]map[int64]event.Fact{}
		}
		if orders[f.Key][f.Aggregate] == nil {
			orders[f.Key][f.Aggregate] = map[int64]event.Fact{}
		}
		if _, again := orders[f.Key][f.Aggregate][f.Version]; !again {
			orders[f.Key][f.Aggregate][f.Version] = f
		}
	}
	stored := make([]map[string]Row, len(view.Specs()))
	for i := range stored {
		stored[i] = map[string]Row{}
	}
	for id, aggregates := range orders {
		var s S
		for _, a := range slices.SortedFunc(maps.Keys(aggregates), byName) {
			for _, version := range slices.Sorted(maps.Keys(aggregates[a])) {
				if err := foldPlainly(view, &s, aggregates[a][version], stored[len(view.Tables):]); err != nil {
					return nil, err
				}
			}
		}
		if err := derivePlainly(view, id, &s, stored); err != nil {
			return nil, err
		}
	}
	rows = map[string][]map[string]any{}
	for i, spec := range view.Specs() {
		rows[spec.Name] = spec.Named(stored[i])
	}
	return rows, nil
}

func byName(a, b event.Aggregate) int { return strings.Compare(a.String(), b.String()) }

func foldPlainly[S any](view View[S], s *S, f event.Fact, logs []map[string]Row) error {
	if _, void := f.Body.(*control.FactVoided); void {
		return nil
	}
	before, err := json.Marshal(f.Body)
	if err != nil {
		return fmt.Errorf("encode a fact: %w", err)
	}
	view.Fold(s, f)
	for i, log := range view.Logs {
		for _, r := range log.derive(f) {
			logs[i][KeyOf(log.spec.All, r)] = r
		}
	}
	if after, err := json.Marshal(f.Body); err != nil || !bytes.Equal(before, after) {
		return fmt.Errorf("view %s: Fold or a Log changes the %s it is given (%v)", view.Name, f.Type, err)
	}
	return nil
}

func derivePlainly[S any](view View[S], id string, s *S, stored []map[string]Row) error {
	before, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	for i, table := range view.Tables {
		spec := table.spec()
		for key, r := range table.derive(id, s) {
			if total, ok := stored[i][key]; ok && spec.Kind == KindSums {
				spec.AddTo(total, r, 1)
				continue
			}
			stored[i][key] = r
		}
		if after, err := json.Marshal(s); err != nil || !bytes.Equal(before, after) {
			return fmt.Errorf("view %s: table %s changes the state it is derived from (%v)", view.Name, spec.Name, err)
		}
	}
	return nil
}

package completeness

import (
	"testing"
	"time"
)

// An idle mark repeats the number of the last mark in the data topic. It moves
// as_of on; a mark of the data topic that comes twice, or late, does not.
func TestAnIdleMarkOfTheSameNumberAdvancesAsOf(t *testing.T) {
	at := func(second int) time.Time { return time.Date(2026, 11, 30, 10, 0, second, 0, time.UTC) }
	var m SourceMark
	for i, step := range []struct {
		mark Mark
		want bool
		asOf int
	}{
		{Mark{Epoch: "e1", Term: 1, Number: 5, AsOf: at(1)}, true, 1},
		{Mark{Epoch: "e1", Term: 1, Number: 5, AsOf: at(2)}, false, 1},             // the same record again
		{Mark{Epoch: "e1", Term: 1, Number: 5, AsOf: at(3), Idle: true}, true, 3},  // nothing happened since
		{Mark{Epoch: "e1", Term: 1, Number: 5, AsOf: at(2), Idle: true}, true, 3},  // as_of never goes back
		{Mark{Epoch: "e1", Term: 1, Number: 4, AsOf: at(9), Idle: true}, false, 3}, // of an earlier stretch
		{Mark{Epoch: "e1", Term: 1, Number: 6, AsOf: at(4)}, true, 4},
		{Mark{Epoch: "e1", Term: 0, Number: 6, AsOf: at(9), Idle: true}, false, 4}, // of a former owner
		{Mark{Epoch: "e2", Term: 1, Number: 1, AsOf: at(2)}, true, 2},              // another epoch begins anew
	} {
		if got := m.Take(step.mark); got != step.want || !m.AsOf.Equal(at(step.asOf)) {
			t.Errorf("step %d: taken %v, as_of %v; want %v, %v", i, got, m.AsOf, step.want, at(step.asOf))
		}
	}
}

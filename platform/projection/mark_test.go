package projection

import (
	"testing"
	"time"
)

// An idle mark repeats the number of the last mark in the data topic. It moves
// as_of on; a mark of the data topic that comes twice, or late, does not.
func TestAnIdleMarkOfTheSameNumberAdvancesAsOf(t *testing.T) {
	at := func(second int) time.Time { return time.Date(2026, 11, 30, 10, 0, second, 0, time.UTC) }
	var m sourceMark
	for i, step := range []struct {
		mark mark
		want bool
		asOf int
	}{
		{mark{epoch: "e1", term: 1, number: 5, asOf: at(1)}, true, 1},
		{mark{epoch: "e1", term: 1, number: 5, asOf: at(2)}, false, 1},             // the same record again
		{mark{epoch: "e1", term: 1, number: 5, asOf: at(3), idle: true}, true, 3},  // nothing happened since
		{mark{epoch: "e1", term: 1, number: 5, asOf: at(2), idle: true}, true, 3},  // as_of never goes back
		{mark{epoch: "e1", term: 1, number: 4, asOf: at(9), idle: true}, false, 3}, // of an earlier stretch
		{mark{epoch: "e1", term: 1, number: 6, asOf: at(4)}, true, 4},
		{mark{epoch: "e1", term: 0, number: 6, asOf: at(9), idle: true}, false, 4}, // of a former owner
		{mark{epoch: "e2", term: 1, number: 1, asOf: at(2)}, true, 2},              // another epoch begins anew
	} {
		if got := m.take(step.mark); got != step.want || !m.asOf.Equal(at(step.asOf)) {
			t.Errorf("step %d: taken %v, as_of %v; want %v, %v", i, got, m.asOf, step.want, at(step.asOf))
		}
	}
}

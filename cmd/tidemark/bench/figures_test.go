package bench

import (
	"testing"
	"time"
)

func TestQuantilesAreRealValues(t *testing.T) {
	var values []time.Duration
	for i := 100; i >= 1; i-- {
		values = append(values, time.Duration(i)*time.Millisecond)
	}
	if got, want := quantiles(values), (Quantiles{P50: 50, P90: 90, P99: 99, Max: 100}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := quantiles(values[:1]), (Quantiles{P50: 100, P90: 100, P99: 100, Max: 100}); got != want {
		t.Errorf("of one value: got %+v, want %+v", got, want)
	}
	if got := quantiles(nil); got != (Quantiles{}) {
		t.Errorf("of none: got %+v", got)
	}
}

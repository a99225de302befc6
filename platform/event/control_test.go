package event_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/event"
)

func TestControlHeaders(t *testing.T) {
	want := event.Control{ID: "order/ep/3/17", Source: "order", SchemaVersion: 1, AsOf: time.Date(2026, 11, 30, 10, 15, 2, 5000, time.UTC)}
	headers := want.Headers()
	var got []string
	for _, h := range headers {
		got = append(got, h.Key+": "+string(h.Value))
	}
	if diff := cmp.Diff([]string{
		"ce_specversion: 1.0", "content-type: application/avro", "ce_id: order/ep/3/17", "ce_source: tidemark/order",
		"ce_type: tidemark.control", "ce_time: 2026-11-30T10:15:02.000005Z", "ce_dataschema: ControlRecord/1",
	}, got); diff != "" {
		t.Error(diff)
	}
	back, err := event.ParseControl(headers)
	if diff := cmp.Diff(want, back); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for i, h := range headers {
		var refused *event.HeaderError
		if _, err := event.ParseControl(slices.Delete(slices.Clone(headers), i, i+1)); !errors.As(err, &refused) || refused.Header != h.Key {
			t.Errorf("without %s: %v", h.Key, err)
		}
	}
	if _, err := event.ParseControl(placed().Headers()); err == nil {
		t.Error("a fact was taken for a control record")
	}
	if _, err := event.ParseControl(nil); !errors.Is(err, event.ErrNoHeaders) {
		t.Error(err)
	}
	if !event.IsControl(headers) || event.IsControl(placed().Headers()) || event.IsControl(nil) {
		t.Error("control records are not told from facts")
	}
}

// Whatever the headers of a control record are, reading them never panics, and
// what is accepted is written the same again.
func FuzzParseControl(f *testing.F) {
	base := event.Control{ID: "order/ep/3/17", Source: "order", SchemaVersion: 1, AsOf: time.Date(2026, 11, 30, 10, 15, 2, 5000, time.UTC)}
	f.Add("ce_id", []byte("x"), "ce_time", []byte("2026-11-30T10:15:02Z"))
	f.Add("ce_dataschema", []byte("ControlRecord/2"), "ce_type", []byte("tidemark.control"))
	f.Fuzz(func(t *testing.T, key1 string, value1 []byte, key2 string, value2 []byte) {
		var headers []event.Header
		for _, h := range base.Headers() {
			if h.Key != key1 && h.Key != key2 {
				headers = append(headers, h)
			}
		}
		headers = append(headers, event.Header{Key: key1, Value: value1}, event.Header{Key: key2, Value: value2})
		event.SchemaOf(headers)
		c, err := event.ParseControl(headers)
		if err != nil {
			return
		}
		again, err := event.ParseControl(c.Headers())
		if err != nil || again != c || !event.IsControl(c.Headers()) {
			t.Fatalf("accepted once, then %v: %+v, %+v", err, c, again)
		}
	})
}

package event_test

import (
	"bytes"
	"errors"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/event"
)

func placed() event.Envelope {
	return event.Envelope{
		ID: "0193-e1", Source: "payment", Type: "PaymentCaptured", SchemaVersion: 2,
		Aggregate: event.Aggregate{Type: "payment", ID: "p/1"}, Version: 3,
		Epoch: "20261130T101502.123Z-9f1c22d07ab34e55", Key: "o-1",
		OccurredAt:  time.Date(2017, 10, 2, 10, 56, 33, 123456000, time.UTC),
		RecordedAt:  time.Date(2026, 11, 30, 10, 15, 2, 0, time.UTC),
		CausationID: "req-1", CorrelationID: "o-1",
		TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", TraceState: "a=b",
	}
}

// The names and the form of the headers are a contract with every consumer.
func TestHeadersGolden(t *testing.T) {
	var got []string
	for _, h := range placed().Headers() {
		got = append(got, h.Key+": "+string(h.Value))
	}
	want := []string{
		"ce_specversion: 1.0",
		"content-type: application/avro",
		"ce_id: 0193-e1",
		"ce_source: tidemark/payment",
		"ce_type: tidemark.PaymentCaptured",
		"ce_time: 2017-10-02T10:56:33.123456Z",
		"ce_subject: o-1",
		"ce_dataschema: PaymentCaptured/2",
		"ce_recordedat: 2026-11-30T10:15:02Z",
		"ce_epoch: 20261130T101502.123Z-9f1c22d07ab34e55",
		"ce_aggregate: payment/p/1",
		"ce_version: 3",
		"ce_causationid: req-1",
		"ce_correlationid: o-1",
		"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"tracestate: a=b",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestHeadersRoundTrip(t *testing.T) {
	word := rapid.StringMatching(`[a-zA-Z0-9_é-]{1,40}`)
	maybe := rapid.OneOf(rapid.Just(""), word)
	when := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(-62135596799, 253402300799).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).UTC()
	})
	rapid.Check(t, func(t *rapid.T) {
		want := event.Envelope{
			ID: word.Draw(t, "id"), Source: word.Draw(t, "source"), Type: word.Draw(t, "type"),
			SchemaVersion: rapid.IntRange(1, 1<<30).Draw(t, "schema"),
			Aggregate:     event.Aggregate{Type: word.Draw(t, "atype"), ID: word.Draw(t, "aid")},
			Version:       rapid.Int64Min(1).Draw(t, "version"), Epoch: word.Draw(t, "epoch"), Key: word.Draw(t, "key"),
			OccurredAt: when.Draw(t, "occurred"), RecordedAt: when.Draw(t, "recorded"),
			CausationID: maybe.Draw(t, "cause"), CorrelationID: maybe.Draw(t, "corr"),
			TraceParent: maybe.Draw(t, "tp"), TraceState: maybe.Draw(t, "ts"),
		}
		got, err := event.ParseHeaders(rapid.Permutation(want.Headers()).Draw(t, "headers"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		if err := want.Validate(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestParseHeadersRefuses(t *testing.T) {
	required := []string{
		"ce_specversion", "content-type", "ce_id", "ce_source", "ce_type", "ce_time", "ce_subject",
		"ce_dataschema", "ce_recordedat", "ce_epoch", "ce_aggregate", "ce_version",
	}
	for _, name := range required {
		var without []event.Header
		for _, h := range placed().Headers() {
			if h.Key != name {
				without = append(without, h)
			}
		}
		check(t, name, "missing", without)
		check(t, name, "appears twice", append(placed().Headers(), event.Header{Key: name, Value: []byte("x")}))
		check(t, name, "", set(name, ""))
		check(t, name, "not UTF-8", set(name, "\xff"))
		check(t, name, "control character", set(name, "a\x00b"))
		check(t, name, "longer", set(name, strings.Repeat("x", 1025)))
	}
	for _, c := range []struct{ header, value string }{
		{"ce_specversion", "0.3"}, {"content-type", "application/json"},
		{"ce_source", "elsewhere/payment"}, {"ce_source", "tidemark/"},
		{"ce_type", "PaymentCaptured"}, {"ce_type", "tidemark."},
		{"ce_time", "yesterday"}, {"ce_time", "0001-01-01T00:00:00Z"}, {"ce_recordedat", "2026-13-01T00:00:00Z"},
		{"ce_dataschema", "PaymentCaptured"}, {"ce_dataschema", "PaymentCaptured/0"}, {"ce_dataschema", "PaymentVoided/2"},
		{"ce_aggregate", "payment"}, {"ce_aggregate", "/p"}, {"ce_aggregate", "payment/"},
		{"ce_version", "0"}, {"ce_version", "-1"}, {"ce_version", "+1"}, {"ce_version", "01"}, {"ce_version", "9223372036854775808"},
	} {
		check(t, c.header, "", set(c.header, c.value))
	}
}

func set(name, value string) []event.Header {
	headers := placed().Headers()
	for i := range headers {
		if headers[i].Key == name {
			headers[i].Value = []byte(value)
		}
	}
	return headers
}

// check wants a refusal that names the header and says why, and the identity
// that could still be read.
func check(t *testing.T, name, reason string, headers []event.Header) {
	t.Helper()
	got, err := event.ParseHeaders(headers)
	var refused *event.HeaderError
	if !errors.As(err, &refused) || refused.Header != name || !strings.Contains(refused.Reason, reason) {
		t.Errorf("%s %s: got error %v", name, reason, err)
	}
	if name != "ce_id" && got.ID != placed().ID {
		t.Errorf("%s %s: id was readable and is lost", name, reason)
	}
	if name != "ce_aggregate" && got.Aggregate != placed().Aggregate {
		t.Errorf("%s %s: aggregate was readable and is lost", name, reason)
	}
}

func TestParseHeadersOfStrangers(t *testing.T) {
	for name, headers := range map[string][]event.Header{
		"none":    nil,
		"foreign": {{Key: "x-app", Value: []byte("legacy")}, {Key: "traceparent", Value: []byte("00-1-2-3")}, {Key: "content-type", Value: []byte("text/plain")}},
	} {
		if _, err := event.ParseHeaders(headers); !errors.Is(err, event.ErrNoHeaders) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestUnreadableTraceIsNoReasonToRefuse(t *testing.T) {
	got, err := event.ParseHeaders(append(set("traceparent", "\xff"), event.Header{Key: "tracestate", Value: []byte("c=d")}))
	if err != nil || got.TraceParent != "" || got.TraceState != "a=b" {
		t.Errorf("got %q %q %v", got.TraceParent, got.TraceState, err)
	}
}

func TestValidate(t *testing.T) {
	for name, spoil := range map[string]func(*event.Envelope){
		"no id":                func(e *event.Envelope) { e.ID = "" },
		"no epoch":             func(e *event.Envelope) { e.Epoch = "" },
		"version 0":            func(e *event.Envelope) { e.Version = 0 },
		"year 10000":           func(e *event.Envelope) { e.OccurredAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"never recorded":       func(e *event.Envelope) { e.RecordedAt = time.Time{} },
		"slash in type":        func(e *event.Envelope) { e.Aggregate.Type = "a/b" },
		"key too long":         func(e *event.Envelope) { e.Key = strings.Repeat("k", 2000) },
		"NUL in correlation":   func(e *event.Envelope) { e.CorrelationID = "\x00" },
		"newline in causation": func(e *event.Envelope) { e.CausationID = "a\nb" },
	} {
		e := placed()
		spoil(&e)
		if err := e.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseHeaders(f *testing.F) {
	f.Add("ce_id", []byte("x"), "ce_version", []byte("1"))
	f.Add("ce_dataschema", []byte("PaymentCaptured/2"), "traceparent", []byte{0})
	f.Fuzz(func(t *testing.T, key1 string, value1 []byte, key2 string, value2 []byte) {
		headers := placed().Headers()
		kept := headers[:0]
		for _, h := range headers {
			if h.Key != key1 && h.Key != key2 {
				kept = append(kept, h)
			}
		}
		e, err := event.ParseHeaders(append(kept, event.Header{Key: key1, Value: value1}, event.Header{Key: key2, Value: value2}))
		if err != nil {
			return
		}
		again, err := event.ParseHeaders(e.Headers())
		if err != nil || again != e {
			t.Fatalf("accepted once, then %v: %+v, %+v", err, e, again)
		}
	})
}

// The first six are the vectors of Kafka's own client tests.
func TestPartitionOfGolden(t *testing.T) {
	for _, c := range []struct {
		key  string
		hash int32
	}{
		{"21", -973932308}, {"foobar", -790332482}, {"a-little-bit-long-string", -985981536},
		{"a-little-bit-longer-string", -1486304829}, {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971}, {"abc", 479470107},
	} {
		for _, n := range []int32{1, 3, 8, 12, 1 << 30} {
			if got, want := event.PartitionOf(c.key, n), (c.hash&0x7fffffff)%n; got != want {
				t.Errorf("PartitionOf(%q, %d) = %d, want %d", c.key, n, got, want)
			}
		}
	}
	var got []int32
	for _, key := range []string{"", "a", "ab", "0193f2aa-7c1e-7b52-9d6c-2f4b8f3a1c55", "e481f51cbdc54678b7cc49136f2d6af7", "été"} {
		got = append(got, event.PartitionOf(key, 8))
	}
	if diff := cmp.Diff([]int32{1, 4, 2, 7, 5, 1}, got); diff != "" {
		t.Error("partitions moved; stored facts would be orphaned:", diff)
	}
}

func TestEpochsSortByAge(t *testing.T) {
	now := time.Date(2026, 11, 30, 10, 15, 2, 123999999, time.UTC)
	var epochs []string
	predecessor := ""
	for _, clock := range []time.Time{now, now, now.Add(-time.Hour), now.Add(time.Hour)} {
		epoch, err := event.NewEpoch(clock, predecessor)
		if err != nil {
			t.Fatal(err)
		}
		epochs, predecessor = append(epochs, epoch), epoch
	}
	if !sort.StringsAreSorted(epochs) {
		t.Error("not in order:", epochs)
	}
	if minted, err := event.EpochTime(epochs[1]); err != nil || !minted.Equal(now.Truncate(time.Millisecond).Add(time.Millisecond)) {
		t.Error("second epoch minted at", minted, err)
	}
	for _, bad := range []string{"e1", epochs[0] + "0", strings.ToUpper(epochs[0]), "99999999T999999.999Z-0000000000000000"} {
		if _, err := event.NewEpoch(now, bad); err == nil {
			t.Errorf("predecessor %q accepted", bad)
		}
	}
	if _, err := event.NewEpoch(time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC), ""); err == nil {
		t.Error("year 12026 accepted")
	}
}

func TestSumGolden(t *testing.T) {
	if got := (event.Sum{}).Add(placed()).String(); got != "b4afd5a60b9498b28b14a3a8e3233a84" {
		t.Error("the hash of an identity moved; totals of both sides would differ:", got)
	}
}

func TestSumIgnoresOrderAndNoticesIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []event.Envelope
		for range rapid.IntRange(2, 20).Draw(t, "n") {
			e := placed()
			e.ID = rapid.String().Draw(t, "id")
			e.Version = rapid.Int64().Draw(t, "version")
			all = append(all, e)
		}
		one := event.Sum{}
		for _, e := range all {
			one = one.Add(e)
		}
		cut := rapid.IntRange(0, len(all)).Draw(t, "cut")
		shuffled := rapid.Permutation(all).Draw(t, "shuffled")
		var left, right event.Sum
		for _, e := range shuffled[:cut] {
			left = left.Add(e)
		}
		for _, e := range shuffled[cut:] {
			right = right.Add(e)
		}
		if left.Plus(right) != one {
			t.Fatal("order or grouping changed the sum")
		}
		changed := rapid.SampledFrom([]func(*event.Envelope){
			func(e *event.Envelope) { e.Source += "x" }, func(e *event.Envelope) { e.Epoch += "x" },
			func(e *event.Envelope) { e.Aggregate.Type += "x" }, func(e *event.Envelope) { e.Aggregate.ID += "x" },
			func(e *event.Envelope) { e.Version++ }, func(e *event.Envelope) { e.ID += "x" },
			func(e *event.Envelope) { e.Source, e.Epoch = e.Source+e.Epoch[:1], e.Epoch[1:] },
		}).Draw(t, "change")
		changed(&all[0])
		other := event.Sum{}
		for _, e := range all {
			other = other.Add(e)
		}
		if other == one {
			t.Fatal("a changed identity left the sum alone")
		}
	})
}

func TestSumWraps(t *testing.T) {
	most := event.Sum(bytes.Repeat([]byte{0xff}, 16))
	if got := most.Plus(event.Sum{15: 2}); got != (event.Sum{15: 1}) {
		t.Error("got", got)
	}
	if got := (event.Sum{8: 0xff, 9: 0xff, 10: 0xff, 11: 0xff, 12: 0xff, 13: 0xff, 14: 0xff, 15: 0xff}).Plus(event.Sum{15: 1}); got != (event.Sum{7: 1}) {
		t.Error("carry lost:", got)
	}
}

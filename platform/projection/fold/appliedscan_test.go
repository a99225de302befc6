package fold

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Whatever encode writes is read back the same by both ways, and nothing else is
// taken for it.
func TestScannedVersionsAreThoseThatWereWritten(t *testing.T) {
	word := rapid.StringOf(rapid.RuneFrom([]rune("ab/-1_é\"\\<\u2028\n}{,:")))
	scanned := 0
	rapid.Check(t, func(t *rapid.T) {
		doc := Versions{Aggregates: map[string]*Applied{}, Blocked: Verdict(rapid.SampledFrom([]string{"", "too_large", word.Draw(t, "blocked")}).Draw(t, "b"))}
		for range rapid.IntRange(0, 4).Draw(t, "aggregates") {
			a := &Applied{
				Epoch: word.Draw(t, "epoch"), Version: rapid.Int64Range(-1, 1<<62).Draw(t, "version"),
				Parked:  Verdict(rapid.SampledFrom([]string{"", "gap", "poison"}).Draw(t, "parked")),
				Skipped: rapid.Int64Range(0, 2).Draw(t, "skipped"),
			}
			if recent := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "recent"); len(recent) > 0 {
				a.Recent = recent
			}
			if rapid.Bool().Draw(t, "again") {
				a.Again = &restated{word.Draw(t, "newer"), rapid.Int64Range(0, 9).Draw(t, "until")}
			}
			doc.Aggregates[word.Draw(t, "key")] = a
		}
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if short, err := doc.marshal(); err != nil || string(short) != string(text) {
			t.Fatalf("written as %s, %v; encoding/json writes %s", short, err, text)
		}
		got, err := OpenVersions(text)
		if err != nil {
			t.Fatal(err)
		}
		var want Versions
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-json +scanned):\n%s", text, diff)
		}
		if _, ok := scanVersions(string(text)); ok {
			scanned++
		}
		if len(text) > 2 {
			cut := rapid.IntRange(0, len(text)-1).Draw(t, "cut")
			if doc, ok := scanVersions(string(text[:cut])); ok {
				t.Errorf("%s was cut short and read as %v", text[:cut], doc)
			}
		}
	})
	if scanned == 0 {
		t.Error("nothing was scanned: all of it went through encoding/json")
	}
}

// What this package writes in practice takes the short way.
func TestVersionsTakeTheShortWay(t *testing.T) {
	text, err := json.Marshal(Versions{map[string]*Applied{
		"order/o-1":   {Epoch: "0001-a", Version: 4, Recent: []byte("abcd")},
		"payment/p-1": {Epoch: "0001-b", Version: 1, Parked: Gap, Again: &restated{"0002-b", 1}},
	}, TooLarge})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := scanVersions(string(text)); !ok {
		t.Errorf("%s goes through encoding/json", text)
	}
}

func BenchmarkVersions(b *testing.B) {
	doc := Versions{Aggregates: map[string]*Applied{
		"order/o-1":    {Epoch: "0001-aaaaaaaaaaaaaaaaaaaaaaaa", Version: 4, Recent: []byte("abcdabcdabcdabcd")},
		"payment/p-1":  {Epoch: "0001-aaaaaaaaaaaaaaaaaaaaaaaa", Version: 3, Recent: []byte("abcdabcdabcd")},
		"shipment/s-1": {Epoch: "0001-aaaaaaaaaaaaaaaaaaaaaaaa", Version: 4, Recent: []byte("abcdabcdabcdabcd")},
	}}
	b.Run("json", func(b *testing.B) {
		for b.Loop() {
			_, _ = json.Marshal(doc)
		}
	})
	b.Run("short", func(b *testing.B) {
		for b.Loop() {
			_, _ = doc.marshal()
		}
	})
}

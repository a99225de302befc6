package jsonscan_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/jsonscan"
)

type thing struct {
	Name  string    `json:"n"`
	Maybe *string   `json:"m"`
	Size  int64     `json:"s"`
	Good  bool      `json:"g"`
	At    time.Time `json:"a"`
	Parts []thing   `json:"p,omitempty"`
}

func scan(s *jsonscan.Scanner) (t thing) {
	s.Object(func(name string) {
		switch name {
		case "n":
			t.Name = s.Text()
		case "m":
			t.Maybe = s.OptionalText()
		case "s":
			t.Size = s.Int()
		case "g":
			t.Good = s.Bool()
		case "a":
			t.At = s.Time()
		case "p":
			s.Array(func() { t.Parts = append(t.Parts, scan(s)) })
		default:
			s.Fail()
		}
	})
	return t
}

func draw(t *rapid.T, depth int) thing {
	word := rapid.StringOf(rapid.RuneFrom([]rune("ab/é\"\\<\u2028\n}{,:[]😀")))
	it := thing{
		Name: word.Draw(t, "name"), Size: rapid.Int64().Draw(t, "size"), Good: rapid.Bool().Draw(t, "good"),
		At: time.UnixMicro(rapid.Int64Range(0, 1<<52).Draw(t, "at")).UTC(),
	}
	if rapid.Bool().Draw(t, "some") {
		maybe := word.Draw(t, "maybe")
		it.Maybe = &maybe
	}
	for range rapid.IntRange(0, depth).Draw(t, "parts") {
		it.Parts = append(it.Parts, draw(t, depth-1))
	}
	return it
}

// What encoding/json wrote is read back, all of it; cut short or with something
// behind it, it is not.
func TestWhatWasWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := draw(t, 2)
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		s := jsonscan.New(string(text))
		if diff := cmp.Diff(want, scan(s)); diff != "" || !s.Done() {
			t.Fatalf("%s, done: %v (-written +read):\n%s", text, s.Done(), diff)
		}
		cut := string(text[:rapid.IntRange(0, len(text)-1).Draw(t, "cut")])
		for _, bad := range []string{cut, string(text) + " ", string(text) + "}"} {
			s := jsonscan.New(bad)
			if got := scan(s); s.Done() {
				t.Fatalf("%s is taken for whole: %+v", bad, got)
			}
		}
	})
}

func TestWhatIsNotKnownFails(t *testing.T) {
	for _, text := range []string{
		``, `null`, `{"x":1}`, `{ "n":"a"}`, `{"n":1}`, `{"n":"a`, `{"n":"\x"}`, `{"n":"\`, `{"s":1.5}`, `{"s":1e3}`, `{"s":}`, `{"s":"1"}`, `{"s":99999999999999999999}`,
		`{"g":tru}`, `{"g":null}`, `{"a":"yesterday"}`, `{"a":null}`, `{"p":{}}`, `{"p":[}`, `{"p":[{},]}`, `{"n":"a",}`, `{"n":"a"]`, `{"m":nul}`,
	} {
		s := jsonscan.New(text)
		if got := scan(s); s.Done() {
			t.Errorf("%s is read as %+v", text, got)
		}
	}
}

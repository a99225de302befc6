package session_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/session"
)

const (
	epoch1 = "20261101T000000.000Z-0000000000000001"
	epoch2 = "20261102T000000.000Z-0000000000000002"
)

func token(typ, id string, version int64, epoch string) *freshnessv1.Token {
	return &freshnessv1.Token{
		AggregateType: typ, AggregateId: id, Version: version, Epoch: epoch,
		EventId: uuid.NewSHA1(uuid.Nil, fmt.Append(nil, typ, id, version, epoch)).String(),
	}
}

func same(t *testing.T, want, got []*freshnessv1.Token) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
}

func TestMerge(t *testing.T) {
	a1, a2, b1 := token("order", "a", 1, epoch1), token("order", "a", 2, epoch1), token("order", "b", 1, epoch1)
	after := token("order", "a", 1, epoch2) // the source was restored, and went on
	for name, tt := range map[string]struct{ given, want []*freshnessv1.Token }{
		"one for each aggregate":            {[]*freshnessv1.Token{a1, b1}, []*freshnessv1.Token{a1, b1}},
		"the highest version":               {[]*freshnessv1.Token{a1, a2}, []*freshnessv1.Token{a2}},
		"out of order":                      {[]*freshnessv1.Token{a2, a1}, []*freshnessv1.Token{a2}},
		"a newer epoch wins":                {[]*freshnessv1.Token{a2, after}, []*freshnessv1.Token{after}},
		"an older epoch loses":              {[]*freshnessv1.Token{after, a2}, []*freshnessv1.Token{after}},
		"who was written again is youngest": {[]*freshnessv1.Token{a1, b1, a2}, []*freshnessv1.Token{b1, a2}},
		"none":                              {[]*freshnessv1.Token{nil}, []*freshnessv1.Token{}},
	} {
		t.Run(name, func(t *testing.T) {
			var s session.Session
			s.Add(tt.given...)
			same(t, tt.want, s.Tokens())
			if s.Dropped() != 0 {
				t.Errorf("%d dropped", s.Dropped())
			}
		})
	}
}

func TestTheOldestWritesAreDroppedVisibly(t *testing.T) {
	var s session.Session
	var all []*freshnessv1.Token
	for i := range session.MaxTokens + 7 {
		all = append(all, token("order", fmt.Sprint("o", i), 1, epoch1))
	}
	s.Add(all...)
	same(t, all[7:], s.Tokens())
	if s.Dropped() != 7 {
		t.Errorf("%d dropped, want 7", s.Dropped())
	}
	again, err := session.Parse(s.String())
	if err != nil {
		t.Fatal(err)
	}
	if same(t, all[7:], again.Tokens()); again.Dropped() != 7 {
		t.Errorf("%d dropped after it was read back", again.Dropped())
	}
}

func anyToken(t *rapid.T) *freshnessv1.Token {
	id := rapid.OneOf(rapid.StringMatching(`[ -~]{1,64}`), rapid.Just(uuid.NewString()), rapid.StringN(1, 16, 64).Filter(func(s string) bool { return !strings.Contains(s, "\x00") }))
	return &freshnessv1.Token{
		AggregateType: rapid.SampledFrom([]string{"order", "payment", "shipment", strings.Repeat("t", 40)}).Draw(t, "type"),
		AggregateId:   id.Draw(t, "id"), Version: rapid.Int64Min(1).Draw(t, "version"),
		Epoch:   rapid.SampledFrom([]string{epoch1, epoch2, strings.Repeat("e", 80)}).Draw(t, "epoch"),
		EventId: rapid.SampledFrom([]string{uuid.NewString(), strings.ToUpper(uuid.NewString())}).Draw(t, "event"),
	}
}

// Whatever a session holds, its text is bounded, and reads back as the youngest
// of its writes, with the others counted.
func TestText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s session.Session
		s.Add(rapid.SliceOfN(rapid.Custom(anyToken), 0, 2*session.MaxTokens).Draw(t, "tokens")...)
		text := s.String()
		if len(text) > session.MaxText {
			t.Fatalf("%d bytes", len(text))
		}
		again, err := session.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		all, kept := s.Tokens(), again.Tokens()
		lost := len(all) - len(kept)
		if diff := cmp.Diff(all[lost:], kept, protocmp.Transform()); diff != "" {
			t.Fatalf("read back (-want +got):\n%s", diff)
		}
		if again.Dropped() != s.Dropped()+int64(lost) {
			t.Fatalf("%d dropped, want %d and %d", again.Dropped(), s.Dropped(), lost)
		}
	})
}

func TestFiftyOrdinaryWritesFit(t *testing.T) {
	var s session.Session
	for i := range session.MaxTokens {
		s.Add(token([]string{"order", "payment", "shipment"}[i%3], uuid.NewString(), int64(i+1), []string{epoch1, epoch2}[i%2]))
	}
	again, err := session.Parse(s.String())
	if err != nil {
		t.Fatal(err)
	}
	same(t, s.Tokens(), again.Tokens())
	t.Logf("%d bytes", len(s.String()))
}

func TestHostileText(t *testing.T) {
	raw := func(b ...byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	var s session.Session
	s.Add(token("order", "a", 1, epoch1), token("payment", uuid.NewString(), 2, epoch1))
	good := s.String()
	bad := map[string]string{
		"not base64": "!!!!", "too long": strings.Repeat("A", session.MaxText+1), "another version": raw(2, 0, 0),
		"nothing behind the version": raw(1), "more tokens than allowed": raw(1, 0, 51),
		"tokens that do not come": raw(1, 0, 50), "a string longer than the text": raw(1, 0, 1, 0, 40, 'x'),
		"a string that never came": raw(1, 0, 1, 3), "an endless number": raw(1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"something behind the end": good + "AAAA", "cut": good[:len(good)-4],
		"an empty type": raw(append([]byte{1, 0, 1, 0, 0, 1, 'a', 1, 0, 1, 'e', 0}, make([]byte, 16)...)...),
		"NUL":           raw(append([]byte{1, 0, 1, 0, 1, 0, 1, 'a', 1, 0, 1, 'e', 0}, make([]byte, 16)...)...),
		"version 0":     raw(append([]byte{1, 0, 1, 0, 1, 'o', 1, 'a', 0, 0, 1, 'e', 0}, make([]byte, 16)...)...),
		"no event id":   raw(1, 0, 1, 0, 1, 'o', 1, 'a', 1, 0, 1, 'e', 1, 'x'),
	}
	for name, text := range bad {
		if got, err := session.Parse(text); !errors.Is(err, session.ErrText) || got != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := session.Parse(""); err != nil || len(got.Tokens()) != 0 || got.String() != "" {
		t.Errorf("no text: %v, %v", got, err)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := raw(append([]byte{1}, rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "bytes")...)...)
		if got, err := session.Parse(text); err == nil && len(got.Tokens()) > session.MaxTokens {
			t.Fatalf("%d tokens", len(got.Tokens()))
		}
	})
}

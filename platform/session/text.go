package session

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// MaxText is the longest text of a session, in bytes. With a name and attributes
// it fits a cookie (RFC 6265 promises 4,096).
const MaxText = 3800

const textVersion = 1

var encoding = base64.RawURLEncoding

// ErrText says that a text is not one of a session of this version.
var ErrText = errors.New("not the text of a session")

// String returns the session as opaque text of letters, digits, - and _, at
// most MaxText of them. If there is no room for all writes, the oldest are left
// out, and the session that is read back counts them as dropped. The text is
// neither secret nor signed: it names ids of aggregates, and who changes it
// spoils their own reads only.
func (s *Session) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tokens) == 0 && s.dropped == 0 {
		return ""
	}
	for first := range s.tokens {
		if text := write(s.tokens[first:], s.dropped+int64(first)); len(text) <= MaxText {
			return text
		}
	}
	return write(nil, s.dropped+int64(len(s.tokens)))
}

func write(tokens []event.Token, dropped int64) string {
	w := &writer{known: map[string]uint64{}}
	w.bytes = append(w.bytes, textVersion)
	w.number(uint64(dropped))
	w.number(uint64(len(tokens)))
	for _, t := range tokens {
		w.repeated(t.Type)
		w.id(t.ID)
		w.number(uint64(t.Version))
		w.repeated(t.Epoch)
		w.id(t.EventID)
	}
	return encoding.EncodeToString(w.bytes)
}

// Parse reads what String wrote; no text is an empty session. Any other text is
// answered by ErrText and no session, at no greater cost than its length:
// start a new one then.
func Parse(text string) (*Session, error) {
	if text == "" {
		return &Session{}, nil
	}
	if len(text) > MaxText {
		return nil, ErrText
	}
	bytes, err := encoding.DecodeString(text)
	if err != nil || bytes[0] != textVersion {
		return nil, ErrText
	}
	r := &reader{left: bytes[1:]}
	s := &Session{dropped: int64(r.number(math.MaxInt64))}
	for range r.number(MaxTokens) {
		t := event.Token{}
		t.Type = r.repeated(40)
		t.ID = r.id(64)
		t.Version = int64(r.number(math.MaxInt64))
		t.Epoch = r.repeated(80)
		t.EventID = r.id(36)
		if _, err := uuid.Parse(t.EventID); err != nil || t.Version < 1 {
			return nil, ErrText
		}
		s.add(t)
	}
	if r.bad || len(r.left) > 0 {
		return nil, ErrText
	}
	return s, nil
}

// writer makes numbers short, strings that come again one byte, and UUIDs
// sixteen.
type writer struct {
	bytes []byte
	known map[string]uint64
}

func (w *writer) number(n uint64) { w.bytes = binary.AppendUvarint(w.bytes, n) }

func (w *writer) text(s string) {
	w.number(uint64(len(s)))
	w.bytes = append(w.bytes, s...)
}

// repeated writes 0 and the string, or the number under which it came before.
func (w *writer) repeated(s string) {
	if n, ok := w.known[s]; ok {
		w.number(n)
		return
	}
	w.known[s] = uint64(len(w.known) + 1)
	w.number(0)
	w.text(s)
}

// id writes 0 and the bytes of a UUID, or the string.
func (w *writer) id(s string) {
	if u, err := uuid.Parse(s); err == nil && u.String() == s {
		w.number(0)
		w.bytes = append(w.bytes, u[:]...)
		return
	}
	w.text(s)
}

// reader reads what writer wrote. After anything else it is bad, and returns
// zero values.
type reader struct {
	left  []byte
	known []string
	bad   bool
}

func (r *reader) number(limit uint64) uint64 {
	n, size := binary.Uvarint(r.left)
	if size <= 0 || n > limit {
		r.bad, r.left = true, nil
		return 0
	}
	r.left = r.left[size:]
	return n
}

func (r *reader) take(n uint64) string {
	if n > uint64(len(r.left)) {
		r.bad, r.left = true, nil
		return ""
	}
	s := string(r.left[:n])
	r.left = r.left[n:]
	return s
}

func (r *reader) clean(s string) string {
	if s == "" || !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		r.bad = true
	}
	return s
}

func (r *reader) repeated(limit uint64) string {
	n := r.number(uint64(len(r.known)))
	if n > 0 {
		return r.known[n-1]
	}
	s := r.clean(r.take(r.number(limit)))
	r.known = append(r.known, s)
	return s
}

func (r *reader) id(limit uint64) string {
	if n := r.number(limit); n > 0 {
		return r.clean(r.take(n))
	}
	u, err := uuid.FromBytes([]byte(r.take(16)))
	if err != nil {
		r.bad = true
	}
	return u.String()
}

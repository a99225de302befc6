// Package jsonscan reads JSON that this program wrote itself, without
// reflection: what every query decodes is worth a loop by hand. It knows what
// encoding/json writes and nothing else: no space between tokens, no number with
// a fraction. Whoever meets more than that, Done says so, and has encoding/json
// read the text instead.
package jsonscan

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Scanner reads one text from its beginning to its end. After a failure it
// returns zero values; look at Done once, at the end.
type Scanner struct {
	rest   string
	failed bool
}

// New returns a scanner at the beginning of a text. Strings that it returns are
// parts of the text.
func New(text string) *Scanner { return &Scanner{rest: text} }

// Done reports whether the whole text was read, and nothing else was met than
// was asked for.
func (s *Scanner) Done() bool { return !s.failed && s.rest == "" }

// Fail says that the caller met what it does not know.
func (s *Scanner) Fail() { s.failed = true }

// Object reads an object. field is called with the name of each member and has
// to read its value.
func (s *Scanner) Object(field func(name string)) {
	s.list('{', '}', func() {
		name := s.Text()
		if s.take(':'); !s.failed {
			field(name)
		}
	})
}

// Array reads an array. element has to read each element.
func (s *Scanner) Array(element func()) { s.list('[', ']', element) }

func (s *Scanner) list(open, end byte, element func()) {
	s.take(open)
	if s.failed || s.has(end) {
		return
	}
	for {
		element()
		if s.failed || !s.has(',') {
			break
		}
	}
	s.take(end)
}

// Null reports whether a null comes next, and if so, reads it.
func (s *Scanner) Null() bool {
	rest, found := strings.CutPrefix(s.rest, "null")
	s.rest = rest
	return found && !s.failed
}

// Text reads a string.
func (s *Scanner) Text() string {
	s.take('"')
	end := strings.IndexByte(s.rest, '"')
	if s.failed || end < 0 {
		s.failed = true
		return ""
	}
	text := s.rest[:end]
	if strings.IndexByte(text, '\\') >= 0 {
		return s.escaped()
	}
	s.rest = s.rest[end+1:]
	return text
}

// escaped reads the rest of a string that has escapes.
func (s *Scanner) escaped() (text string) {
	end := 0
	for end < len(s.rest) && s.rest[end] != '"' {
		if s.rest[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(s.rest) || json.Unmarshal([]byte(`"`+s.rest[:end+1]), &text) != nil {
		s.failed = true
		return ""
	}
	s.rest = s.rest[end+1:]
	return text
}

// OptionalText reads a string or null.
func (s *Scanner) OptionalText() *string {
	if s.Null() {
		return nil
	}
	text := s.Text()
	return &text
}

// Int reads a whole number.
func (s *Scanner) Int() int64 {
	end := 0
	for end < len(s.rest) && (s.rest[end] == '-' || s.rest[end] >= '0' && s.rest[end] <= '9') {
		end++
	}
	n, err := strconv.ParseInt(s.rest[:end], 10, 64)
	if err != nil || s.failed {
		s.failed = true
		return 0
	}
	s.rest = s.rest[end:]
	return n
}

// Bool reads true or false.
func (s *Scanner) Bool() bool {
	for _, value := range []bool{true, false} {
		if rest, found := strings.CutPrefix(s.rest, strconv.FormatBool(value)); found && !s.failed {
			s.rest = rest
			return value
		}
	}
	s.failed = true
	return false
}

// Time reads an instant as time.Time writes itself.
func (s *Scanner) Time() time.Time {
	at, err := time.Parse(time.RFC3339Nano, s.Text())
	if err != nil || s.failed {
		s.failed = true
		return time.Time{}
	}
	return at
}

func (s *Scanner) has(b byte) bool {
	if s.failed || s.rest == "" || s.rest[0] != b {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *Scanner) take(b byte) {
	if !s.has(b) {
		s.failed = true
	}
}

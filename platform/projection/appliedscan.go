package projection

import (
	"bytes"
	"encoding/base64"
	"strconv"
)

// scanApplied decodes an appliedDoc as encode writes it, which every query does
// and reflection makes dear. What it does not know, an escaped letter or another
// order of fields, is not ok, and left to encoding/json.
func scanApplied(text []byte) (doc appliedDoc, ok bool) {
	s := appliedScan{rest: text}
	s.take(`{"a":{`)
	doc.Aggregates = make(map[string]*applied, 4)
	for more := !s.has(`}`); more && !s.failed; more = s.next() {
		key := s.text()
		s.take(`:`)
		doc.Aggregates[key] = s.record()
	}
	if s.has(`,"b":`) {
		doc.Blocked = Verdict(s.text())
	}
	s.take(`}`)
	return doc, !s.failed && len(s.rest) == 0
}

type appliedScan struct {
	rest   []byte
	failed bool
}

func (s *appliedScan) has(prefix string) bool {
	if len(s.rest) < len(prefix) || string(s.rest[:len(prefix)]) != prefix {
		return false
	}
	s.rest = s.rest[len(prefix):]
	return true
}

func (s *appliedScan) take(prefix string) {
	if !s.has(prefix) {
		s.failed = true
	}
}

// next reports whether another member follows, else the object has ended.
func (s *appliedScan) next() bool {
	if s.has(`,`) {
		return true
	}
	s.take(`}`)
	return false
}

// quoted returns a string without its quotes; it is part of the input.
func (s *appliedScan) quoted() []byte {
	s.take(`"`)
	end := bytes.IndexByte(s.rest, '"')
	if s.failed || end < 0 || bytes.IndexByte(s.rest[:end], '\\') >= 0 {
		s.failed = true
		return nil
	}
	found := s.rest[:end]
	s.rest = s.rest[end+1:]
	return found
}

func (s *appliedScan) text() string { return string(s.quoted()) }

func (s *appliedScan) number() int64 {
	end := 0
	for end < len(s.rest) && s.rest[end] >= '0' && s.rest[end] <= '9' {
		end++
	}
	n, err := strconv.ParseInt(string(s.rest[:end]), 10, 64)
	s.failed = s.failed || err != nil
	s.rest = s.rest[end:]
	return n
}

func (s *appliedScan) record() *applied {
	a := &applied{}
	s.take(`{"e":`)
	a.Epoch = s.text()
	s.take(`,"v":`)
	a.Version = s.number()
	if s.has(`,"r":`) {
		encoded := s.quoted()
		a.Recent = make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
		n, err := base64.StdEncoding.Decode(a.Recent, encoded)
		s.failed = s.failed || err != nil
		a.Recent = a.Recent[:n]
	}
	if s.has(`,"p":`) {
		a.Parked = Verdict(s.text())
	}
	if s.has(`,"k":`) {
		a.Skipped = s.number()
	}
	if s.has(`,"n":{"e":`) {
		a.Again = &restated{Epoch: s.text()}
		s.take(`,"v":`)
		a.Again.Version = s.number()
		s.take(`}`)
	}
	s.take(`}`)
	return a
}

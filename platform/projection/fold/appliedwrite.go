package fold

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
)

// marshal encodes versions as encoding/json does, which every fact that is
// applied pays for, and reflection makes dear. Texts that need escapes are left to
// encoding/json.
func (doc Versions) marshal() ([]byte, error) {
	var space [8]string
	keys := slices.AppendSeq(space[:0], maps.Keys(doc.Aggregates))
	slices.Sort(keys)
	size := 32
	for _, key := range keys {
		a := doc.Aggregates[key]
		if a == nil || !plain(key) || !plain(a.Epoch) || !plain(string(a.Parked)) || a.Again != nil && !plain(a.Again.Epoch) {
			return json.Marshal(doc)
		}
		size += len(key) + len(a.Epoch) + len(a.Recent)*4/3 + 64
	}
	if doc.Aggregates == nil || !plain(string(doc.Blocked)) {
		return json.Marshal(doc)
	}
	b := append(make([]byte, 0, size), `{"a":{`...)
	for i, key := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(quoted(b, key), ':')
		b = doc.Aggregates[key].append(b)
	}
	b = append(b, '}')
	if doc.Blocked != "" {
		b = quoted(append(b, `,"b":`...), string(doc.Blocked))
	}
	return append(b, '}'), nil
}

func (a *Applied) append(b []byte) []byte {
	b = quoted(append(b, `{"e":`...), a.Epoch)
	b = strconv.AppendInt(append(b, `,"v":`...), a.Version, 10)
	if len(a.Recent) > 0 {
		b = append(base64.StdEncoding.AppendEncode(append(b, `,"r":"`...), a.Recent), '"')
	}
	if a.Parked != "" {
		b = quoted(append(b, `,"p":`...), string(a.Parked))
	}
	if a.Skipped != 0 {
		b = strconv.AppendInt(append(b, `,"k":`...), a.Skipped, 10)
	}
	if a.Again != nil {
		b = quoted(append(b, `,"n":{"e":`...), a.Again.Epoch)
		b = append(strconv.AppendInt(append(b, `,"v":`...), a.Again.Version, 10), '}')
	}
	return append(b, '}')
}

func quoted(b []byte, s string) []byte { return append(append(append(b, '"'), s...), '"') }

// plain reports whether encoding/json writes the text as it is.
func plain(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
}

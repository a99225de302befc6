package projection

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// fieldApart is a field with both values.
type fieldApart struct{ name, base, value string }

// fieldsApart compares a row of the base, with the columns both, with one that
// has the columns all. A nil row is not there.
func fieldsApart(both, all []fold.Column, base, value fold.Row) []fieldApart {
	if base == nil {
		return []fieldApart{{value: "(row)"}}
	}
	var apart []fieldApart
	for i, col := range both {
		j := slices.IndexFunc(all, func(a fold.Column) bool { return a.Name == col.Name })
		if !equalValues(col, base[i], value[j]) {
			apart = append(apart, documentsApart(col.Name, textOf(base[i]), textOf(value[j]))...)
		}
	}
	return apart
}

func equalValues(col fold.Column, a, b any) bool {
	if fold.EqualRows(fold.Row{a}, fold.Row{b}) {
		return true
	}
	x, ok := a.(string)
	y, also := b.(string)
	if col.Type != fold.TypeJSON || !ok || !also {
		return false
	}
	var m, n any
	if json.Unmarshal([]byte(x), &m) != nil || json.Unmarshal([]byte(y), &n) != nil {
		return false
	}
	return textOf(m) == textOf(n)
}

// documentsApart goes into documents, so that the field is named and not the
// column that holds all of them.
func documentsApart(path, base, value string) []fieldApart {
	var a, b map[string]any
	if json.Unmarshal([]byte(base), &a) != nil || json.Unmarshal([]byte(value), &b) != nil || a == nil || b == nil {
		return []fieldApart{{path, brief(base), brief(value)}}
	}
	var apart []fieldApart
	keys := map[string]bool{}
	for _, m := range []map[string]any{a, b} {
		for k := range m {
			keys[k] = true
		}
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if x, y := textOf(a[k]), textOf(b[k]); x != y {
			apart = append(apart, documentsApart(path+"."+k, x, y)...)
		}
	}
	return apart
}

// textOf writes a value for a person, and the same for equal values.
func textOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return v
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

func brief(s string) string {
	const most = 120
	if s = fold.Clean(s); len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// keyText names a row within its order.
func keyText(columns []fold.Column, r fold.Row) string {
	var parts []string
	for i, col := range columns {
		if col.Key && col.Name != "order_id" {
			parts = append(parts, textOf(r[i]))
		}
	}
	return strings.Join(parts, "/")
}

// hashOf maps a key to a number, differently in every run.
func hashOf(seed maphash.Seed, parts ...string) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, part := range parts {
		_, _ = h.WriteString(part)
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

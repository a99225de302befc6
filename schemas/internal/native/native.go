// Package native converts between typed events and the maps that goavro reads
// and writes, and checks both ways. goavro ignores keys it does not know and
// fills in what is missing; here a key that is missing, unknown or of another
// type is an error that names the field.
//
// The native forms are goavro's: bool, int32, int64, string, []byte,
// time.Time for timestamp-micros, []any, map[string]any for records, and for a
// nullable value nil or a map with the one key that names its type.
package native

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxItems is the most items a list may have.
const MaxItems = 1000

// Names of types inside a union, as goavro spells them.
const (
	unionString    = "string"
	unionArray     = "array"
	unionTimestamp = "long.timestamp-micros"
)

// Record is a generated struct.
type Record interface {
	// ToNative returns the record as goavro writes it.
	ToNative() (map[string]any, error)
	// FromNative sets the record from what goavro read, or leaves it alone
	// and says what is wrong.
	FromNative(value any) error
}

// FieldError says which field of a record is wrong, and how. It never holds
// the field's value, which may be personal data.
type FieldError struct {
	Path   string // for instance "OrderPlaced.lines[3].unit_price.currency"
	Reason string
}

// Error returns the path and the reason.
func (e *FieldError) Error() string { return e.Path + ": " + e.Reason }

// below puts a path in front of the error's own. Conversions of records only
// fail with field errors, whose path starts with the record's name.
func below(path string, err error) error {
	inner, ok := err.(*FieldError)
	if !ok {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, rest, nested := strings.Cut(inner.Path, ".")
	if nested {
		path += "." + rest
	}
	return &FieldError{Path: path, Reason: inner.Reason}
}

func item(name string, i int) string { return name + "[" + strconv.Itoa(i) + "]" }

// The check functions return what is wrong with a value, or "".

// checkString refuses what Avro does not allow (bytes that are no UTF-8) and
// what Postgres cannot store (NUL).
func checkString(s string) string {
	switch {
	case !utf8.ValidString(s):
		return "is not UTF-8"
	case strings.IndexByte(s, 0) >= 0:
		return "contains NUL"
	}
	return ""
}

func checkCurrency(s string) string {
	capital := func(b byte) bool { return 'A' <= b && b <= 'Z' }
	if len(s) == 3 && capital(s[0]) && capital(s[1]) && capital(s[2]) {
		return ""
	}
	return "is not an ISO 4217 code of three capital letters"
}

func checkLen(n, limit int) string {
	if n > limit {
		return fmt.Sprintf("has %d items, more than %d", n, limit)
	}
	return ""
}

// checkTime refuses the zero time, which stands for a forgotten field, and
// years that RFC 3339 cannot write.
func checkTime(t time.Time) string {
	switch year := t.UTC().Year(); {
	case t.IsZero():
		return "is not set"
	case year < 1 || year > 9999:
		return "is outside the years 1 to 9999"
	}
	return ""
}

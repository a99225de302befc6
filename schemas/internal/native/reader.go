package native

import (
	"fmt"
	"time"
)

// Reader takes the native map of one record apart and remembers the first
// error. Each field must be asked for once.
type Reader struct {
	record string
	fields map[string]any
	asked  int
	err    error
}

// NewReader starts to read a record of the given name.
func NewReader(record string, value any) *Reader {
	r := &Reader{record: record}
	fields, ok := value.(map[string]any)
	if !ok {
		r.err = &FieldError{Path: record, Reason: fmt.Sprintf("is a %T, not a record", value)}
	}
	r.fields = fields
	return r
}

// Done returns the first error; a key that was not asked for is one.
func (r *Reader) Done() error {
	if r.err == nil && len(r.fields) != r.asked {
		r.err = &FieldError{Path: r.record, Reason: fmt.Sprintf("has %d fields, of which %d are unknown", len(r.fields), len(r.fields)-r.asked)}
	}
	return r.err
}

func (r *Reader) fail(name, reason string) {
	if r.err == nil {
		r.err = &FieldError{Path: r.record + "." + name, Reason: reason}
	}
}

func (r *Reader) check(name, reason string) {
	if reason != "" {
		r.fail(name, reason)
	}
}

func get[T any](r *Reader, name string) T {
	var zero T
	value, ok := r.fields[name]
	if !ok {
		r.fail(name, "is missing")
		return zero
	}
	r.asked++
	typed, ok := value.(T)
	if !ok {
		r.fail(name, fmt.Sprintf("is a %T, not a %T", value, zero))
	}
	return typed
}

// getNull reads a nullable value whose type has the given name in the union.
func getNull[T any](r *Reader, name, union string) (T, bool) {
	var zero T
	value, ok := r.fields[name]
	if !ok {
		r.fail(name, "is missing")
		return zero, false
	}
	r.asked++
	if value == nil {
		return zero, false
	}
	branch, _ := value.(map[string]any)
	inner, named := branch[union]
	typed, ok := inner.(T)
	if len(branch) != 1 || !named || !ok {
		r.fail(name, fmt.Sprintf("is neither null nor a map with the one key %q and a %T", union, zero))
		return zero, false
	}
	return typed, true
}

// Bool reads a boolean.
func (r *Reader) Bool(name string) bool { return get[bool](r, name) }

// Int reads an int.
func (r *Reader) Int(name string) int32 { return get[int32](r, name) }

// Long reads a long.
func (r *Reader) Long(name string) int64 { return get[int64](r, name) }

// Fixed reads a fixed into dst, which has its size.
func (r *Reader) Fixed(name string, dst []byte) {
	value := get[[]byte](r, name)
	if len(value) != len(dst) {
		r.fail(name, fmt.Sprintf("has %d bytes, not %d", len(value), len(dst)))
	}
	copy(dst, value)
}

// String reads a string.
func (r *Reader) String(name string) string {
	value := get[string](r, name)
	r.check(name, checkString(value))
	return value
}

// Currency reads a string that is a currency code.
func (r *Reader) Currency(name string) string {
	value := get[string](r, name)
	r.check(name, checkCurrency(value))
	return value
}

// Time reads a timestamp.
func (r *Reader) Time(name string) time.Time {
	value := get[time.Time](r, name)
	r.check(name, checkTime(value))
	return value.UTC()
}

// NullString reads a nullable string.
func (r *Reader) NullString(name string) *string {
	value, ok := getNull[string](r, name, unionString)
	if !ok {
		return nil
	}
	r.check(name, checkString(value))
	return &value
}

// NullTime reads a nullable timestamp.
func (r *Reader) NullTime(name string) *time.Time {
	value, ok := getNull[time.Time](r, name, unionTimestamp)
	if !ok {
		return nil
	}
	r.check(name, checkTime(value))
	value = value.UTC()
	return &value
}

// Strings reads a list of strings; an empty list is a nil slice.
func (r *Reader) Strings(name string, limit int) []string {
	values := get[[]any](r, name)
	r.check(name, checkLen(len(values), limit))
	if len(values) == 0 {
		return nil
	}
	out := make([]string, len(values))
	for i, value := range values {
		s, ok := value.(string)
		if !ok {
			r.fail(item(name, i), fmt.Sprintf("is a %T, not a string", value))
		}
		r.check(item(name, i), checkString(s))
		out[i] = s
	}
	return out
}

// Record reads a record.
func (r *Reader) Record(name string, into Record) {
	value := get[map[string]any](r, name)
	if r.err != nil {
		return
	}
	r.into(name, value, into)
}

func (r *Reader) into(name string, value any, into Record) {
	if err := into.FromNative(value); err != nil && r.err == nil {
		r.err = below(r.record+"."+name, err)
	}
}

// GetEnum reads an enum.
func GetEnum[E Enum](r *Reader, name string) E {
	value := E(get[string](r, name))
	if !value.Valid() {
		r.fail(name, "is not one of the allowed words")
	}
	return value
}

// GetNullRecord reads a nullable record of the given full name.
func GetNullRecord[T any, P Pointer[T]](r *Reader, name, fullName string) *T {
	value, ok := getNull[map[string]any](r, name, fullName)
	if !ok {
		return nil
	}
	out := new(T)
	r.into(name, value, P(out))
	return out
}

// GetList reads a list of records; an empty list is a nil slice.
func GetList[T any, P Pointer[T]](r *Reader, name string, limit int) []T {
	values := get[[]any](r, name)
	if len(values) == 0 {
		return nil
	}
	return records[T, P](r, name, values, limit)
}

// GetNullList reads a nullable list of records; null is a nil slice, an empty
// list is an empty one.
func GetNullList[T any, P Pointer[T]](r *Reader, name string, limit int) []T {
	values, ok := getNull[[]any](r, name, unionArray)
	if !ok {
		return nil
	}
	return records[T, P](r, name, values, limit)
}

func records[T any, P Pointer[T]](r *Reader, name string, values []any, limit int) []T {
	r.check(name, checkLen(len(values), limit))
	if r.err != nil {
		return nil
	}
	out := make([]T, len(values))
	for i, value := range values {
		r.into(item(name, i), value, P(&out[i]))
	}
	return out
}

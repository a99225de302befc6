package native

import "time"

// Writer builds the native map of one record and remembers the first error.
type Writer struct {
	record string
	fields map[string]any
	err    error
}

// NewWriter starts the map of a record with the given number of fields.
func NewWriter(record string, fields int) *Writer {
	return &Writer{record: record, fields: make(map[string]any, fields)}
}

// Done returns the map, or the first error.
func (w *Writer) Done() (map[string]any, error) {
	if w.err != nil {
		return nil, w.err
	}
	return w.fields, nil
}

// put sets a field unless a reason speaks against it.
func (w *Writer) put(name string, value any, reason string) {
	if reason != "" && w.err == nil {
		w.err = &FieldError{Path: w.record + "." + name, Reason: reason}
	}
	w.fields[name] = value
}

// nested sets a field to a record, or to what is wrong in it.
func (w *Writer) nested(name string, r Record) map[string]any {
	value, err := r.ToNative()
	if err != nil && w.err == nil {
		w.err = below(w.record+"."+name, err)
	}
	return value
}

// Bool sets a boolean.
func (w *Writer) Bool(name string, v bool) { w.fields[name] = v }

// Int sets an int.
func (w *Writer) Int(name string, v int32) { w.fields[name] = v }

// Long sets a long.
func (w *Writer) Long(name string, v int64) { w.fields[name] = v }

// Fixed sets a fixed. The caller must not change the bytes afterwards.
func (w *Writer) Fixed(name string, v []byte) { w.fields[name] = v }

// String sets a string.
func (w *Writer) String(name, v string) { w.put(name, v, checkString(v)) }

// Currency sets a string that is a currency code.
func (w *Writer) Currency(name, v string) { w.put(name, v, checkCurrency(v)) }

// Time sets a timestamp. What is finer than a microsecond is cut off.
func (w *Writer) Time(name string, v time.Time) {
	w.put(name, v.UTC().Truncate(time.Microsecond), checkTime(v))
}

// NullString sets a nullable string.
func (w *Writer) NullString(name string, v *string) {
	if v == nil {
		w.fields[name] = nil
		return
	}
	w.put(name, map[string]any{unionString: *v}, checkString(*v))
}

// NullTime sets a nullable timestamp.
func (w *Writer) NullTime(name string, v *time.Time) {
	if v == nil {
		w.fields[name] = nil
		return
	}
	w.put(name, map[string]any{unionTimestamp: v.UTC().Truncate(time.Microsecond)}, checkTime(*v))
}

// Strings sets a list of strings.
func (w *Writer) Strings(name string, v []string, limit int) {
	list := make([]any, len(v))
	for i, s := range v {
		list[i] = s
		if reason := checkString(s); reason != "" {
			w.put(item(name, i), nil, reason)
		}
	}
	w.put(name, list, checkLen(len(v), limit))
}

// Record sets a record.
func (w *Writer) Record(name string, v Record) { w.fields[name] = w.nested(name, v) }

// PutEnum sets an enum.
func PutEnum[E Enum](w *Writer, name string, v E) {
	reason := ""
	if !v.Valid() {
		reason = "is not one of the allowed words"
	}
	w.put(name, string(v), reason)
}

// PutNullRecord sets a nullable record of the given full name.
func PutNullRecord[T any, P Pointer[T]](w *Writer, name, fullName string, v *T) {
	if v == nil {
		w.fields[name] = nil
		return
	}
	w.fields[name] = map[string]any{fullName: w.nested(name, P(v))}
}

// PutList sets a list of records.
func PutList[T any, P Pointer[T]](w *Writer, name string, v []T, limit int) {
	w.put(name, list[T, P](w, name, v), checkLen(len(v), limit))
}

// PutNullList sets a nullable list of records; a nil slice is null.
func PutNullList[T any, P Pointer[T]](w *Writer, name string, v []T, limit int) {
	if v == nil {
		w.fields[name] = nil
		return
	}
	w.put(name, map[string]any{unionArray: list[T, P](w, name, v)}, checkLen(len(v), limit))
}

func list[T any, P Pointer[T]](w *Writer, name string, v []T) []any {
	out := make([]any, len(v))
	for i := range v {
		value, err := P(&v[i]).ToNative()
		if err != nil && w.err == nil {
			w.err = below(w.record+"."+item(name, i), err)
		}
		out[i] = value
	}
	return out
}

// Enum is a generated enum type.
type Enum interface {
	~string
	// Valid reports whether the value is one of the enum's symbols.
	Valid() bool
}

// Pointer is the pointer type of a generated struct.
type Pointer[T any] interface {
	*T
	Record
}

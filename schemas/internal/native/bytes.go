package native

import (
	"encoding/binary"
	"math"
	"time"
)

// Bytes takes the fields of a record from bare Avro, in the order of its schema,
// without maps in between. It refuses what [Reader] refuses, but does not say
// why: whoever wants to know reads the record the other way.
type Bytes struct {
	rest []byte
	text string // what rest is of, if that is small
	bad  bool
}

// shared is up to how many bytes all texts of a record share their memory: few
// enough that it does no harm if one of them is kept for long.
const shared = 1 << 10

// NewBytes starts to read a record.
func NewBytes(bare []byte) *Bytes {
	b := &Bytes{rest: bare}
	if len(bare) <= shared {
		b.text = string(bare)
	}
	return b
}

// Done reports whether the bytes were one record, and nothing else.
func (b *Bytes) Done() bool { return !b.bad && len(b.rest) == 0 }

func (b *Bytes) fail() {
	b.bad, b.rest = true, nil
}

// Long reads a long.
func (b *Bytes) Long() int64 {
	n, size := binary.Varint(b.rest)
	if size <= 0 {
		b.fail()
		return 0
	}
	b.rest = b.rest[size:]
	return n
}

// Int reads an int.
func (b *Bytes) Int() int32 {
	n := b.Long()
	if n < math.MinInt32 || n > math.MaxInt32 {
		b.fail()
	}
	return int32(n)
}

// Index reads which symbol of an enum, or which branch of a union, out of so many.
func (b *Bytes) Index(many int) int {
	n := b.Long()
	if n < 0 || n >= int64(many) {
		b.fail()
		return 0
	}
	return int(n)
}

// Null reads whether a nullable value is null.
func (b *Bytes) Null() bool { return b.Index(2) == 0 || b.bad }

// Bool reads a boolean.
func (b *Bytes) Bool() bool {
	if len(b.rest) == 0 || b.rest[0] > 1 {
		b.fail()
		return false
	}
	is := b.rest[0] == 1
	b.rest = b.rest[1:]
	return is
}

// Fixed reads a fixed into dst, which has its size.
func (b *Bytes) Fixed(dst []byte) {
	if len(b.rest) < len(dst) {
		b.fail()
		return
	}
	copy(dst, b.rest)
	b.rest = b.rest[len(dst):]
}

func (b *Bytes) raw() string {
	n := b.Long()
	if n < 0 || n > int64(len(b.rest)) {
		b.fail()
		return ""
	}
	var s string
	if from := len(b.text) - len(b.rest); from >= 0 {
		s = b.text[from : from+int(n)]
	} else {
		s = string(b.rest[:n])
	}
	b.rest = b.rest[n:]
	return s
}

// String reads a string.
func (b *Bytes) String() string {
	s := b.raw()
	if checkString(s) != "" {
		b.fail()
	}
	return s
}

// Currency reads a string that is a currency code.
func (b *Bytes) Currency() string {
	s := b.raw()
	if checkCurrency(s) != "" {
		b.fail()
	}
	return s
}

// Time reads a timestamp.
func (b *Bytes) Time() time.Time {
	t := time.UnixMicro(b.Long()).UTC()
	if checkTime(t) != "" {
		b.fail()
	}
	return t
}

// NullString reads a nullable string.
func (b *Bytes) NullString() *string {
	if b.Null() {
		return nil
	}
	s := b.String()
	return &s
}

// NullTime reads a nullable timestamp.
func (b *Bytes) NullTime() *time.Time {
	if b.Null() {
		return nil
	}
	t := b.Time()
	return &t
}

// block reads how many items follow, after so many; none at the end of a list.
func (b *Bytes) block(after, limit int) int {
	n := b.Long()
	if n < 0 {
		n = -n
		b.Long() // its size, which whoever skips it wants to know
	}
	if n < 0 || n > int64(limit-after) || n > int64(len(b.rest)) {
		b.fail() // items that need no bytes are in no list of ours
		return 0
	}
	return int(n)
}

// Strings reads a list of strings; an empty list is a nil slice.
func (b *Bytes) Strings(limit int) (list []string) {
	for n := b.block(0, limit); n > 0; n = b.block(len(list), limit) {
		for range n {
			list = append(list, b.String())
		}
	}
	return list
}

// FromBytes is the pointer type of a generated struct that is read from bytes.
type FromBytes[T any] interface {
	*T
	// ReadAvro sets the record's fields from bytes.
	ReadAvro(*Bytes)
}

// ReadNullRecord reads a nullable record.
func ReadNullRecord[T any, P FromBytes[T]](b *Bytes) *T {
	if b.Null() {
		return nil
	}
	out := new(T)
	P(out).ReadAvro(b)
	return out
}

// ReadList reads a list of records; an empty list is a nil slice.
func ReadList[T any, P FromBytes[T]](b *Bytes, limit int) (list []T) {
	for n := b.block(0, limit); n > 0; n = b.block(len(list), limit) {
		if list == nil {
			list = make([]T, 0, n)
		}
		for range n {
			list = append(list, *new(T))
			if P(&list[len(list)-1]).ReadAvro(b); b.bad {
				return nil
			}
		}
	}
	return list
}

// ReadNullList reads a nullable list of records; null is a nil slice, an empty
// list is an empty one.
func ReadNullList[T any, P FromBytes[T]](b *Bytes, limit int) []T {
	if b.Null() {
		return nil
	}
	list := ReadList[T, P](b, limit)
	if list == nil {
		list = []T{}
	}
	return list
}

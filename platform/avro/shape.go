package avro

import (
	"errors"
	"fmt"
	"math"

	tavro "github.com/twmb/avro"
)

// shape is a schema reduced to what is needed to walk over its bytes without
// allocating anything.
type shape struct {
	kind  kind
	size  int64    // bytes of a fixed, symbols of an enum
	inner []*shape // fields of a record, branches of a union, the one item of an array
}

type kind uint8

const (
	kindNull kind = iota
	kindBoolean
	kindInt
	kindLong
	kindString
	kindFixed
	kindEnum
	kindArray
	kindUnion
	kindRecord
)

// shapeOf refuses types that no schema of ours uses, among them the recursive
// ones, so the walk needs no limit of depth.
func shapeOf(node *tavro.SchemaNode) (*shape, error) {
	var s *shape
	var inner []tavro.SchemaNode
	switch node.Type {
	case "null":
		s = &shape{kind: kindNull}
	case "boolean":
		s = &shape{kind: kindBoolean}
	case "int":
		s = &shape{kind: kindInt}
	case "long":
		s = &shape{kind: kindLong}
	case "string", "bytes":
		s = &shape{kind: kindString}
	case "fixed":
		s = &shape{kind: kindFixed, size: int64(node.Size)}
	case "enum":
		s = &shape{kind: kindEnum, size: int64(len(node.Symbols))}
	case "array":
		s, inner = &shape{kind: kindArray}, []tavro.SchemaNode{*node.Items}
	case "union":
		s, inner = &shape{kind: kindUnion}, node.Branches
	case "record":
		s = &shape{kind: kindRecord}
		for _, field := range node.Fields {
			inner = append(inner, field.Type)
		}
	default:
		return nil, fmt.Errorf("type %s is not supported", node.Type)
	}
	for i := range inner {
		child, err := shapeOf(&inner[i])
		if err != nil {
			return nil, err
		}
		s.inner = append(s.inner, child)
	}
	return s, nil
}

// What can be wrong with bytes. The values carry no detail because they are
// made for every record of a flood of forged ones.
var (
	errShort    = errors.New("ends before it is complete")
	errTrailing = errors.New("goes on after its end")
	errVarint   = errors.New("holds a number that does not fit its type")
	errLength   = errors.New("claims more bytes than there are")
	errItems    = fmt.Errorf("claims a list of more than %d items", MaxItems)
	errString   = fmt.Errorf("claims a text of more than %d bytes", MaxString)
	errBlock    = errors.New("holds a list whose block size is wrong")
	errSymbol   = errors.New("holds an enum value or a union branch that does not exist")
	errBoolean  = errors.New("holds a boolean that is neither 0 nor 1")
)

// check reports whether the bytes are exactly one value of the shape. It
// allocates nothing, and it takes time in proportion to the bytes, whatever
// they claim.
func (s *shape) check(bare []byte) error {
	rest, err := s.walk(bare)
	if err == nil && len(rest) > 0 {
		err = errTrailing
	}
	return err
}

// walk returns what follows the value.
func (s *shape) walk(b []byte) ([]byte, error) {
	switch s.kind {
	case kindNull:
		return b, nil
	case kindBoolean:
		switch {
		case len(b) == 0:
			return nil, errShort
		case b[0] > 1:
			return nil, errBoolean
		}
		return b[1:], nil
	case kindInt:
		n, b, err := varint(b)
		if err == nil && (n < math.MinInt32 || n > math.MaxInt32) {
			err = errVarint
		}
		return b, err
	case kindLong:
		_, b, err := varint(b)
		return b, err
	case kindString:
		n, b, err := varint(b)
		switch {
		case err != nil:
			return nil, err
		case n > MaxString:
			return nil, errString
		}
		return skip(b, n)
	case kindFixed:
		return skip(b, s.size)
	case kindEnum:
		n, b, err := varint(b)
		if err == nil && (n < 0 || n >= s.size) {
			err = errSymbol
		}
		return b, err
	case kindUnion:
		n, b, err := varint(b)
		switch {
		case err != nil:
			return nil, err
		case n < 0 || n >= int64(len(s.inner)):
			return nil, errSymbol
		}
		return s.inner[n].walk(b)
	case kindArray:
		return s.inner[0].walkBlocks(b)
	default:
		var err error
		for _, field := range s.inner {
			if b, err = field.walk(b); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
}

// walkBlocks walks over a list of items of this shape: blocks, each a count
// and that many items, up to a block of none. A negative count is followed by
// the size of its block in bytes.
func (s *shape) walkBlocks(b []byte) ([]byte, error) {
	for total := int64(0); ; {
		count, rest, err := varint(b)
		if err != nil {
			return nil, err
		}
		if count == 0 {
			return rest, nil
		}
		size := int64(-1)
		if count < 0 {
			if size, rest, err = varint(rest); err != nil {
				return nil, err
			}
			if size < 0 || size > int64(len(rest)) {
				return nil, errLength
			}
			count = -count // stays negative for the lowest number
		}
		if count < 0 || count > MaxItems-total {
			return nil, errItems
		}
		total += count
		b = rest
		for range count {
			if b, err = s.walk(b); err != nil {
				return nil, err
			}
		}
		if size >= 0 && int64(len(rest)-len(b)) != size {
			return nil, errBlock
		}
	}
}

func skip(b []byte, n int64) ([]byte, error) {
	if n < 0 || n > int64(len(b)) {
		return nil, errLength
	}
	return b[n:], nil
}

// varint reads one zigzag number of at most 64 bits.
func varint(b []byte) (int64, []byte, error) {
	var n uint64
	for i := 0; i < len(b); i++ {
		if i == 9 && b[i] > 1 {
			return 0, nil, errVarint
		}
		n |= uint64(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return int64(n>>1) ^ -int64(n&1), b[i+1:], nil
		}
	}
	return 0, nil, errShort
}

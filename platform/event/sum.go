package event

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
)

// Sum is the control total of a set of facts: the sum, modulo 2¹²⁸, of the
// hashes of their identities, big-endian. Addition commutes, so the total does
// not depend on order, and two sides that counted the same facts have equal
// sums however the facts reached them. The zero value is the sum of nothing.
//
// The hash of one fact is the first 16 bytes of SHA-256 over source, epoch,
// aggregate type, aggregate id, version and event id. The version is written
// as 8 bytes big-endian, each string as its length in 4 bytes big-endian and
// its bytes. The payload takes no part, so upcasting and erasure leave totals
// alone.
type Sum [16]byte

// Add returns the sum with one more fact in it. Callers must add each fact
// once: a sum has no memory of what is in it.
func (s Sum) Add(e Envelope) Sum {
	buf := make([]byte, 0, 256)
	buf = appendString(buf, e.Source)
	buf = appendString(buf, e.Epoch)
	buf = appendString(buf, e.Aggregate.Type)
	buf = appendString(buf, e.Aggregate.ID)
	buf = binary.BigEndian.AppendUint64(buf, uint64(e.Version))
	buf = appendString(buf, e.ID)
	digest := sha256.Sum256(buf)
	return s.Plus(Sum(digest[:len(s)]))
}

// Plus returns the sum of both sets, which must have no fact in common.
func (s Sum) Plus(other Sum) Sum {
	low, carry := bits.Add64(binary.BigEndian.Uint64(s[8:]), binary.BigEndian.Uint64(other[8:]), 0)
	high, _ := bits.Add64(binary.BigEndian.Uint64(s[:8]), binary.BigEndian.Uint64(other[:8]), carry)
	var total Sum
	binary.BigEndian.PutUint64(total[:8], high)
	binary.BigEndian.PutUint64(total[8:], low)
	return total
}

// Minus returns what must be added to other to get s.
func (s Sum) Minus(other Sum) Sum {
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(s[8:]), binary.BigEndian.Uint64(other[8:]), 0)
	high, _ := bits.Sub64(binary.BigEndian.Uint64(s[:8]), binary.BigEndian.Uint64(other[:8]), borrow)
	var rest Sum
	binary.BigEndian.PutUint64(rest[:8], high)
	binary.BigEndian.PutUint64(rest[8:], low)
	return rest
}

// MarshalText writes the sum as 32 hex digits.
func (s Sum) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *Sum) UnmarshalText(text []byte) error {
	if len(text) != 2*len(s) {
		return fmt.Errorf("a sum is %d hex digits, not %d bytes", 2*len(s), len(text))
	}
	if _, err := hex.Decode(s[:], text); err != nil {
		return fmt.Errorf("a sum: %w", err)
	}
	return nil
}

// String returns the sum as 32 hex digits.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

func appendString(buf []byte, s string) []byte {
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(s)))
	return append(buf, s...)
}

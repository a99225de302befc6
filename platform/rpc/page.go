package rpc

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/fault"
)

const macBytes = 16

// Pager makes and reads page tokens that a caller can neither read a meaning
// into nor change, bound to the filter they were made for.
type Pager struct{ key []byte }

// NewPager returns a pager with a given secret. All replicas of a service need
// the same one. An empty secret means a random one: tokens then live as long as
// the process.
func NewPager(secret []byte) (*Pager, error) {
	if len(secret) == 0 {
		secret = make([]byte, 32)
		if _, err := rand.Read(secret); err != nil {
			return nil, fmt.Errorf("make a page token secret: %w", err)
		}
	}
	sum := sha256.Sum256(append([]byte("tidemark page token\x00"), secret...))
	return &Pager{key: sum[:]}, nil
}

// Token returns the token of a position. Binding is whatever the position is
// only valid for: the filter, and for a projection its generation.
func (p *Pager) Token(binding []byte, position any) (string, error) {
	body, err := json.Marshal(position)
	if err != nil {
		return "", fmt.Errorf("encode page position: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(append(p.mac(binding, body), body...)), nil
}

// Position reads a token into position, a pointer to what Token was given. A
// token that was changed, or that belongs to another filter, is an Invalid fault
// on page_token.
func (p *Pager) Position(binding []byte, token string, position any) error {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) < macBytes {
		return fault.Invalid("page_token", "is not a token of this service")
	}
	mac, body := raw[:macBytes], raw[macBytes:]
	if !hmac.Equal(mac, p.mac(binding, body)) {
		return fault.Invalid("page_token", "does not belong to this request; ask for the first page again")
	}
	if err := json.Unmarshal(body, position); err != nil {
		return fault.Invalid("page_token", "is of another version; ask for the first page again")
	}
	return nil
}

func (p *Pager) mac(binding, body []byte) []byte {
	h := hmac.New(sha256.New, p.key)
	// The length keeps binding and body apart.
	_, _ = fmt.Fprintf(h, "%d\x00", len(binding))
	_, _ = h.Write(binding)
	_, _ = h.Write(body)
	return h.Sum(nil)[:macBytes]
}

// Binding returns the bytes of a request that page tokens are bound to: all of
// it but the fields named, which a caller may change between pages (page_token,
// page_size).
func Binding(req proto.Message, except ...string) []byte {
	c := proto.Clone(req)
	m := c.ProtoReflect()
	for _, name := range except {
		if f := m.Descriptor().Fields().ByTextName(name); f != nil {
			m.Clear(f)
		}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return []byte(err.Error())
	}
	return append([]byte(m.Descriptor().FullName()), b...)
}

// DefaultPage is how many rows a page holds when its caller does not say.
const DefaultPage = 50

// ListRequest is what the message of every list has. The contract bounds the
// size; 0 leaves it to the service.
type ListRequest interface {
	proto.Message
	GetPageSize() int32
	GetPageToken() string
}

// List is how the rows of a list are read: T is a row, P where a row stands in
// the list's order. P is encoded as JSON.
type List[T, P any] struct {
	// Default is the size of a page if the caller does not say; 0 means DefaultPage.
	Default int
	// Start is the place before the first row.
	Start P
	// Bound is what page tokens are valid for besides the request itself, such as
	// a generation.
	Bound string
	// Read returns at most limit rows behind a place.
	Read func(behind P, limit int) ([]T, error)
	// Place returns where a row stands.
	Place func(row T) P
}

// Page returns the rows that a request asks for, and the token of the next page,
// "" after the last. One row more than the page holds is read to know whether
// there is one. A token that was changed, or that belongs to another request, is
// an Invalid fault on page_token.
func Page[T, P any](pager *Pager, r ListRequest, list List[T, P]) (rows []T, next string, err error) {
	behind, size := list.Start, int(r.GetPageSize())
	binding := append(Binding(r, "page_token", "page_size"), list.Bound...)
	if r.GetPageToken() != "" {
		if err := pager.Position(binding, r.GetPageToken(), &behind); err != nil {
			return nil, "", err
		}
	}
	if size <= 0 {
		size = cmp.Or(list.Default, DefaultPage)
	}
	if rows, err = list.Read(behind, size+1); err != nil {
		return nil, "", err
	}
	if len(rows) > size {
		rows = rows[:size]
		next, err = pager.Token(binding, list.Place(rows[size-1]))
	}
	return rows, next, err
}

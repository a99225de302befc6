package rpc

import (
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

// Package session carries consistency tokens from a caller's commands to its
// queries, so that whoever wrote something sees it, at whichever replica, and
// never sees it disappear again.
//
// A backend dials with the two interceptors, puts a session into the context of
// every call that it makes for one user, and keeps the session where it keeps
// what else it knows of that user: in memory, or as text in a cookie.
//
// What a session promises is in MIT's Bayou papers called read-your-writes and
// monotonic reads (Terry et al., Session Guarantees for Weakly Consistent
// Replicated Data, 1994).
package session

import (
	"context"
	"slices"
	"sync"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// MaxTokens is how many writes a session remembers, one for each aggregate; a
// query carries no more. Who writes to more than that within one session has
// long seen the oldest.
const MaxTokens = 50

// Session is what a user has written. The zero value is an empty one. It is
// safe for concurrent use.
type Session struct {
	mu      sync.Mutex
	tokens  []event.Token // one for each aggregate, the oldest write first
	dropped int64
}

// Add remembers writes; nil tokens are left out. Of one aggregate it keeps the
// token of the newest epoch, and of that the highest version. Above MaxTokens
// the oldest writes are dropped; see Dropped.
func (s *Session) Add(tokens ...*freshnessv1.Token) {
	for _, t := range tokens {
		if t != nil {
			s.add(event.Token{
				Aggregate: event.Aggregate{Type: t.GetAggregateType(), ID: t.GetAggregateId()},
				Version:   t.GetVersion(), Epoch: t.GetEpoch(), EventID: t.GetEventId(),
			})
		}
	}
}

func (s *Session) add(t event.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.tokens, func(known event.Token) bool { return known.Aggregate == t.Aggregate })
	if at >= 0 {
		known := s.tokens[at]
		if t.Epoch < known.Epoch || t.Epoch == known.Epoch && t.Version < known.Version {
			return
		}
		s.tokens = slices.Delete(s.tokens, at, at+1)
	}
	s.tokens = append(s.tokens, t)
	if extra := len(s.tokens) - MaxTokens; extra > 0 {
		s.tokens = slices.Delete(s.tokens, 0, extra)
		s.dropped += int64(extra)
	}
}

// Forget drops what is known of an aggregate, given as type/id. The interceptors
// do that themselves with a write that a restore of its source has undone.
func (s *Session) Forget(aggregate string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = slices.DeleteFunc(s.tokens, func(t event.Token) bool { return t.Aggregate.String() == aggregate })
}

// Tokens returns what a query must see, the oldest write first.
func (s *Session) Tokens() []*freshnessv1.Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	tokens := make([]*freshnessv1.Token, len(s.tokens))
	for i, t := range s.tokens {
		tokens[i] = &freshnessv1.Token{
			AggregateType: t.Type, AggregateId: t.ID, Version: t.Version, Epoch: t.Epoch, EventId: t.EventID,
		}
	}
	return tokens
}

// AtLeast returns the demand of the session for a query, nil if nothing was
// written.
func (s *Session) AtLeast() *freshnessv1.ReadOptions_AtLeast {
	tokens := s.Tokens()
	if len(tokens) == 0 {
		return nil
	}
	return &freshnessv1.ReadOptions_AtLeast{AtLeast: &freshnessv1.AtLeast{Tokens: tokens}}
}

// Dropped returns how many writes the session had to forget for want of room,
// over its whole life: reads are not promised to show these.
func (s *Session) Dropped() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

type contextKey struct{}

// NewContext returns a context whose calls belong to a session.
func NewContext(ctx context.Context, s *Session) context.Context {
	return context.WithValue(ctx, contextKey{}, s)
}

// FromContext returns the session of a context, nil if there is none.
func FromContext(ctx context.Context) *Session {
	s, _ := ctx.Value(contextKey{}).(*Session)
	return s
}

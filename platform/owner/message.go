package owner

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/text/currency"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/journal"
	freshnesspb "github.com/tidemark-dev/tidemark/proto/freshness/v1"
)

// Request is what every command's message has.
type Request interface {
	proto.Message
	GetRequestId() string
	GetActor() string
	GetOccurredAt() *timestamppb.Timestamp
	GetTimeEstimated() bool
}

// Meta is who did something and when it happened in the world. Facts carry it.
type Meta struct {
	Actor         string
	OccurredAt    time.Time
	TimeEstimated bool
}

// MetaIn reads a command's meta. What the caller leaves out is the usual actor
// and now.
func MetaIn(r Request, usual string, now time.Time) Meta {
	m := Meta{Actor: r.GetActor(), OccurredAt: now, TimeEstimated: r.GetTimeEstimated()}
	if m.Actor == "" {
		m.Actor = usual
	}
	if at := TimeIn(r.GetOccurredAt()); at != nil {
		m.OccurredAt = *at
	}
	return m
}

// TimeIn cuts to microseconds, which is what facts and the database keep.
func TimeIn(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime().Truncate(time.Microsecond)
	return &at
}

// TimeOut is the way back.
func TimeOut(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

// EnumIn returns the name of a protobuf enum value without its prefix, which is
// the word that the domain and the facts use.
func EnumIn(e fmt.Stringer, prefix string) string { return strings.TrimPrefix(e.String(), prefix) }

// EnumsIn returns the names of several.
func EnumsIn[E fmt.Stringer](es []E, prefix string) []string {
	names := make([]string, len(es))
	for i, e := range es {
		names[i] = EnumIn(e, prefix)
	}
	return names
}

// CheckCurrency refuses what looks like a currency and is none: an Invalid fault
// on that field.
func CheckCurrency(field, code string) error {
	if _, err := currency.ParseISO(code); err != nil {
		return fault.Invalid(field, "%q is no ISO 4217 currency", code)
	}
	return nil
}

// Token is the consistency token of an aggregate at a head: a read that carries
// it sees at least that.
func Token(aggregateType, id string, h journal.Head) *freshnesspb.Token {
	return &freshnesspb.Token{AggregateType: aggregateType, AggregateId: id, Version: h.Version, Epoch: h.Epoch, EventId: h.EventID}
}

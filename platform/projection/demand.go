package projection

import (
	"context"
	"slices"
	"time"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

// demand is what a caller wants of an answer.
type demand struct {
	tokens []event.Token
	budget time.Duration
	stale  bool // answer what there is rather than fail
}

// Reasons of errors about freshness.
const (
	ReasonNotYetProjected = fault.Reason("NOT_YET_PROJECTED")
	ReasonNeverExisted    = fault.Reason("NEVER_EXISTED")
	ReasonQuarantined     = fault.Reason("QUARANTINED")
	ReasonRebuilding      = fault.Reason("REBUILDING")
	ReasonWriteLost       = fault.Reason("WRITE_LOST_BY_RESTORE")
)

func (p *Projection[S]) demandOf(options *freshnessv1.ReadOptions) (demand, error) {
	d := demand{budget: defaultBudget}
	if options == nil {
		return d, nil
	}
	if options.GetWaitBudget() != nil {
		d.budget = options.GetWaitBudget().AsDuration()
	}
	d.stale = options.GetOnViolation() == freshnessv1.OnViolation_ON_VIOLATION_RETURN_STALE
	switch c := options.GetConsistency().(type) {
	case nil, *freshnessv1.ReadOptions_Any:
	case *freshnessv1.ReadOptions_AtLeast:
		for _, t := range c.AtLeast.GetTokens() {
			token := event.Token{
				Aggregate: event.Aggregate{Type: t.GetAggregateType(), ID: t.GetAggregateId()},
				Version:   t.GetVersion(), Epoch: t.GetEpoch(), EventID: t.GetEventId(),
			}
			// What the view does not copy cannot be missing from it.
			if slices.Contains(p.view.Sources, token.Type) {
				d.tokens = append(d.tokens, token)
			}
		}
	default:
		return d, fault.Unimplemented("consistency max_staleness does not exist yet; ask for any or at_least")
	}
	return d, nil
}

type demandResult int

const (
	demandMet demandResult = iota
	demandWaits
	demandParked
	demandLost
)

// check compares the demand with what is applied in the snapshot.
func (p *Projection[S]) check(want demand, tokens map[event.Aggregate]tokenRow) demandResult {
	result := demandMet
	for _, t := range want.tokens {
		result = max(result, checkToken(t, tokens[t.Aggregate]))
	}
	return result
}

func checkToken(t event.Token, row tokenRow) demandResult {
	record := row.record
	if record == nil || record.Version == 0 && record.Parked == "" {
		return demandWaits
	}
	switch same, known := record.holds(t.Version, t.EventID); {
	case record.Epoch == t.Epoch && record.Version >= t.Version, record.Epoch > t.Epoch && same:
		return demandMet
	case record.Epoch > t.Epoch && known && t.Version <= record.Version:
		return demandLost
	}
	// A gap heals by itself, and what waits for a newer epoch is refolded.
	if row.blocked || record.Parked != "" && record.Parked != Gap && record.Parked != NewerEpoch {
		return demandParked
	}
	return demandWaits
}

// askOwners decides what the applied versions cannot tell about tokens of epochs
// that are over: whether the owners still have these writes.
func (p *Projection[S]) askOwners(ctx context.Context, want demand, tokens map[event.Aggregate]tokenRow, f *freshnessv1.Freshness) demandResult {
	result := demandMet
	for _, t := range want.tokens {
		one := checkToken(t, tokens[t.Aggregate])
		if one == demandWaits && p.cfg.Journal != nil && p.over(t, f) {
			facts, err := p.cfg.Journal.Events(ctx, t.Aggregate, t.Version, t.Version)
			if err != nil {
				return one // neither can tell
			}
			row := tokens[t.Aggregate]
			switch {
			case len(facts) == 0 || facts[0].ID != t.EventID:
				one = demandLost
			case row.record != nil && row.record.Version >= t.Version:
				one = demandMet
			}
		}
		result = max(result, one)
	}
	return result
}

// over reports whether the source of a token has begun a newer epoch.
func (p *Projection[S]) over(t event.Token, f *freshnessv1.Freshness) bool {
	for _, source := range f.GetSources() {
		if source.GetSource() == t.Type {
			return t.Epoch < source.GetEpoch()
		}
	}
	return false
}

// unmet answers a demand that could not be met.
func (p *Projection[S]) unmet(want demand, result demandResult, f *freshnessv1.Freshness) (*freshnessv1.Freshness, error) {
	switch {
	case result == demandLost:
		return nil, absent(fault.KindDataLoss, ReasonWriteLost, "the write was undone by a restore of its source",
			freshnessv1.Absence_KIND_NEVER_EXISTED, f)
	case want.stale:
		return f, nil
	case result == demandParked:
		return nil, absent(fault.KindFailedPrecondition, ReasonQuarantined, "a fact before the caller's write cannot be applied",
			freshnessv1.Absence_KIND_QUARANTINED, f)
	}
	return nil, absent(fault.KindDeadlineExceeded, ReasonNotYetProjected, "the caller's write has not arrived within the wait budget",
		freshnessv1.Absence_KIND_NOT_YET_PROJECTED, f)
}

// absent is an error that says which kind of absence it is.
func absent(kind fault.Kind, reason fault.Reason, message string, absence freshnessv1.Absence_Kind, f *freshnessv1.Freshness) error {
	return rpc.WithDetails(fault.New(kind, reason, "%s", message), &freshnessv1.Absence{Kind: absence, Freshness: f})
}

func (p *Projection[S]) rebuilding(from *reading) error {
	return absent(fault.KindUnavailable, ReasonRebuilding, "the view is being built and cannot tell yet",
		freshnessv1.Absence_KIND_REBUILDING, &freshnessv1.Freshness{Generation: from.generation.String()})
}

// NotFound says honestly why an order is not in an answer, from the answer's
// own freshness.
func NotFound(message string, f *freshnessv1.Freshness) error {
	switch f.GetEntityStatus() {
	case freshnessv1.EntityStatus_ENTITY_STATUS_QUARANTINED, freshnessv1.EntityStatus_ENTITY_STATUS_WAITING_FOR_GAP:
		return absent(fault.KindNotFound, ReasonQuarantined, message+": a fact of it waits to be applied",
			freshnessv1.Absence_KIND_QUARANTINED, f)
	}
	for _, source := range f.GetSources() {
		if source.GetCompleteness() == freshnessv1.Completeness_COMPLETENESS_VIOLATED {
			return absent(fault.KindNotFound, ReasonNotYetProjected, message+": facts of source "+source.GetSource()+" are missing here",
				freshnessv1.Absence_KIND_NOT_YET_PROJECTED, f)
		}
		if source.GetAsOf() == nil {
			return absent(fault.KindNotFound, ReasonNotYetProjected, message+": source "+source.GetSource()+" was not read yet",
				freshnessv1.Absence_KIND_NOT_YET_PROJECTED, f)
		}
	}
	return absent(fault.KindNotFound, ReasonNeverExisted, message, freshnessv1.Absence_KIND_NEVER_EXISTED, f)
}

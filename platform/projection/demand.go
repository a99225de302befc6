package projection

import (
	"context"
	"slices"
	"strings"
	"time"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

// demand is what a caller wants of an answer.
type demand struct {
	tokens    []event.Token
	staleness time.Duration // no source staler; 0 if any will do
	budget    time.Duration
	stale     bool // answer what there is rather than fail
}

// Reasons of errors about freshness.
const (
	ReasonNotYetProjected = fault.Reason("NOT_YET_PROJECTED")
	ReasonTooStale        = fault.Reason("TOO_STALE")
	ReasonNeverExisted    = fault.Reason("NEVER_EXISTED")
	ReasonQuarantined     = fault.Reason("QUARANTINED")
	ReasonRebuilding      = fault.Reason("REBUILDING")
	ReasonWriteLost       = fault.Reason("WRITE_LOST_BY_RESTORE")
)

func (p *Projection[S]) demandOf(options *freshnessv1.ReadOptions) demand {
	d := demand{budget: defaultBudget}
	if options.GetWaitBudget() != nil {
		d.budget = options.GetWaitBudget().AsDuration()
	}
	d.stale = options.GetOnViolation() == freshnessv1.OnViolation_ON_VIOLATION_RETURN_STALE
	if options.GetMaxStaleness() != nil {
		d.staleness = options.GetMaxStaleness().AsDuration()
	}
	for _, t := range options.GetAtLeast().GetTokens() {
		token := event.Token{
			Aggregate: event.Aggregate{Type: t.GetAggregateType(), ID: t.GetAggregateId()},
			Version:   t.GetVersion(), Epoch: t.GetEpoch(), EventID: t.GetEventId(),
		}
		// What the view does not copy cannot be missing from it.
		if slices.Contains(p.view.Sources, token.Type) {
			d.tokens = append(d.tokens, token)
		}
	}
	return d
}

// keys are what commits must touch to be worth another look; none if nothing
// is demanded.
func (q *question) keys() []string {
	var keys []string
	for _, t := range q.tokens {
		keys = append(keys, aggregateKey(t.Aggregate))
	}
	switch {
	case q.staleness > 0 && q.order != "", len(q.tokens) > 0 && q.order != "":
		keys = append(keys, markKey(q.partition))
	case q.staleness > 0:
		keys = append(keys, anyMark)
	}
	return keys
}

type demandResult int

// What comes of a demand. Those above demandStale do not change by waiting.
const (
	demandMet demandResult = iota
	demandWaits
	demandStale
	demandParked
	demandLost
)

// check compares the demand with what is applied in the snapshot.
func (p *Projection[S]) check(want demand, a *answer) {
	a.each = make([]demandResult, len(want.tokens))
	for i, t := range want.tokens {
		a.each[i] = checkToken(t, a.tokens[t.Aggregate])
		if a.each[i] == demandWaits && heldBack(t, a.freshness) {
			a.each[i] = demandParked
		}
	}
	a.conclude()
	if want.staleness > 0 && len(p.stale(a.freshness, want.staleness)) > 0 {
		a.result, a.freshness.DemandMet = max(a.result, demandStale), false
	}
}

// conclude is what comes of all tokens together.
func (a *answer) conclude() {
	a.result = slices.Max(append(a.each, demandMet))
	a.freshness.DemandMet = a.result == demandMet
}

// heldBack reports whether the token's aggregate is one that its source cannot
// send. A control record that says so comes behind all that was sent before.
func heldBack(t event.Token, f *freshnessv1.Freshness) bool {
	for _, source := range f.GetSources() {
		if source.GetSource() == t.Type && slices.Contains(source.GetBlocked(), t.Aggregate.String()) {
			return true
		}
	}
	return false
}

// stale lists the sources of an answer that are not known to be at most that
// old, with the reason in words.
func (p *Projection[S]) stale(f *freshnessv1.Freshness, limit time.Duration) (found []staleSource) {
	now := time.Now().Add(p.cfg.ClockSkew)
	for _, s := range f.GetSources() {
		why := ""
		switch age := s.GetStaleness().AsDuration(); {
		case s.GetAsOf() == nil:
			why = "was not read everywhere yet"
		case s.GetCompleteness() == freshnessv1.Completeness_COMPLETENESS_VIOLATED:
			why = "lacks facts here"
		case s.GetAsOf().AsTime().After(now):
			why = "has a clock that is ahead"
		case age > limit:
			why = "is " + age.Round(time.Millisecond).String() + " old"
		default:
			continue
		}
		found = append(found, staleSource{s.GetSource(), why})
	}
	return found
}

// staleSource is a source that is too old, and why.
type staleSource struct{ source, why string }

// name writes sources for people, and for programs.
func name(all []staleSource) (sentence, names string) {
	for i, s := range all {
		if i > 0 {
			sentence, names = sentence+", ", names+","
		}
		sentence, names = sentence+s.source+" "+s.why, names+s.source
	}
	return sentence, names
}

func checkToken(t event.Token, row tokenRow) demandResult {
	record := row.record
	if record == nil || record.Version == 0 && record.Parked == "" {
		return demandWaits
	}
	switch same, known := record.Holds(t.Version, t.EventID); {
	case record.Epoch == t.Epoch && record.Version >= t.Version, record.Epoch > t.Epoch && same:
		return demandMet
	case record.Epoch > t.Epoch && known && t.Version <= record.Version:
		return demandLost
	}
	// A gap heals by itself, and what waits for a newer epoch is refolded.
	if row.blocked || record.Parked != "" && record.Parked != fold.Gap && record.Parked != fold.NewerEpoch {
		return demandParked
	}
	return demandWaits
}

// askOwners decides what the applied versions cannot tell about tokens of epochs
// that are over: whether the owners still have these writes.
func (p *Projection[S]) askOwners(ctx context.Context, want demand, a *answer) {
	for i, t := range want.tokens {
		if a.each[i] != demandWaits || !p.over(t, a.freshness) {
			continue
		}
		facts, err := p.ask(ctx, t.Aggregate, t.Version)
		if err != nil {
			break // neither can tell
		}
		row := a.tokens[t.Aggregate]
		switch {
		case len(facts) == 0 || facts[0].ID != t.EventID:
			a.each[i] = demandLost
		case row.record != nil && row.record.Version >= t.Version:
			a.each[i] = demandMet
		}
	}
	a.conclude()
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

// unmet is the error of a demand that could not be met, nil if what there is
// may be answered. It names what stands in the way.
func (p *Projection[S]) unmet(want demand, a *answer) error {
	var aggregates []string
	for i, t := range want.tokens {
		if a.each[i] == a.result {
			aggregates = append(aggregates, t.Aggregate.String())
		}
	}
	fail := func(kind fault.Kind, reason fault.Reason, absence freshnessv1.Absence_Kind, message string) error {
		return absent(fault.New(kind, reason, "%s", message).With("aggregates", strings.Join(aggregates, ",")), absence, a.freshness)
	}
	switch {
	case a.result == demandMet:
		return nil
	case a.result == demandLost:
		return fail(fault.KindDataLoss, ReasonWriteLost, freshnessv1.Absence_KIND_NEVER_EXISTED, "the write was undone by a restore of its source")
	case want.stale:
		return nil
	case a.result == demandParked:
		return fail(fault.KindFailedPrecondition, ReasonQuarantined, freshnessv1.Absence_KIND_QUARANTINED, "a fact before the caller's write cannot be applied")
	case a.result == demandStale:
		why, names := name(p.stale(a.freshness, want.staleness))
		err := fault.New(fault.KindDeadlineExceeded, ReasonTooStale, "the copy stayed older than %s for the wait budget: %s", want.staleness, why)
		return rpc.WithDetails(err.With("stale_sources", names), a.freshness)
	}
	return fail(fault.KindDeadlineExceeded, ReasonNotYetProjected, freshnessv1.Absence_KIND_NOT_YET_PROJECTED,
		"the caller's write has not arrived within the wait budget")
}

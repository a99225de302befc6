package projection

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/rpc"
)

// A retry makes of an aggregate that stands still one that has a gap, and heals
// the gap: its facts come from the owner's journal, through today's upcasters
// and today's code, under the position's lock. What cannot be applied parks
// again. The position does not move, and nothing is counted twice.

const (
	defaultRetried = 100
	retryChunk     = 20              // tried between two looks at the deadline
	retryReserve   = 3 * time.Second // left for the answer
)

// RetryParked implements readmodel.v1.QuarantineService. One call at a time, at
// the pace of healing, however many stand still.
func (s *quarantineServer[S]) RetryParked(ctx context.Context, r *readmodelv1.RetryParkedRequest) (*readmodelv1.RetryParkedResponse, error) {
	p := s.p.answering()
	if p.cfg.Journal == nil {
		return nil, errNoJournal
	}
	if !p.retrying.TryLock() {
		return nil, fault.New(fault.KindResourceExhausted, fault.ReasonOverloaded, "another retry is under way: wait for it")
	}
	defer p.retrying.Unlock()
	if one := r.GetAggregate(); one != nil {
		a, err := p.findParked(ctx, one)
		if err != nil {
			return nil, err
		}
		return &readmodelv1.RetryParkedResponse{Results: []*readmodelv1.RetryResult{p.retryOne(ctx, a, r.GetDryRun())}}, ctx.Err()
	}
	binding := append(rpc.Binding(r, "page_size", "page_token"), p.own.String()...)
	var behind parkedPlace
	if r.GetPageToken() != "" {
		if err := p.pager.Position(binding, r.GetPageToken(), &behind); err != nil {
			return nil, err
		}
	}
	left := int(r.GetPageSize())
	if left == 0 {
		left = defaultRetried
	}
	answer := &readmodelv1.RetryParkedResponse{}
	for left > 0 {
		size := min(left, retryChunk)
		page, err := p.listParked(ctx, r.GetFilter(), behind, size+1)
		if err != nil {
			return nil, err
		}
		more := len(page) > size
		page = page[:min(len(page), size)]
		answer.Results = append(answer.Results, p.retryAll(ctx, page, r.GetDryRun())...)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !more {
			return answer, nil
		}
		behind, left = parkedPlaceOf(page[len(page)-1]), left-len(page)
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < retryReserve {
			break
		}
	}
	var err error
	answer.NextPageToken, err = p.pager.Token(binding, behind)
	return answer, err
}

// retryAll tries several, at the pace of healing.
func (p *Projection[S]) retryAll(ctx context.Context, page []*readmodelv1.ParkedAggregate, dry bool) []*readmodelv1.RetryResult {
	results := make([]*readmodelv1.RetryResult, len(page))
	group := errgroup.Group{}
	group.SetLimit(healWorkers)
	for i, a := range page {
		group.Go(func() error {
			pace := time.NewTimer(healInterval)
			defer pace.Stop()
			results[i] = p.retryOne(ctx, a, dry)
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
			return nil
		})
	}
	_ = group.Wait() // each result has its own error
	return results
}

// retryOne tries one aggregate. What prevents that is part of the result.
func (p *Projection[S]) retryOne(ctx context.Context, a *readmodelv1.ParkedAggregate, dry bool) *readmodelv1.RetryResult {
	r := &readmodelv1.RetryResult{
		AggregateType: a.GetAggregateType(), AggregateId: a.GetAggregateId(), OrderId: a.GetOrderId(),
		Outcome: readmodelv1.RetryOutcome_RETRY_OUTCOME_NOT_TRIED, Verdict: a.GetVerdict(),
	}
	g := gap{aggregate: aggregateNamed(a), order: a.GetOrderId(), partition: a.GetPartition(), verdict: fold.Verdict(a.GetVerdict())}
	before, err := p.appliedOf(ctx, g)
	if err != nil {
		r.Reason = fold.Clean(err.Error())
		return r
	}
	r.VersionBefore, r.VersionAfter = before.Version, before.Version
	now, err := p.reopen(ctx, g, dry)
	if err != nil {
		r.Reason = fold.Clean(err.Error())
		return r
	}
	r.VersionAfter, r.Verdict, r.Reason = now.version, string(now.verdict), now.reason
	switch {
	case now.verdict == "":
		r.Outcome = readmodelv1.RetryOutcome_RETRY_OUTCOME_RELEASED
	case now.version > before.Version:
		r.Outcome = readmodelv1.RetryOutcome_RETRY_OUTCOME_ADVANCED
	default:
		r.Outcome = readmodelv1.RetryOutcome_RETRY_OUTCOME_STILL_PARKED
	}
	return r
}

// reopened is how an aggregate stands after a retry.
type reopened struct {
	version int64
	verdict fold.Verdict
	reason  string
}

// errRehearsed ends a transaction that was only to show what it would do.
var errRehearsed = errors.New("a rehearsal")

// reopen retries an aggregate, or rehearses that and changes nothing.
func (p *Projection[S]) reopen(ctx context.Context, g gap, dry bool) (now reopened, err error) {
	if p.cfg.Journal == nil {
		return now, errNoJournal
	}
	if g.verdict == fold.NewerEpoch || g.verdict == fold.Equivocation { // versions are told differently: the journal decides about all of them
		return p.reopenByRefold(ctx, g, dry)
	}
	for tried := false; ; tried = true {
		record, err := p.appliedOf(ctx, g)
		if err != nil {
			return now, err
		}
		facts, err := p.cfg.Journal.Events(ctx, g.aggregate, record.Version+1, record.Version+healPage)
		if err == nil && (len(facts) == 0 || facts[0].Version != record.Version+1) {
			err = errStillMissing
		}
		if err != nil && tried { // the healer goes on
			now.reason = fold.Clean(err.Error())
			return now, nil
		}
		if err != nil {
			return now, err
		}
		for _, f := range facts {
			if f.Key != g.order || f.Aggregate != g.aggregate {
				return now, errOtherOrder
			}
		}
		err = p.hold(ctx, g.partition, func(h *held[S]) error {
			h.reopened = &g
			if _, err := h.feed(ctx, facts); err != nil {
				return err
			}
			h.restate()
			if now = h.stands(g, record); dry {
				return errRehearsed
			}
			return nil
		})
		if dry && errors.Is(err, errRehearsed) {
			return now, nil
		}
		if err != nil || now.verdict != fold.Gap || now.version == record.Version {
			return now, err
		}
		g.verdict = fold.Gap // there is more to fetch
	}
}

func (p *Projection[S]) reopenByRefold(ctx context.Context, g gap, dry bool) (now reopened, err error) {
	if !dry {
		if err := p.refold(ctx, g.order); err != nil {
			return now, err
		}
		record, err := p.appliedOf(ctx, g)
		return reopened{record.Version, record.Parked, ""}, err
	}
	seen, err := p.versionsOf(ctx, g.order)
	if err != nil {
		return now, err
	}
	var facts []event.Fact
	for key := range seen {
		some, err := p.history(ctx, g.order, aggregateOf(key))
		if err != nil {
			return now, err
		}
		facts = append(facts, some...)
	}
	err = p.hold(ctx, g.partition, func(h *held[S]) error {
		if err := h.refold(ctx, g.order, seen, facts); err != nil {
			return err
		}
		now = h.stands(g, fold.Applied{})
		return errRehearsed
	})
	if errors.Is(err, errRehearsed) {
		err = nil
	}
	return now, err
}

const (
	openGap = `UPDATE quarantine SET verdict = 'gap', reason = $4, attempts = attempts + 1, next_attempt_at = now()
		WHERE aggregate_type = $1 AND aggregate_id = $2 AND order_id = $3`
	restateParked = `UPDATE parked SET verdict = $2, reason = $3, code_version = $4 WHERE reference = $1`
)

// open makes of an aggregate that stands still one that has a gap.
func (h *held[S]) open(o *fold.Order[S], a event.Aggregate) (err error) {
	record := o.Applied[a.String()]
	if record == nil || record.Parked == "" {
		return nil
	}
	if record.Parked == fold.TooLarge {
		o.Blocked = ""
	}
	record.Parked = fold.Gap
	if h.skips {
		record.Skipped++ // which readers are told
	}
	if o.Stored, err = o.Encode(); err != nil { // where the engine goes back to
		return err
	}
	h.before.Queue(openGap, a.Type, a.ID, o.ID, "it is being read again")
	return nil
}

// restate brings the references of what could not be applied again up to date:
// why, and by which code.
func (h *held[S]) restate() {
	for _, f := range h.delta.Parked {
		if f.Verdict == fold.Poison || f.Verdict == fold.TooLarge {
			h.batch.Queue(restateParked, f.Reference(h.number), string(f.Verdict), fold.Clean(f.Reason), h.p.own.version)
		}
	}
}

// stands says how an aggregate stands after what was done in this transaction; as
// before if nothing was.
func (h *held[S]) stands(g gap, before fold.Applied) reopened {
	now := reopened{version: before.Version, verdict: before.Parked}
	for _, change := range h.delta.Changes {
		for _, a := range change.Aggregates {
			if change.Order == g.order && a.Aggregate == g.aggregate {
				now.version, now.verdict = a.Version, a.Parked
			}
		}
	}
	for _, q := range h.delta.Quarantined {
		if q.Order == g.order && q.Aggregate == g.aggregate && q.Verdict == now.verdict {
			now.reason = fold.Clean(q.Reason)
		}
	}
	return now
}

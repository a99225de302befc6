package main

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

type viewParkedCmd struct {
	List    viewParkedListCmd    `cmd:"" help:"Aggregates that stand still because a fact of them cannot be applied."`
	Show    viewParkedShowCmd    `cmd:"" help:"One of them: the fact, why, what waits behind it, what a retry would do."`
	Retry   viewParkedRetryCmd   `cmd:"" help:"Read facts again and apply them with today's code: of one aggregate, or of all of a class."`
	Skip    viewParkedSkipCmd    `cmd:"" help:"Give one fact up: it counts as applied and changes nothing; those behind it go on."`
	Skipped viewParkedSkippedCmd `cmd:"" help:"Facts that were given up, with who and why."`

	Unreadable viewParkedUnreadableCmd `cmd:"" help:"Records that name no fact, with their place in the log."`
}

func (v viewFlag) quarantine(a *app) readmodelv1.QuarantineServiceClient {
	return readmodelv1.NewQuarantineServiceClient(v.conn(a))
}

// parkedFilter picks aggregates that stand still.
type parkedFilter struct {
	Class     string        `help:"gap, poison, equivocation, newer-epoch or too-large." enum:",gap,poison,equivocation,newer-epoch,too-large" default:""`
	Source    string        `help:"order, payment or shipment." enum:",order,payment,shipment" default:""`
	Order     string        `help:"Of this order." placeholder:"ID"`
	Code      int32         `help:"Parked by this version of the view's code." placeholder:"N"`
	OlderThan time.Duration `help:"Standing still for at least this long." placeholder:"DURATION"`
	Error     string        `help:"With this in the reason." placeholder:"TEXT"`
}

func (f parkedFilter) proto() *readmodelv1.ParkedFilter {
	p := &readmodelv1.ParkedFilter{
		Verdict: strings.ReplaceAll(f.Class, "-", "_"), AggregateType: f.Source, OrderId: f.Order, CodeVersion: f.Code, Reason: f.Error,
	}
	if f.OlderThan > 0 {
		p.OlderThan = durationpb.New(f.OlderThan)
	}
	return p
}

// parkedArg names an aggregate that stands still.
type parkedArg struct {
	viewFlag
	Aggregate string `arg:"" help:"As the list names it, TYPE/ID."`
	Order     string `help:"Order under which it is parked, if there are several." placeholder:"ID"`
}

func (p parkedArg) proto() (*readmodelv1.GetParkedRequest, error) {
	typ, id, ok := strings.Cut(p.Aggregate, "/")
	if !ok {
		return nil, usage("%q is not TYPE/ID, for instance payment/0192…", p.Aggregate)
	}
	return &readmodelv1.GetParkedRequest{AggregateType: typ, AggregateId: id, OrderId: p.Order}, nil
}

type viewParkedListCmd struct {
	viewFlag
	parkedFilter
	pageFlags
}

func (c *viewParkedListCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.quarantine(a).ListParked(ctx, &readmodelv1.ListParkedRequest{Filter: c.parkedFilter.proto(), PageSize: c.Limit, PageToken: c.Page})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	rows := [][]string{{"AGGREGATE", "ORDER", "CLASS", "SINCE (UTC)", "TRIED", "WAITING", "VERSION", "CODE", "WHY"}}
	for _, p := range r.GetAggregates() {
		rows = append(rows, []string{
			parkedName(p), clean(p.GetOrderId()), p.GetVerdict(), timeText(p.GetSince()), itoa(p.GetAttempts()), itoa(p.GetWaiting()),
			count(p.GetVersion()), itoa(p.GetCodeVersion()), clean(p.GetReason()),
		})
	}
	if len(rows) == 1 && c.Page == "" {
		fmt.Fprintln(a.out, "nothing is parked")
	} else if err := table(a.out, rows...); err != nil {
		return err
	}
	var classes []string
	for _, class := range r.GetClasses() {
		classes = append(classes, fmt.Sprintf("%s %d", class.GetVerdict(), class.GetAggregates()))
	}
	if len(classes) > 0 {
		fmt.Fprintln(a.out, "in all: "+strings.Join(classes, ", "))
	}
	if r.GetUnreadable() > 0 {
		fmt.Fprintf(a.out, "%d records name no fact; they stop nobody, and what they should have been is fetched from its owner; see: tidemark view parked unreadable --view %s\n", r.GetUnreadable(), c.View)
	}
	a.more(r.GetNextPageToken())
	return nil
}

func parkedName(p *readmodelv1.ParkedAggregate) string {
	return clean(p.GetAggregateType() + "/" + p.GetAggregateId())
}

type viewParkedShowCmd struct{ parkedArg }

func (c *viewParkedShowCmd) Run(a *app) error {
	request, err := c.proto()
	if err != nil {
		return err
	}
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.quarantine(a).GetParked(ctx, request)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	p, f := r.GetAggregate(), r.GetFact()
	trace := ""
	if parts := strings.Split(f.GetTraceparent(), "-"); len(parts) == 4 {
		trace = parts[1]
	}
	if err := pairs(a.out, "aggregate", parkedName(p), "order", clean(p.GetOrderId()), "class", p.GetVerdict(), "why", clean(p.GetReason()),
		"since", timeText(p.GetSince())+" UTC", "tried again", itoa(p.GetAttempts()), "applied version", count(r.GetAppliedVersion()),
		"parked by code", "version "+itoa(p.GetCodeVersion()), "fact", clean(f.GetType())+yes(f != nil, " (schema "+itoa(f.GetSchemaVersion())+")"),
		"happened", timeText(f.GetOccurredAt()), "trace", clean(trace), "content", clean(f.GetBody()), "not shown", clean(r.GetFactError()),
		"a retry now", retryText(r.GetRetry(), true)); err != nil {
		return err
	}
	rows := [][]string{{"VERSION", "EVENT", "CLASS", "SINCE (UTC)", "WHERE", "WHY"}}
	for _, w := range r.GetWaiting() {
		where := "owner's journal"
		if w.GetTopic() != "" {
			where = fmt.Sprintf("%s [%d] @%d", clean(w.GetTopic()), w.GetPartition(), w.GetOffset())
		}
		rows = append(rows, []string{count(w.GetVersion()), clean(w.GetEventId()), w.GetVerdict(), timeText(w.GetParkedAt()), where, clean(w.GetReason())})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	if p.GetVerdict() != "poison" && p.GetVerdict() != "too_large" {
		return nil
	}
	_, err = fmt.Fprintf(a.out, "next: tidemark view parked retry %[2]s --view %[1]s\n      tidemark view parked skip %[2]s --view %[1]s --event %[3]s --reason …\n",
		c.View, parkedName(p), clean(p.GetEventId()))
	return err
}

// retryText says what came of a retry, or would.
func retryText(r *readmodelv1.RetryResult, would bool) string {
	versions := fmt.Sprintf("version %d to %d", r.GetVersionBefore(), r.GetVersionAfter())
	verb := map[bool]string{true: "would be ", false: "is "}[would]
	why := clean(r.GetVerdict()) + yes(r.GetReason() != "", ": "+clean(r.GetReason()))
	switch r.GetOutcome() {
	case readmodelv1.RetryOutcome_RETRY_OUTCOME_RELEASED:
		return "all of it " + verb + "applied, " + versions
	case readmodelv1.RetryOutcome_RETRY_OUTCOME_ADVANCED:
		return "some of it " + verb + "applied, " + versions + ", then " + why
	case readmodelv1.RetryOutcome_RETRY_OUTCOME_STILL_PARKED:
		return "it " + verb + "still parked, " + why
	default:
		return "it cannot be tried, " + clean(r.GetReason())
	}
}

type viewParkedRetryCmd struct {
	viewFlag
	parkedFilter
	Aggregate string `arg:"" optional:"" help:"One aggregate, TYPE/ID. Without it: all that the filter picks, which must then have a class."`
	DryRun    bool   `help:"Say what would come of it and change nothing."`
	Max       int    `help:"At most this many aggregates; 0 means all." default:"0"`
}

func (c *viewParkedRetryCmd) Run(a *app) error {
	request := &readmodelv1.RetryParkedRequest{DryRun: c.DryRun, PageSize: 100}
	switch {
	case c.Aggregate != "":
		one, err := parkedArg{c.viewFlag, c.Aggregate, c.Order}.proto()
		if err != nil {
			return err
		}
		request.What = &readmodelv1.RetryParkedRequest_Aggregate{Aggregate: one}
	case c.Class == "":
		return usage("name an aggregate, or a class with --class")
	default:
		request.What = &readmodelv1.RetryParkedRequest_Filter{Filter: c.parkedFilter.proto()}
	}
	tried, counts := 0, map[readmodelv1.RetryOutcome]int{}
	all := &readmodelv1.RetryParkedResponse{}
	for first := true; first || request.PageToken != ""; first = false {
		if c.Max > 0 {
			request.PageSize = int32(min(100, c.Max-tried))
		}
		ctx, cancel := a.call()
		r, err := c.quarantine(a).RetryParked(ctx, request)
		cancel()
		if err != nil {
			return fmt.Errorf("after %d aggregates: %w", tried, err)
		}
		tried += len(r.GetResults())
		for _, result := range r.GetResults() {
			counts[result.GetOutcome()]++
			if a.json() {
				all.Results = append(all.Results, result)
				continue
			}
			fmt.Fprintf(a.out, "%s  %s\n", clean(result.GetAggregateType()+"/"+result.GetAggregateId()), retryText(result, c.DryRun))
		}
		request.PageToken = r.GetNextPageToken()
		if c.Max > 0 && tried >= c.Max {
			all.NextPageToken = request.GetPageToken()
			break
		}
		if request.GetPageToken() != "" && !a.json() {
			fmt.Fprintf(a.err, "%d tried, going on\n", tried)
		}
	}
	if a.json() {
		return a.printJSON(all, false)
	}
	_, err := fmt.Fprintf(a.out, "%d tried%s: %d released, %d advanced, %d still parked, %d could not be tried\n", tried,
		yes(c.DryRun, " (dry run, nothing was changed)"), counts[readmodelv1.RetryOutcome_RETRY_OUTCOME_RELEASED],
		counts[readmodelv1.RetryOutcome_RETRY_OUTCOME_ADVANCED], counts[readmodelv1.RetryOutcome_RETRY_OUTCOME_STILL_PARKED],
		counts[readmodelv1.RetryOutcome_RETRY_OUTCOME_NOT_TRIED])
	return err
}

type viewParkedSkipCmd struct {
	parkedArg
	operatorFlags
	Event string `help:"Id of the event to give up, as show prints it." required:"" placeholder:"ID"`
	Yes   bool   `help:"Yes, give it up: the read model will never show it."`
}

func (c *viewParkedSkipCmd) Run(a *app) error {
	request, err := c.proto()
	if err != nil {
		return err
	}
	if !c.Yes && !c.DryRun {
		return usage("a skipped fact is never shown by the read model: say --yes, or --dry-run to see what would happen")
	}
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.quarantine(a).SkipParked(ctx, &readmodelv1.SkipParkedRequest{
		Aggregate: request, EventId: c.Event, Reason: c.Reason, Actor: c.who(), DryRun: c.DryRun,
	})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	what := fmt.Sprintf("version %d of %s", r.GetAggregate().GetVersion(), parkedName(r.GetAggregate()))
	return pairs(a.out, "done", c.would(what+" is given up", what+" would be given up"), "behind it", itoa(r.GetBehind())+" facts, which follow in order")
}

type viewParkedSkippedCmd struct {
	viewFlag
	pageFlags
}

func (c *viewParkedSkippedCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.quarantine(a).ListSkipped(ctx, &readmodelv1.ListSkippedRequest{PageSize: c.Limit, PageToken: c.Page})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	rows := [][]string{{"AGGREGATE", "ORDER", "VERSION", "EVENT", "WHEN (UTC)", "WHO", "WHY", "WHAT WAS WRONG"}}
	for _, f := range r.GetSkipped() {
		rows = append(rows, []string{
			clean(f.GetAggregateType() + "/" + f.GetAggregateId()), clean(f.GetOrderId()), count(f.GetVersion()), clean(f.GetEventId()),
			timeText(f.GetSkippedAt()), clean(f.GetActor()), clean(f.GetReason()), clean(f.GetFault()),
		})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	a.more(r.GetNextPageToken())
	return nil
}

type viewParkedUnreadableCmd struct {
	viewFlag
	pageFlags
}

func (c *viewParkedUnreadableCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.quarantine(a).ListUnreadable(ctx, &readmodelv1.ListUnreadableRequest{PageSize: c.Limit, PageToken: c.Page})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	if len(r.GetRecords()) == 0 && c.Page == "" {
		_, err := fmt.Fprintln(a.out, "every record names a fact")
		return err
	}
	rows := [][]string{{"WHERE", "TOPIC ID", "SINCE (UTC)", "CODE", "WHY"}}
	for _, u := range r.GetRecords() {
		rows = append(rows, []string{
			fmt.Sprintf("%s [%d] @%d", clean(u.GetTopic()), u.GetPartition(), u.GetOffset()), clean(u.GetTopicId()),
			timeText(u.GetParkedAt()), itoa(u.GetCodeVersion()), clean(u.GetReason()),
		})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	a.more(r.GetNextPageToken())
	return nil
}

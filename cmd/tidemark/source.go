package main

import (
	"errors"
	"fmt"
	"os/user"
	"strings"

	journalv1 "github.com/tidemark-dev/tidemark/proto/journal/v1"
)

// sourceCmd is for operators of the contexts that decide: their journals and
// relays.
type sourceCmd struct {
	Status    sourceStatusCmd    `cmd:"" help:"Whether sources work: state, epoch, what is unsent and blocked."`
	NewEpoch  sourceNewEpochCmd  `cmd:"" name:"new-epoch" help:"Begin a new epoch after the database went back (a restore, a failover that lost a tail)."`
	Republish sourceRepublishCmd `cmd:"" help:"Send every event again, to a topic that was deleted and made again."`
	Blocked   sourceBlockedCmd   `cmd:"" help:"Events that cannot be sent."`
}

// sourceArg names a context.
type sourceArg struct {
	Source string `arg:"" help:"order, payment or shipment." enum:"order,payment,shipment"`
}

func (s sourceArg) admin(a *app) journalv1.JournalAdminServiceClient { return a.Sources[s.Source] }

// operatorFlags go with every command of an operator that changes something.
type operatorFlags struct {
	Reason string `help:"Why; it is kept." required:"" placeholder:"TEXT"`
	Actor  string `help:"Who; it is kept. Default: operator: and your name here." placeholder:"WHO"`
	DryRun bool   `help:"Say what would happen and change nothing."`
}

func (f operatorFlags) who() string {
	if f.Actor != "" {
		return f.Actor
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return "operator:" + u.Username
	}
	return "operator:unknown"
}

// would says what is done, or what a dry run would have done.
func (f operatorFlags) would(done, tried string) string {
	if f.DryRun {
		return "dry run, nothing was changed: " + tried
	}
	return done
}

type sourceStatusCmd struct {
	Source string `arg:"" optional:"" help:"order, payment or shipment. Default: all." enum:",order,payment,shipment" default:""`
	Shards bool   `help:"Also who holds which partition."`
}

func (c *sourceStatusCmd) Run(a *app) error {
	names := []string{"order", "payment", "shipment"}
	if c.Source != "" {
		names = []string{c.Source}
	}
	rows := [][]string{{"SOURCE", "STATE", "EPOCH", "UNSENT", "OLDEST (UTC)", "BLOCKED", "DATABASE"}}
	shards := [][]string{{"SOURCE", "PARTITION", "RELAY", "TERM", "SENT IN EPOCH", "CONTROL RECORDS"}}
	var reasons []string
	var failed []error
	for _, name := range names {
		ctx, cancel := a.call()
		s, err := a.Sources[name].GetSource(ctx, &journalv1.GetSourceRequest{})
		cancel()
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if a.json() {
			if err := a.printJSON(s, true); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, []string{
			s.GetSource(), word(s.GetState(), "SOURCE_STATE_"), s.GetEpoch(), count(s.GetUnsent()), timeText(s.GetOldestUnsent()), count(s.GetBlocked()),
			s.GetIdentity() + yes(s.GetIdentity() != s.GetMintedIdentity(), " (the epoch began in "+s.GetMintedIdentity()+")"),
		})
		if s.GetReason() != "" {
			reasons = append(reasons, fmt.Sprintf("%s is stopped since %s: %s", s.GetSource(), timeText(s.GetStoppedAt()), clean(s.GetReason())))
		}
		for _, h := range s.GetShards() {
			holder := h.GetHolder()
			if holder == "" {
				holder = "(none)"
			}
			shards = append(shards, []string{s.GetSource(), fmt.Sprint(h.GetPartition()), holder, fmt.Sprint(h.GetTerm()), count(h.GetCount()), count(h.GetNumber())})
		}
	}
	if !a.json() && len(rows) > 1 {
		if err := table(a.out, rows...); err != nil {
			return err
		}
		if c.Shards {
			if err := table(a.out, shards...); err != nil {
				return err
			}
		}
		for _, reason := range reasons {
			fmt.Fprintln(a.out, reason)
		}
	}
	return errors.Join(failed...)
}

type sourceNewEpochCmd struct {
	sourceArg
	operatorFlags
	Force bool `help:"Also if nothing says that the database went back."`
}

func (c *sourceNewEpochCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.admin(a).NewEpoch(ctx, &journalv1.NewEpochRequest{Reason: c.Reason, Actor: c.who(), DryRun: c.DryRun, Force: c.Force})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	return pairs(a.out, "done", c.would("epoch "+r.GetEpoch()+" began", "an epoch would begin"),
		"predecessor", r.GetPredecessor(), "events in it", count(r.GetRestamped()))
}

type sourceRepublishCmd struct {
	sourceArg
	operatorFlags
}

func (c *sourceRepublishCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.admin(a).Republish(ctx, &journalv1.RepublishRequest{Reason: c.Reason, Actor: c.who(), DryRun: c.DryRun})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	return pairs(a.out, "done", c.would("everything is sent again, in epoch "+r.GetEpoch(), "everything would be sent again"),
		"predecessor", r.GetPredecessor(), "events", count(r.GetEvents()))
}

type sourceBlockedCmd struct {
	List    sourceBlockedListCmd    `cmd:"" help:"Aggregates whose events cannot be sent."`
	Show    sourceBlockedShowCmd    `cmd:"" help:"One of them, with the events that wait."`
	Mend    sourceBlockedMendCmd    `cmd:"" help:"The cause is gone: send the event itself, and those behind it."`
	Release sourceBlockedReleaseCmd `cmd:"" help:"Give the event up: a void fact takes its place, those behind it are sent."`
}

type sourceBlockedListCmd struct {
	sourceArg
	pageFlags
}

func (c *sourceBlockedListCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.admin(a).ListBlocked(ctx, &journalv1.ListBlockedRequest{PageSize: c.Limit, PageToken: c.Page})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	rows := [][]string{{"AGGREGATE", "SINCE (UTC)", "EVENTS", "VERSION", "FACT", "WHY"}}
	for _, b := range r.GetAggregates() {
		rows = append(rows, blockedRow(b))
	}
	if len(rows) == 1 {
		_, err := fmt.Fprintln(a.out, "nothing is blocked")
		return err
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	a.more(r.GetNextPageToken())
	return nil
}

func blockedRow(b *journalv1.BlockedAggregate) []string {
	return []string{
		clean(b.GetAggregateType() + "/" + b.GetAggregateId()), timeText(b.GetSince()), count(b.GetEvents()),
		fmt.Sprint(b.GetVersion()), clean(b.GetType()), clean(b.GetReason()),
	}
}

// blockedArg names a blocked aggregate of a source.
type blockedArg struct {
	sourceArg
	Aggregate string `arg:"" help:"As the list names it, TYPE/ID; the source's own type may be left out."`
}

func (b blockedArg) aggregate() (kind, id string) {
	if kind, id, ok := strings.Cut(b.Aggregate, "/"); ok {
		return kind, id
	}
	return b.Source, b.Aggregate
}

func (b blockedArg) get(a *app) (*journalv1.GetBlockedResponse, error) {
	ctx, cancel := a.call()
	defer cancel()
	kind, id := b.aggregate()
	return b.admin(a).GetBlocked(ctx, &journalv1.GetBlockedRequest{AggregateType: kind, AggregateId: id})
}

type sourceBlockedShowCmd struct{ blockedArg }

func (c *sourceBlockedShowCmd) Run(a *app) error {
	r, err := c.get(a)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	rows := [][]string{{"VERSION", "FACT", "SCHEMA", "BYTES", "COMMITTED (UTC)", "EVENT", "WHY"}}
	for _, e := range r.GetEvents() {
		reason := e.GetReason()
		if reason == "" {
			reason = "follows"
		}
		rows = append(rows, []string{
			fmt.Sprint(e.GetVersion()), clean(e.GetType()), fmt.Sprint(e.GetSchemaVersion()), count(e.GetPayloadBytes()),
			timeText(e.GetRecordedAt()), e.GetId(), clean(reason),
		})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "next: tidemark source blocked mend %[1]s %[2]s --reason …\n      tidemark source blocked release %[1]s %[2]s --event %[3]s --reason …\n",
		c.Source, c.Aggregate, r.GetAggregate().GetEventId())
	return err
}

type sourceBlockedMendCmd struct {
	blockedArg
	operatorFlags
}

func (c *sourceBlockedMendCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	kind, id := c.aggregate()
	r, err := c.admin(a).MendBlocked(ctx, &journalv1.MendBlockedRequest{AggregateType: kind, AggregateId: id, Reason: c.Reason, Actor: c.who(), DryRun: c.DryRun})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	n := count(r.GetAggregate().GetEvents())
	return pairs(a.out, "done", c.would(n+" events are sent again; if the cause is still there they are blocked again", n+" events would be sent again"))
}

type sourceBlockedReleaseCmd struct {
	blockedArg
	operatorFlags
	Event string `help:"Id of the event to give up, as show prints it." required:"" placeholder:"ID"`
}

func (c *sourceBlockedReleaseCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	kind, id := c.aggregate()
	r, err := c.admin(a).ReleaseBlocked(ctx, &journalv1.ReleaseBlockedRequest{
		AggregateType: kind, AggregateId: id, EventId: c.Event, Reason: c.Reason, Actor: c.who(), DryRun: c.DryRun,
	})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	b := r.GetAggregate()
	what := fmt.Sprintf("version %d (%s) of %s/%s", b.GetVersion(), clean(b.GetType()), b.GetAggregateType(), b.GetAggregateId())
	return pairs(a.out, "done", c.would(what+" is given up; a void fact takes its place", what+" would be given up"),
		"behind it", count(b.GetEvents()-1)+" events")
}

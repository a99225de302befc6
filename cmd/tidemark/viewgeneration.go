package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/grpc/status"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// generationCmds are for operators of generations: a read model is built anew
// beside itself, compared, switched to, and back.
type generationCmds struct {
	Generations viewGenerationsCmd `cmd:"" help:"What is built of a read model, and what answers."`
	Rebuild     viewRebuildCmd     `cmd:"" help:"Build a read model anew beside itself; nothing is switched."`
	Compare     viewCompareCmd     `cmd:"" help:"Whether a generation may answer, and what stands in the way."`
	Swap        viewSwapCmd        `cmd:"" help:"Have a generation answer, if it may."`
	Rollback    viewRollbackCmd    `cmd:"" help:"Have the generation answer again that did before."`
	Drop        viewDropCmd        `cmd:"" help:"Remove a generation from disk."`
	Refold      viewRefoldCmd      `cmd:"" help:"Rebuild orders from the owners' journals."`
	Operations  viewOperationsCmd  `cmd:"" help:"What runs, and what ended."`
	Pause       viewPauseCmd       `cmd:"" help:"Let an operation stand still."`
	Resume      viewResumeCmd      `cmd:"" help:"Let a paused operation go on."`
	Cancel      viewCancelCmd      `cmd:"" help:"End an operation; what a rebuild has built is dropped."`
}

// operators is the service for generations of a read model.
func (v viewFlag) operators(a *app) readmodelv1.GenerationServiceClient {
	return readmodelv1.NewGenerationServiceClient(v.conn(a))
}

// asker goes with every command that starts something.
type asker struct {
	viewFlag
	Reason    string `help:"Why; it is kept." placeholder:"TEXT"`
	Actor     string `help:"Who; it is kept. Default: operator: and your name here." placeholder:"WHO"`
	RequestID string `help:"Makes a repetition safe. Default: a new one." placeholder:"UUID"`
}

func (f asker) request() *readmodelv1.Request {
	id := f.RequestID
	if id == "" {
		id = uuid.NewString()
	}
	return &readmodelv1.Request{RequestId: id, Actor: operatorFlags{Actor: f.Actor}.who(), Reason: f.Reason}
}

// waiting shows progress until the end.
type waiting struct {
	Wait bool `help:"Stay and show how far it is. Ctrl-C leaves it running."`
}

type viewGenerationsCmd struct{ viewFlag }

func (c *viewGenerationsCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.operators(a).ListGenerations(ctx, &readmodelv1.ListGenerationsRequest{})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	rows := [][]string{{"GENERATION", "STATE", "KEPT", "ORDERS", "PARKED", "DISK", "MADE (UTC)", "ROLLBACK UNTIL (UTC)"}}
	for _, g := range r.GetGenerations() {
		kept := "by nobody"
		if g.GetFollowedAt() != nil {
			kept = "yes"
		}
		rows = append(rows, []string{
			g.GetName(), generationState(g), kept, "~" + count(g.GetOrders()), count(g.GetParked()),
			fmt.Sprintf("%.1f MB", float64(g.GetBytes())/1e6), timeText(g.GetCreatedAt()), timeText(g.GetRollbackUntil()),
		})
	}
	return table(a.out, rows...)
}

// generationState says how a generation stands, and what it is made from if that is
// not facts.
func generationState(g *readmodelv1.Generation) string {
	state := word(g.GetState(), "GENERATION_STATE_")
	if g.GetDerivedFrom() == "" || g.GetState() != readmodelv1.GenerationState_GENERATION_STATE_BUILDING {
		return state
	}
	return fmt.Sprintf("%s from the states of %s (%s orders)", state, g.GetDerivedFrom(), count(g.GetDerived()))
}

type viewRebuildCmd struct {
	asker
	waiting
}

func (c *viewRebuildCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.operators(a).StartRebuild(ctx, &readmodelv1.StartRebuildRequest{Request: c.request()})
	if err != nil {
		return err
	}
	if c.Wait {
		return c.wait(a, r.GetOperation())
	}
	return c.started(a, r.GetOperation())
}

// started says what runs now and how to follow it.
func (v viewFlag) started(a *app, o *readmodelv1.Operation) error {
	if a.json() {
		return a.printJSON(o, false)
	}
	_, err := fmt.Fprintf(a.out, "operation %s runs\nnext: tidemark view operations %s --view %s --wait\n", o.GetId(), o.GetId(), v.View)
	return err
}

type viewOperationsCmd struct {
	viewFlag
	pageFlags
	waiting
	ID         string `arg:"" optional:"" help:"One operation. Default: all, the newest first."`
	Unfinished bool   `help:"Only those that have not ended."`
}

func (c *viewOperationsCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	if c.ID == "" {
		return c.list(a)
	}
	r, err := c.operators(a).GetOperation(ctx, &readmodelv1.GetOperationRequest{Id: c.ID})
	if err != nil {
		return err
	}
	if c.Wait {
		return c.wait(a, r.GetOperation())
	}
	return a.operation(r.GetOperation())
}

func (c *viewOperationsCmd) list(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.operators(a).ListOperations(ctx, &readmodelv1.ListOperationsRequest{PageSize: c.Limit, PageToken: c.Page, Unfinished: c.Unfinished})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	if len(r.GetOperations()) == 0 {
		_, err := fmt.Fprintln(a.out, "no operations")
		return err
	}
	rows := [][]string{{"OPERATION", "KIND", "STATE", "GENERATION", "PROGRESS", "BY", "SINCE (UTC)", "WHY NOT"}}
	for _, o := range r.GetOperations() {
		rows = append(rows, []string{
			o.GetId(), word(o.GetKind(), "OPERATION_KIND_"), word(o.GetState(), "OPERATION_STATE_"), o.GetGeneration(), far(o),
			clean(o.GetRequestedBy()), timeText(o.GetCreatedAt()), clean(firstOf(o.GetError(), 60)),
		})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	a.more(r.GetNextPageToken())
	return nil
}

func firstOf(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}

// far says how far an operation is.
func far(o *readmodelv1.Operation) string {
	text := o.GetPhase()
	if o.GetTotal() > 0 {
		text = strings.TrimSpace(fmt.Sprintf("%s %d/%d (%.0f %%)", text, o.GetDone(), o.GetTotal(), 100*float64(o.GetDone())/float64(o.GetTotal())))
	}
	if o.GetFinishedAt() == nil && o.GetRate() > 0 {
		text += fmt.Sprintf(", %.0f/s", o.GetRate())
		if o.GetEta() != nil {
			text += ", " + short(o.GetEta().AsDuration()) + " to go"
		}
	}
	return text
}

type idArg struct {
	viewFlag
	ID string `arg:"" help:"Operation, as \"operations\" lists it."`
}

type viewPauseCmd struct{ idArg }

func (c *viewPauseCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.operators(a).PauseOperation(ctx, &readmodelv1.PauseOperationRequest{Id: c.ID})
	if err != nil {
		return err
	}
	return a.operation(r.GetOperation())
}

type viewResumeCmd struct{ idArg }

func (c *viewResumeCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.operators(a).ResumeOperation(ctx, &readmodelv1.ResumeOperationRequest{Id: c.ID})
	if err != nil {
		return err
	}
	return a.operation(r.GetOperation())
}

type viewCancelCmd struct{ idArg }

func (c *viewCancelCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.operators(a).CancelOperation(ctx, &readmodelv1.CancelOperationRequest{Id: c.ID})
	if err != nil {
		return err
	}
	return a.operation(r.GetOperation())
}

// between are the flags of what compares.
type between struct {
	asker
	Generation string   `arg:"" optional:"" help:"Generation, as \"generations\" lists it. Default: the one that is ready."`
	Expect     []string `help:"Table or table.column that may differ, besides what the view declares." placeholder:"NAME"`
}

type viewCompareCmd struct{ between }

func (c *viewCompareCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.operators(a).CompareGenerations(ctx, &readmodelv1.CompareGenerationsRequest{Request: c.request(), Generation: c.Generation, Expect: c.Expect})
	return c.ended(a, r.GetOperation(), err)
}

type viewSwapCmd struct{ between }

func (c *viewSwapCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.operators(a).SwapGeneration(ctx, &readmodelv1.SwapGenerationRequest{Request: c.request(), Generation: c.Generation, Expect: c.Expect})
	return c.ended(a, r.GetOperation(), err)
}

type viewRollbackCmd struct{ asker }

func (c *viewRollbackCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.operators(a).RollbackGeneration(ctx, &readmodelv1.RollbackGenerationRequest{Request: c.request()})
	return c.ended(a, r.GetOperation(), err)
}

type viewDropCmd struct {
	asker
	Generation   string `arg:"" help:"Generation, as \"generations\" lists it."`
	WithinWindow bool   `help:"Also if a rollback to it is still possible."`
}

func (c *viewDropCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := c.operators(a).DropGeneration(ctx, &readmodelv1.DropGenerationRequest{Request: c.request(), Generation: c.Generation, WithinWindow: c.WithinWindow})
	return c.ended(a, r.GetOperation(), err)
}

type viewRefoldCmd struct {
	asker
	waiting
	Order     string  `help:"One order." xor:"which" required:"" placeholder:"ID"`
	Partition *int32  `help:"Every order of a partition." xor:"which" required:"" placeholder:"N"`
	Since     *moment `help:"Every order with a fact committed from then on: a time, a date, or a distance such as =-1h." xor:"which" required:"" placeholder:"TIME"`
	Until     *moment `help:"With --since: committed before then." placeholder:"TIME"`
}

func (c *viewRefoldCmd) Run(a *app) error {
	r := &readmodelv1.StartRefoldRequest{Request: c.request()}
	switch {
	case c.Order != "":
		r.Orders = &readmodelv1.StartRefoldRequest_OrderId{OrderId: c.Order}
	case c.Partition != nil:
		r.Orders = &readmodelv1.StartRefoldRequest_Partition{Partition: *c.Partition}
	default:
		r.Orders = &readmodelv1.StartRefoldRequest_Committed{Committed: &readmodelv1.TimeRange{From: c.Since.proto(), To: c.Until.proto()}}
	}
	ctx, cancel := a.call()
	defer cancel()
	answer, err := c.operators(a).StartRefold(ctx, r)
	if err != nil {
		return err
	}
	if c.Wait {
		return c.wait(a, answer.GetOperation())
	}
	return c.started(a, answer.GetOperation())
}

// ended shows an operation that a call waited for, or goes on waiting.
func (v viewFlag) ended(a *app, o *readmodelv1.Operation, err error) error {
	if err != nil {
		for _, d := range status.Convert(err).Details() {
			if report, ok := d.(*readmodelv1.GateReport); ok && !a.json() {
				if shown := a.report(report); shown != nil {
					return shown
				}
			}
		}
		return err
	}
	if o.GetFinishedAt() == nil {
		return v.wait(a, o)
	}
	return a.operation(o)
}

// operation shows one operation.
func (a *app) operation(o *readmodelv1.Operation) error {
	if a.json() {
		return a.printJSON(o, false)
	}
	err := pairs(a.out, "operation", o.GetId(), "kind", word(o.GetKind(), "OPERATION_KIND_"), "state", word(o.GetState(), "OPERATION_STATE_"),
		"generation", o.GetGeneration(), "instead of", o.GetBase(), "progress", far(o), "why not", clean(o.GetError()),
		"asked by", clean(o.GetRequestedBy()), "because", clean(o.GetReason()), "since", timeText(o.GetCreatedAt()), "ended", timeText(o.GetFinishedAt()))
	if err != nil || o.GetReport() == nil {
		return err
	}
	return a.report(o.GetReport())
}

// report shows what the gate found.
func (a *app) report(r *readmodelv1.GateReport) error {
	checked := "positions, completeness and staleness looked at"
	if r.GetOrdersCompared() > 0 {
		checked = fmt.Sprintf("%d orders compared, %d rows, sums of %s", r.GetOrdersCompared(), r.GetRowsCompared(), list(r.GetSumsChecked()))
	}
	fmt.Fprintf(a.out, "%s in the place of %s: %s\n", r.GetGeneration(), r.GetBase(), checked)
	var expected []string
	for name, n := range r.GetExpected() {
		expected = append(expected, fmt.Sprintf("%s (%d)", clean(name), n))
	}
	if slices.Sort(expected); len(expected) > 0 {
		fmt.Fprintf(a.out, "as expected, these differ: %s\n", strings.Join(expected, ", "))
	}
	if len(r.GetViolations()) == 0 {
		_, err := fmt.Fprintln(a.out, "nothing stands in the way")
		return err
	}
	rows := [][]string{{"IN THE WAY", "OF", "WHY"}}
	for _, v := range r.GetViolations() {
		rows = append(rows, []string{v.GetCheck(), clean(v.GetSubject()), clean(v.GetDescription())})
	}
	if err := table(a.out, rows...); err != nil || len(r.GetDifferences()) == 0 {
		return err
	}
	rows = [][]string{{"ORDER", "TABLE", "KEY", "FIELD", "NOW", "THEN"}}
	for _, d := range r.GetDifferences() {
		rows = append(rows, []string{
			clean(d.GetOrderId()), d.GetTable(), clean(d.GetKey()), clean(d.GetField()), clean(d.GetBaseValue()), clean(d.GetValue()),
		})
	}
	return table(a.out, rows...)
}

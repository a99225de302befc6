package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// reconcileCmd compares read models with their owners. It changes nothing.
type reconcileCmd struct {
	View   string `help:"timeline or operations. Default: both." enum:",timeline,operations" default:"" env:"TIDEMARK_VIEW"`
	Order  string `help:"Only this order." placeholder:"ID"`
	Last   bool   `help:"Start nothing: show what the last comparison found, and the one that goes on all the time."`
	Reason string `help:"Why; it is kept." placeholder:"TEXT"`
	Actor  string `help:"Who; it is kept. Default: operator: and your name here." placeholder:"WHO"`
}

// errDiffers ends the command with a failure when a read model is not right.
var errDiffers = errors.New("a read model is not what its owners say")

func (c *reconcileCmd) Run(a *app) error {
	views := slices.Sorted(maps.Keys(a.Views))
	if c.View != "" {
		views = []string{c.View}
	}
	var failed []error
	named := disputes{}
	for _, view := range views {
		differs, err := c.one(a, view, named)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", view, err))
		}
		if differs {
			failed = append(failed, fmt.Errorf("%s: %w", view, errDiffers))
		}
	}
	if !a.json() {
		failed = append(failed, named.show(a, views))
	}
	return errors.Join(failed...)
}

func (c *reconcileCmd) one(a *app, view string, named disputes) (differs bool, err error) {
	client := readmodelv1.NewReconcileServiceClient(a.Views[view])
	if c.Last {
		ctx, cancel := a.call()
		defer cancel()
		r, err := client.GetReconciliation(ctx, &readmodelv1.GetReconciliationRequest{})
		if err != nil {
			return false, err
		}
		if a.json() {
			return false, a.printJSON(r, false)
		}
		named.note(view, r.GetLast().GetReport())
		return c.last(a, view, r)
	}
	ctx, cancel := a.call()
	r, err := client.StartReconcile(ctx, &readmodelv1.StartReconcileRequest{
		Request: &readmodelv1.Request{RequestId: uuid.NewString(), Actor: operatorFlags{Actor: c.Actor}.who(), Reason: c.Reason}, OrderId: c.Order,
	})
	cancel()
	if err != nil {
		return false, err
	}
	o, err := c.follow(a, view, r.GetOperation())
	if err != nil {
		return false, err
	}
	named.note(view, o.GetReport())
	if a.json() {
		return o.GetReport().GetDiffering() > 0, a.printJSON(o, false)
	}
	return c.show(a, view, o)
}

// follow waits until the comparison ended.
func (c *reconcileCmd) follow(a *app, view string, o *readmodelv1.Operation) (*readmodelv1.Operation, error) {
	client := readmodelv1.NewGenerationServiceClient(a.Views[view])
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for told := int64(0); o.GetFinishedAt() == nil; {
		select {
		case <-a.ctx.Done():
			return o, fmt.Errorf("it goes on without you: tidemark reconcile --last --view %s: %w", view, a.ctx.Err())
		case <-ticker.C:
		}
		ctx, cancel := a.call()
		r, err := client.GetOperation(ctx, &readmodelv1.GetOperationRequest{Id: o.GetId()})
		cancel()
		if err != nil {
			return o, err
		}
		if o = r.GetOperation(); !a.json() && o.GetDone() >= told+1000 {
			told = o.GetDone()
			fmt.Fprintf(a.err, "%s: %d of about %d orders, %.0f/s\n", view, told, o.GetTotal(), o.GetRate())
		}
	}
	if o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		return o, fmt.Errorf("the comparison %s: %s", word(o.GetState(), "OPERATION_STATE_"), clean(o.GetError()))
	}
	return o, nil
}

func (c *reconcileCmd) show(a *app, view string, o *readmodelv1.Operation) (differs bool, err error) {
	r := o.GetReport()
	if err := pairs(a.out, "view", view, "generation", r.GetGeneration(), "compared with", r.GetBase(),
		"orders", count(r.GetOrdersCompared()), "rows and entries", count(r.GetRowsCompared()), "sums that agree", list(r.GetSumsChecked()),
		"differences", count(r.GetDiffering()), "took", short(o.GetFinishedAt().AsTime().Sub(o.GetCreatedAt().AsTime()))); err != nil {
		return false, err
	}
	if err := ownersTables(a, r.GetOwners()); err != nil {
		return false, err
	}
	if r.GetDiffering() == 0 {
		return false, nil
	}
	rows := [][]string{{"ORDER", "TABLE", "KEY", "FIELD", "IS", "SHOULD BE"}}
	for _, d := range r.GetDifferences() {
		rows = append(rows, differenceRow(d))
	}
	for _, v := range r.GetViolations() {
		rows = append(rows, []string{"", strings.TrimPrefix(clean(v.GetSubject()), "table "), "", "", clean(v.GetDescription()), ""})
	}
	if err := table(a.out, rows...); err != nil {
		return true, err
	}
	_, err = fmt.Fprintln(a.out, "next: who wrote that? docs/howto/operate-a-view.md says how to mend it")
	return true, err
}

func differenceRow(d *readmodelv1.FieldDifference) []string {
	is, should := clean(d.GetValue()), clean(d.GetBaseValue())
	if is == "" {
		is = "(none)"
	}
	if should == "" {
		should = "(none)"
	}
	return []string{clean(d.GetOrderId()), clean(d.GetTable()), clean(d.GetKey()), clean(d.GetField()), is, should}
}

func (c *reconcileCmd) last(a *app, view string, r *readmodelv1.GetReconciliationResponse) (differs bool, err error) {
	if o := r.GetLast(); o == nil {
		fmt.Fprintf(a.out, "%s was never compared as a whole\n", view)
	} else if o.GetFinishedAt() == nil {
		fmt.Fprintf(a.out, "%s is being compared: %s, %d orders\n", view, clean(o.GetPhase()), o.GetDone())
	} else if differs, err = c.show(a, view, o); err != nil {
		return differs, err
	}
	if err := pairs(a.out, "all the time", reconciliationText(r.GetContinuous())); err != nil {
		return differs, err
	}
	if err := ownersTables(a, r.GetContinuous().GetOwners()); err != nil || len(r.GetDifferences()) == 0 {
		return differs, err
	}
	rows := [][]string{{"SEEN (UTC)", "ORDER", "TABLE", "KEY", "FIELD", "IS", "SHOULD BE"}}
	for _, d := range r.GetDifferences() {
		rows = append(rows, append([]string{timeText(d.GetSeenAt())}, differenceRow(d.GetDifference())...))
	}
	return true, table(a.out, rows...)
}

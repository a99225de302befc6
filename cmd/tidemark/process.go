package main

import (
	"os/user"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
)

// processCmd is for operators of the fulfilment process.
type processCmd struct {
	List  processListCmd  `cmd:"" help:"Processes by state and age, oldest first."`
	Show  processShowCmd  `cmd:"" help:"One order's process: history, steps, what it waits for."`
	Retry processRetryCmd `cmd:"" help:"Send a step again now."`
	Force processForceCmd `cmd:"" help:"Settle a step by your word; it is written down."`
}

type processListCmd struct {
	pageFlags
	State       string        `help:"running, ended or any." enum:"running,ended,any" default:"running"`
	NeedsPerson bool          `help:"Only those that a person ought to look at."`
	MinAge      time.Duration `help:"Only those that are at least this old, as in 48h."`
}

func (c *processListCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	request := &orderv1.ListProcessesRequest{NeedsPerson: c.NeedsPerson, PageSize: c.Limit, PageToken: c.Page}
	if c.State != "any" {
		request.State = enums[orderv1.ProcessState](orderv1.ProcessState_value, "PROCESS_STATE_", []string{c.State})[0]
	}
	if c.MinAge < 0 {
		return usage("--min-age must not be negative")
	}
	if c.MinAge > 0 {
		request.MinAge = durationpb.New(c.MinAge)
	}
	response, err := a.Processes.ListProcesses(ctx, request)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	rows := [][]string{{"ORDER", "STATE", "AGE", "QUIET FOR", "OPEN STEPS", "ATTENTION"}}
	for _, p := range response.GetProcesses() {
		rows = append(rows, []string{
			p.GetOrderId(), word(p.GetState(), "PROCESS_STATE_"), short(time.Since(p.GetStartedAt().AsTime())),
			short(time.Since(p.GetChangedAt().AsTime())),
			itoa(p.GetOpenSteps()) + yes(p.GetStalledSteps() > 0, " ("+itoa(p.GetStalledSteps())+" stalled)"), clean(p.GetAttention()),
		})
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	a.more(response.GetNextPageToken())
	return nil
}

type processShowCmd struct {
	Order string `arg:"" help:"Id of the order."`
}

func (c *processShowCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	response, err := a.Processes.GetProcess(ctx, &orderv1.GetProcessRequest{OrderId: c.Order})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	p := response.GetProcess()
	if err := pairs(a.out, "order", p.GetOrderId(), "state", word(p.GetState(), "PROCESS_STATE_"), "definition", "version "+itoa(p.GetDefinition()),
		"since", timeText(p.GetStartedAt()), "attention", clean(p.GetAttention())); err != nil {
		return err
	}
	waits := [][]string{{"\nWAITS FOR", "KIND", "UNTIL (UTC)", "THEN"}}
	for _, w := range response.GetWaits() {
		waits = append(waits, []string{clean(w.GetFor()), word(w.GetKind(), "WAIT_KIND_"), timeText(w.GetUntil()), clean(w.GetNext())})
	}
	history := [][]string{{"\nWHEN (UTC)", "KIND", "WHAT"}}
	for _, h := range response.GetHistory() {
		history = append(history, []string{timeText(h.GetAt()), h.GetKind(), clean(h.GetText())})
	}
	for _, gap := range response.GetHistoryGaps() {
		history = append(history, []string{"?", "fact", "not known: " + clean(gap)})
	}
	if err := table(a.out, waits...); err != nil {
		return err
	}
	return table(a.out, history...)
}

// stepFlags name a step and who asks.
type stepFlags struct {
	Order string `arg:"" help:"Id of the order."`
	Step  string `arg:"" help:"Name of the step, as tidemark process show prints it."`
	Actor string `help:"Who asks. Default: operator and your user name." placeholder:"operator:NAME"`
}

func (f *stepFlags) actor() string {
	if f.Actor != "" {
		return f.Actor
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return "operator:" + u.Username
	}
	return "operator:unknown"
}

type processRetryCmd struct {
	stepFlags
	Reason string `help:"Why, for the record."`
}

func (c *processRetryCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	response, err := a.Processes.RetryStep(ctx, &orderv1.RetryStepRequest{Actor: c.actor(), OrderId: c.Order, Step: c.Step, Reason: c.Reason})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	return pairs(a.out, "sent again", c.Step)
}

type processForceCmd struct {
	stepFlags
	Reason string `help:"What was done instead; it is written down." required:""`
}

func (c *processForceCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	response, err := a.Processes.ForceStep(ctx, &orderv1.ForceStepRequest{Actor: c.actor(), OrderId: c.Order, Step: c.Step, Reason: c.Reason})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	return pairs(a.out, "forced", c.Step, "by", c.actor())
}

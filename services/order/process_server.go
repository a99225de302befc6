package order

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/owner"
	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
	orderpb "github.com/tidemark-dev/tidemark/proto/order/v1"
)

// historyTimeout bounds how long a journal is waited for: an operator asks when
// something is down.
const historyTimeout = 2 * time.Second

// processServer is the operators' side of the fulfilment process.
type processServer struct {
	orderpb.UnimplementedProcessServiceServer
	manager  *process.Manager[fulfilment]
	pager    *rpc.Pager
	journals map[string]journalpb.JournalServiceClient // by aggregate type
}

// ListProcesses pages through processes, oldest first.
func (s *processServer) ListProcesses(ctx context.Context, r *orderpb.ListProcessesRequest) (*orderpb.ListProcessesResponse, error) {
	f := process.Filter{NeedsPerson: r.GetNeedsPerson()}
	switch r.GetState() {
	case orderpb.ProcessState_PROCESS_STATE_RUNNING:
		f.Status = process.StatusRunning
	case orderpb.ProcessState_PROCESS_STATE_ENDED:
		f.Status = process.StatusEnded
	}
	if r.GetMinAge() != nil {
		f.StartedBefore = time.Now().Add(-r.GetMinAge().AsDuration())
	}
	found, next, err := rpc.Page(s.pager, r, rpc.List[process.Summary, process.Place]{
		Read: func(behind process.Place, limit int) ([]process.Summary, error) {
			f.After, f.Limit = behind, limit
			return s.manager.List(ctx, f)
		},
		Place: func(p process.Summary) process.Place { return process.Place{StartedAt: p.StartedAt, ID: p.ID} },
	})
	if err != nil {
		return nil, journal.Explain(err)
	}
	resp := &orderpb.ListProcessesResponse{NextPageToken: next}
	for _, p := range found {
		resp.Processes = append(resp.Processes, processOut(p))
	}
	return resp, nil
}

// GetProcess returns one process with its history and what it waits for.
func (s *processServer) GetProcess(ctx context.Context, r *orderpb.GetProcessRequest) (*orderpb.GetProcessResponse, error) {
	d, err := s.manager.Show(ctx, r.GetOrderId())
	if err != nil {
		return nil, journal.Explain(err)
	}
	resp := &orderpb.GetProcessResponse{Process: processOut(d.Summary), Waits: waitsOut(d)}
	for _, t := range d.Timers {
		resp.Timers = append(resp.Timers, &orderpb.ProcessTimer{Name: t.Name, SetAt: timestamppb.New(t.SetAt), DueAt: timestamppb.New(t.DueAt)})
	}
	for _, st := range d.Steps {
		out := &orderpb.ProcessStep{
			Step: st.Step, RequestId: st.RequestID, Target: st.Target, Status: st.Status, Outcome: st.Outcome, Attempts: int32(st.Attempts),
			Withdrawn: st.Withdrawn, Stalled: st.Stalled, IssuedAt: timestamppb.New(st.IssuedAt), FinishedAt: owner.TimeOut(st.FinishedAt),
		}
		resp.History = append(resp.History, entry(st.IssuedAt, "step", "%s issued to the %s service", st.Step, st.Target))
		if st.FinishedAt != nil {
			resp.History = append(resp.History, entry(*st.FinishedAt, "step", "%s %s%s", st.Step, st.Status, because(st.Outcome)))
		} else {
			out.DueAt = timestamppb.New(st.DueAt)
		}
		resp.Steps = append(resp.Steps, out)
	}
	for _, a := range d.Audit {
		resp.History = append(resp.History, entry(a.At, "operator", "%s: %s %s%s", a.Actor, a.Action, a.Step, because(a.Reason)))
	}
	s.facts(ctx, d, resp)
	slices.SortStableFunc(resp.History, func(a, b *orderpb.HistoryEntry) int { return a.GetAt().AsTime().Compare(b.GetAt().AsTime()) })
	return resp, nil
}

// facts adds what the journals know of the process's aggregates.
func (s *processServer) facts(ctx context.Context, d process.Detail, resp *orderpb.GetProcessResponse) {
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	for aggregate, version := range d.Seen {
		kind, id, _ := strings.Cut(aggregate, "/")
		client := s.journals[kind]
		if client == nil {
			continue
		}
		events, err := client.GetEvents(ctx, &journalpb.GetEventsRequest{AggregateType: kind, AggregateId: id})
		if err != nil {
			resp.HistoryGaps = append(resp.HistoryGaps, fmt.Sprintf("%s: %s", aggregate, rpc.Fault(err)))
			continue
		}
		for _, e := range events.GetEvents() {
			seen := ""
			if e.GetVersion() > version {
				seen = ", which has not reached the process yet"
			}
			resp.History = append(resp.History, entry(e.GetRecordedAt().AsTime(), "fact", "%s of %s%s", e.GetType(), aggregate, seen))
		}
	}
	slices.Sort(resp.HistoryGaps)
}

// RetryStep sends a step again now.
func (s *processServer) RetryStep(ctx context.Context, r *orderpb.RetryStepRequest) (*orderpb.RetryStepResponse, error) {
	if err := s.manager.Retry(ctx, r.GetOrderId(), r.GetStep(), r.GetActor(), r.GetReason()); err != nil {
		return nil, journal.Explain(err)
	}
	return &orderpb.RetryStepResponse{}, nil
}

// ForceStep settles a step by a person's word.
func (s *processServer) ForceStep(ctx context.Context, r *orderpb.ForceStepRequest) (*orderpb.ForceStepResponse, error) {
	if err := s.manager.Force(ctx, r.GetOrderId(), r.GetStep(), r.GetActor(), r.GetReason()); err != nil {
		return nil, journal.Explain(err)
	}
	return &orderpb.ForceStepResponse{}, nil
}

func processOut(p process.Summary) *orderpb.Process {
	state := orderpb.ProcessState_PROCESS_STATE_RUNNING
	if p.Status == process.StatusEnded {
		state = orderpb.ProcessState_PROCESS_STATE_ENDED
	}
	return &orderpb.Process{
		OrderId: p.ID, State: state, Attention: p.Attention, Definition: int32(p.Definition), StartedAt: timestamppb.New(p.StartedAt),
		ChangedAt: timestamppb.New(p.ChangedAt), OpenSteps: int32(p.OpenSteps), StalledSteps: int32(p.Stalled),
	}
}

// waitsOut says what a process waits for: people first, then services that do
// not answer, then business.
func waitsOut(d process.Detail) []*orderpb.ProcessWait {
	var waits []*orderpb.ProcessWait
	if d.Attention != "" {
		waits = append(waits, &orderpb.ProcessWait{
			Kind: orderpb.WaitKind_WAIT_KIND_PERSON, For: "a person to look at it: " + d.Attention, Next: cmp.Or(remedies[d.Concern.Reason], "tidemark process show tells more"),
		})
	}
	for _, st := range d.Steps {
		if st.FinishedAt != nil {
			continue
		}
		wait := &orderpb.ProcessWait{
			Kind: orderpb.WaitKind_WAIT_KIND_TECHNICAL,
			For:  fmt.Sprintf("the %s service to answer %s (attempt %d%s)", st.Target, st.Step, st.Attempts, because(st.Outcome)), Next: "it is sent again",
		}
		if st.DueAt.After(time.Now()) {
			wait.Until = timestamppb.New(st.DueAt)
		}
		if st.Withdrawn {
			wait.For = fmt.Sprintf("the %s service to say whether %s took effect (attempt %d%s)", st.Target, st.Step, st.Attempts, because(st.Outcome))
			wait.Next = "what took effect is undone"
		}
		waits = append(waits, wait)
	}
	for _, w := range d.Waits {
		wait := &orderpb.ProcessWait{Kind: orderpb.WaitKind_WAIT_KIND_BUSINESS, For: w.For, Next: w.Next}
		for _, t := range d.Timers {
			if t.Name == w.Timer {
				wait.Until = timestamppb.New(t.DueAt)
			}
		}
		waits = append(waits, wait)
	}
	return waits
}

func entry(at time.Time, kind, format string, args ...any) *orderpb.HistoryEntry {
	return &orderpb.HistoryEntry{At: timestamppb.New(at), Kind: kind, Text: fmt.Sprintf(format, args...)}
}

func because(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

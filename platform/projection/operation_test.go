package projection_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

func TestTwoOperatorsCannotRebuildAtOnce(t *testing.T) {
	at := newSite(t)
	at.send(orders(3)...)
	p, q := at.process(), at.process()
	at.read(p.Projection)
	p.look()
	request := asked()
	first, err := p.Operators().StartRebuild(t.Context(), &readmodelv1.StartRebuildRequest{Request: request})
	if err != nil {
		t.Fatal(err)
	}
	again, err := q.Operators().StartRebuild(t.Context(), &readmodelv1.StartRebuildRequest{Request: request})
	if err != nil || again.GetOperation().GetId() != first.GetOperation().GetId() {
		t.Fatalf("the same request again: %v, %v", again, err)
	}
	_, err = q.Operators().StartRebuild(t.Context(), &readmodelv1.StartRebuildRequest{Request: asked()})
	if f := fault.As(err); f == nil || f.Reason != projection.ReasonOperationRunning || f.Metadata["operation"] != first.GetOperation().GetId() {
		t.Fatalf("a second rebuild: %v", err)
	}
	if _, err := p.Operators().CancelOperation(t.Context(), &readmodelv1.CancelOperationRequest{Id: first.GetOperation().GetId()}); err != nil {
		t.Fatal(err)
	}
	q.operates()
	if o := q.ends(first.GetOperation().GetId()); o.GetState() != readmodelv1.OperationState_OPERATION_STATE_CANCELLED {
		t.Fatalf("a cancelled rebuild is %v", o)
	}
	if _, err := q.Operators().StartRebuild(t.Context(), &readmodelv1.StartRebuildRequest{Request: asked()}); err != nil {
		t.Fatalf("a rebuild after the first was cancelled: %v", err)
	}
}

func TestOperationsSurviveTheirProcessAtEveryPhase(t *testing.T) {
	at := newSite(t)
	at.send(orders(10)...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	// die takes the operation up in a process of its own that is killed.
	die := func(phase string) {
		t.Helper()
		victim := at.process()
		for took, end := false, time.Now().Add(deadline); !took; {
			// A renewal that the one before had under way may still come.
			p.exec("UPDATE tidemark.operation SET lease_until = now()")
			var err error
			if took, err = victim.Die(t.Context(), phase); err != nil || time.Now().After(end) {
				t.Fatalf("killed at %q: %v, %v", phase, took, err)
			}
		}
		p.exec("UPDATE tidemark.operation SET lease_until = now()")
	}
	begun, err := p.Operators().StartRebuild(t.Context(), &readmodelv1.StartRebuildRequest{Request: asked()})
	if err != nil {
		t.Fatal(err)
	}
	id := begun.GetOperation().GetId()
	for _, phase := range []string{"begins", "makes the generation", "made", "made", "builds", "builds"} {
		die(phase)
	}
	if n := len(p.states()); n != 2 {
		t.Fatalf("%d generations after a rebuild was interrupted, want 2: %v", n, p.states())
	}
	p.look()
	second := p.operation(id).GetGeneration()
	built := p.Beside(second)
	half := len(at.records) / 2
	at.read(built, at.records[:half]...)
	die("builds")
	at.read(built, at.records...)
	p.look()
	stop := p.operates()
	if o := p.ends(id); o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatalf("the rebuild ended as %v", o)
	}
	stop()
	swap := func() *readmodelv1.Operation {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // nobody carries it out yet
		defer cancel()
		r, err := p.Operators().SwapGeneration(ctx, &readmodelv1.SwapGenerationRequest{Request: asked()})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetOperation()
	}
	o := swap()
	for _, phase := range []string{"begins", "compares", "switches"} {
		die(phase)
		if got := p.states()[second]; got != "READY" {
			t.Fatalf("killed at %q, the generation is %s", phase, got)
		}
	}
	die("switched")
	if got := p.states()[second]; got != "SERVING" {
		t.Fatalf("killed behind the switch, the generation is %s", got)
	}
	p.operates()
	if o := p.ends(o.GetId()); o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatalf("the swap ended as %v", o)
	}
	if _, generation := p.amount("o1"); generation != second {
		t.Errorf("%s answers", generation)
	}
}

func TestDrop(t *testing.T) {
	at := newSite(t)
	at.send(orders(5)...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	p.operates()
	id, second := p.rebuild()
	at.read(p.Beside(second))
	p.ends(id)
	if _, err := p.swap(""); err != nil {
		t.Fatal(err)
	}
	drop := func(name string, within bool) error {
		_, err := p.Operators().DropGeneration(t.Context(), &readmodelv1.DropGenerationRequest{Request: asked(), Generation: name, WithinWindow: within})
		return err
	}
	if err := drop(second, true); !fault.Is(err, fault.KindFailedPrecondition) {
		t.Errorf("drop of the generation that answers: %v", err)
	}
	if err := drop(p.Generation(), false); !fault.Is(err, fault.KindFailedPrecondition) {
		t.Errorf("drop within the rollback window: %v", err)
	}
	if err := drop(p.Generation(), true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{second: "SERVING"}, p.states()); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if got, generation := p.amount("o1"); got != 1 || generation != second {
		t.Errorf("%s answers %d", generation, got)
	}
	if err := p.rollback(); !fault.Is(err, fault.KindFailedPrecondition) {
		t.Errorf("rollback to what was dropped: %v", err)
	}
	// A process that starts now finds the rebuilt one, and a further rebuild has a
	// name of its own.
	next := at.process()
	if next.Generation() != second {
		t.Errorf("a new process keeps %s", next.Generation())
	}
	if _, third := p.rebuild(); !strings.HasSuffix(third, ".3") {
		t.Errorf("the third build is named %s", third)
	}
}

func TestABuildYieldsToWhatAnswers(t *testing.T) {
	at := newSite(t)
	at.send(orders(5)...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	p.operates()
	id, second := p.rebuild()
	built := p.Beside(second)
	if why := built.Braked(); why != "" {
		t.Fatalf("it stands still beside a generation that has read everything: %s", why)
	}
	// The one that answers falls behind: its marks are old, its log has more.
	at.send(fact("late", "order/late", 1, &note{Add: 1}))
	p.endsAre(0, at.log.offsets)
	p.until("the build stands still", func() bool { return built.Braked() != "" })
	p.until("the operation says so", func() bool { return p.operation(id).GetPhase() == "stands still" })
	if _, err := built.Claim(t.Context(), 0, topicIDs); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { read <- built.Handle(t.Context(), 0, at.records) }()
	select {
	case err := <-read:
		t.Fatalf("it read on: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	at.read(p.Projection)
	p.until("it goes on", func() bool { return built.Braked() == "" })
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if o := p.ends(id); o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Errorf("the rebuild ended as %v", o)
	}
}

func TestPauseAndResume(t *testing.T) {
	at := newSite(t)
	at.send(orders(5)...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	p.operates()
	id, second := p.rebuild()
	if _, err := p.Operators().PauseOperation(t.Context(), &readmodelv1.PauseOperationRequest{Id: id}); err != nil {
		t.Fatal(err)
	}
	p.until("it stands still", func() bool { return p.Beside(second).Braked() != "" })
	// It still does in a process that starts now.
	other := at.process()
	other.look()
	if other.Beside(second).Braked() == "" {
		t.Error("a paused build goes on in a new process")
	}
	if _, err := p.Operators().ResumeOperation(t.Context(), &readmodelv1.ResumeOperationRequest{Id: id}); err != nil {
		t.Fatal(err)
	}
	p.until("it goes on", func() bool { return p.Beside(second).Braked() == "" })
	at.read(p.Beside(second))
	if o := p.ends(id); o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Errorf("the rebuild ended as %v", o)
	}
	if _, err := p.Operators().PauseOperation(t.Context(), &readmodelv1.PauseOperationRequest{Id: id}); !fault.Is(err, fault.KindFailedPrecondition) {
		t.Errorf("pausing what ended: %v", err)
	}
}

func TestRefoldOperations(t *testing.T) {
	at := newSite(t)
	facts := orders(8)
	for i := range facts {
		facts[i].RecordedAt = dawn.Add(time.Duration(i) * time.Hour)
	}
	at.send(facts...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	p.operates()
	partition := int32(0)
	tests := []struct {
		name   string
		what   *readmodelv1.StartRefoldRequest
		mended int64
	}{
		{"one order", &readmodelv1.StartRefoldRequest{Orders: &readmodelv1.StartRefoldRequest_OrderId{OrderId: "o3"}}, 1},
		{"a range of time", &readmodelv1.StartRefoldRequest{Orders: &readmodelv1.StartRefoldRequest_Committed{Committed: &readmodelv1.TimeRange{
			From: stampOf(dawn.Add(2 * time.Hour)), To: stampOf(dawn.Add(5 * time.Hour)),
		}}}, 3},
		{"a partition", &readmodelv1.StartRefoldRequest{Orders: &readmodelv1.StartRefoldRequest_Partition{Partition: partition}}, 8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p.exec("UPDATE state SET state = replace(state::text, '\"Amount\":1', '\"Amount\":50')::json")
			tt.what.Request = asked()
			r, err := p.Operators().StartRefold(t.Context(), tt.what)
			if err != nil {
				t.Fatal(err)
			}
			o := p.ends(r.GetOperation().GetId())
			if o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED || o.GetDone() != tt.mended {
				t.Fatalf("the refold ended as %v", o)
			}
			if n := len(p.query(`SELECT 1 FROM @state WHERE state::text LIKE '%"Amount":1,%'`)); int64(n) != tt.mended {
				t.Errorf("%d states were mended, want %d", n, tt.mended)
			}
		})
	}
}

// TestASwitchThatCameSecondChangesNothing has somebody else switch between the
// gate and the pointer.
func TestASwitchThatCameSecondChangesNothing(t *testing.T) {
	at := newSite(t)
	at.send(orders(3)...)
	p := at.process()
	at.read(p.Projection)
	p.look()
	stop := p.operates()
	id, second := p.rebuild()
	at.read(p.Beside(second))
	p.ends(id)
	stop()
	p.Before("SWAP switches", func() {
		p.exec("UPDATE tidemark.pointer SET revision = revision + 1")
	})
	p.operates()
	if _, err := p.swap(""); !strings.Contains(fault.As(err).Error(), "switched to meanwhile") {
		t.Fatalf("the second switch: %v", err)
	}
	if got := p.states()[second]; got != "READY" {
		t.Errorf("the generation is %s", got)
	}
	if _, generation := p.amount("o1"); generation != p.Generation() {
		t.Errorf("%s answers", generation)
	}
}

func stampOf(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

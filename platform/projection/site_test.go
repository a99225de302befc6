package projection_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// deadline bounds what a test waits for; a loaded machine is slow.
const deadline = 90 * time.Second

// site is a source, its topics, and the processes that read them.
type site struct {
	t       *testing.T
	url     string
	log     *topics
	journal *ownerJournal
	order   *sender
	records []consumer.Record
	truths  []projection.Truth[tally] // of its processes
}

func newSite(t *testing.T) *site {
	l, j := newTopics(), journalOf()
	return &site{t: t, url: testkit.UsedURL(t), log: l, journal: j, order: senderOf(l, j, "order")}
}

// send puts facts and a control record into the topic.
func (s *site) send(facts ...event.Fact) {
	s.records = append(s.records, s.order.send(facts...)...)
	s.records = append(s.records, s.order.control())
}

// process opens a process that carries out operations; nobody but the test reads
// the topics for it.
func (s *site) process(tweaks ...tweak) *subject {
	s.t.Helper()
	p := openWith(s.t, s.url, s.truths, append([]tweak{withJournal(s.journal)}, tweaks...)...)
	p.Hasten()
	p.endsAre(0, s.log.offsets)
	return p
}

// operates lets a process carry out operations until the test, or stop, ends it.
func (s *subject) operates() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Operate(ctx) }()
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cancel()
			if err := <-done; err != nil {
				s.t.Error(err)
			}
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// read has a generation read everything that there is.
func (s *site) read(g *projection.Projection[tally], all ...consumer.Record) {
	s.t.Helper()
	if all == nil {
		all = s.records
	}
	if _, err := g.Claim(s.t.Context(), 0, topicIDs); err != nil {
		s.t.Fatal(err)
	}
	if err := g.Handle(s.t.Context(), 0, all); err != nil {
		s.t.Fatal(err)
	}
}

func (s *subject) look() {
	s.t.Helper()
	if err := s.Look(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// until looks at the catalog until something is so.
func (s *subject) until(what string, is func() bool) {
	s.t.Helper()
	for end := time.Now().Add(deadline); !is(); s.look() {
		if time.Now().After(end) {
			s.t.Fatalf("waited in vain until %s", what)
		}
	}
}

func asked() *readmodelv1.Request {
	return &readmodelv1.Request{RequestId: uuid.NewString(), Actor: "operator:test", Reason: "test"}
}

func (s *subject) operation(id string) *readmodelv1.Operation {
	s.t.Helper()
	r, err := s.Operators().GetOperation(s.t.Context(), &readmodelv1.GetOperationRequest{Id: id})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.GetOperation()
}

func (s *subject) ends(id string) *readmodelv1.Operation {
	s.t.Helper()
	var o *readmodelv1.Operation
	s.until("operation "+id+" ended", func() bool { o = s.operation(id); return o.GetFinishedAt() != nil })
	return o
}

// rebuild starts a rebuild and returns it with the name of the generation, once
// this process keeps that.
func (s *subject) rebuild() (id, name string) {
	s.t.Helper()
	r, err := s.Operators().StartRebuild(s.t.Context(), &readmodelv1.StartRebuildRequest{Request: asked()})
	if err != nil {
		s.t.Fatal(err)
	}
	id = r.GetOperation().GetId()
	s.until("the generation is made", func() bool {
		name = s.operation(id).GetGeneration()
		return name != "" && s.Beside(name) != nil
	})
	return id, name
}

func (s *subject) swap(generation string, expect ...string) (*readmodelv1.GateReport, error) {
	r, err := s.Operators().SwapGeneration(s.t.Context(), &readmodelv1.SwapGenerationRequest{Request: asked(), Generation: generation, Expect: expect})
	if err != nil {
		for _, d := range rpc.Status(err).Details() {
			if report, ok := d.(*readmodelv1.GateReport); ok {
				return report, err
			}
		}
	}
	return r.GetOperation().GetReport(), err
}

func (s *subject) rollback() error {
	_, err := s.Operators().RollbackGeneration(s.t.Context(), &readmodelv1.RollbackGenerationRequest{Request: asked()})
	return err
}

func (s *subject) states() map[string]string {
	s.t.Helper()
	r, err := s.Operators().ListGenerations(s.t.Context(), &readmodelv1.ListGenerationsRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	states := map[string]string{}
	for _, g := range r.GetGenerations() {
		states[g.GetName()] = strings.TrimPrefix(g.GetState().String(), "GENERATION_STATE_")
	}
	return states
}

// violations are the checks that a report names, each once.
func violations(r *readmodelv1.GateReport) map[string]bool {
	checks := map[string]bool{}
	for _, v := range r.GetViolations() {
		checks[v.GetCheck()] = true
	}
	return checks
}

// amount is what a read shows of one order.
func (s *subject) amount(order string) (amount int64, generation string) {
	s.t.Helper()
	f, err := s.Read(s.t.Context(), nil, order, func(b *pgx.Batch) {
		b.Queue("SELECT coalesce(sum(amount), 0)::bigint FROM parts WHERE order_id = $1", order).QueryRow(func(r pgx.Row) error { return r.Scan(&amount) })
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return amount, f.GetGeneration()
}

package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

type batchTx = *postgres.BatchTx

const (
	claimFor     = 3 * time.Second // a claim that is not renewed lapses: its holder died
	renewAfter   = time.Second     // claims older than this are renewed at every poll
	callTimeout  = 10 * time.Second
	pollInterval = time.Second // for due retries, lapsed claims and timers
	stallAfter   = 2 * time.Minute
	linger       = 25 * time.Millisecond // finished commands are gathered this long
)

// Cause tells the sender of a command what it follows from.
type Cause struct {
	// Instance is the process instance, the order id; it serves as correlation id.
	Instance string
	// ID is the event or request that led to the command.
	ID string
	// TraceParent and TraceState are the trace of that event.
	TraceParent, TraceState string
}

// Participants are the services that take a process's steps.
type Participants struct {
	// Targets names them all.
	Targets []string
	// Target says who takes a request.
	Target func(proto.Message) string
	// Send sends one request and returns its gRPC error. An error with a code
	// that leaves the outcome unknown is tried again; any other is a refusal.
	Send func(ctx context.Context, request proto.Message, cause Cause) error
	// Resolve makes the outcome of a request definite: it took effect, or the
	// target refuses it from now on. method is the request's type without
	// "Request". An error means that it is as unknown as before.
	Resolve func(ctx context.Context, target, requestID, method string, cause Cause) (effective bool, err error)
	// Forget tells a target that requests will not be made again, so that it need
	// not keep their answers. It may keep them all the same. Nil: nobody is told.
	Forget func(ctx context.Context, target string, requestIDs []string) error
	// Events returns versions of an aggregate, both inclusive, oldest first, from
	// its owner's journal; perhaps fewer. One that cannot be decoded has no body.
	// Nil: nobody can be asked, and a missing fact is a doubt at once.
	Events func(ctx context.Context, a event.Aggregate, from, to int64) ([]event.Fact, error)
}

// Manager runs the instances of one process in one database.
type Manager[S any] struct {
	// Beside queues statements of the process's own service that must commit with
	// a changed instance, for instance into a row that its commands lock. It may
	// note in the state that it did. Set it before the first fact; nil: nothing.
	Beside func(b *pgx.Batch, id string, state *S)
	// Tell says to others that an instance needs a person, or with an empty
	// concern that it does not any more. It may read in tx, and queues what must
	// commit with the instance. What it returns is called after the commit, unless
	// nil. Set it before the first fact; nil: nobody is told.
	Tell func(ctx context.Context, tx *postgres.BatchTx, write *pgx.Batch, id string, concern Concern) (told func(), err error)

	definitions map[int]Definition[S]
	newest      Definition[S]
	pool        *pgxpool.Pool
	to          Participants
	log         *slog.Logger
	wake        chan struct{}
	lanes       map[string]*lane
	finished    chan pending

	mu   sync.Mutex
	held map[string]time.Time // claimed commands in this process, and since when
}

// NewManager returns a manager. The tables of [Migrations] must exist. The last
// definition is for new instances; the others are for those that were started
// with them and are still open.
func NewManager[S any](pool *pgxpool.Pool, to Participants, log *slog.Logger, definitions ...Definition[S]) (*Manager[S], error) {
	m := &Manager[S]{
		definitions: map[int]Definition[S]{}, pool: pool, to: to, log: log, wake: make(chan struct{}, 1),
		lanes: map[string]*lane{}, held: map[string]time.Time{},
	}
	if len(definitions) == 0 {
		return nil, errors.New("a process needs a definition")
	}
	for _, d := range definitions {
		if err := d.Check(); err != nil {
			return nil, err
		}
		if m.newest.Name != "" && (d.Name != m.newest.Name || d.Version <= m.newest.Version) {
			return nil, fmt.Errorf("process %s: definition %s/%d after version %d", m.newest.Name, d.Name, d.Version, m.newest.Version)
		}
		m.definitions[d.Version], m.newest = d, d
	}
	for _, target := range append(slices.Clone(to.Targets), "") { // "": commands of before targets were noted
		m.lanes[target] = newLane(target, time.Now)
	}
	return m, nil
}

// definition returns what an instance was started with. An instance of a
// version that this program does not know must not be touched by it.
func (m *Manager[S]) definition(in *instance[S]) (Definition[S], error) {
	def, ok := m.definitions[in.definition]
	if !ok {
		return def, fmt.Errorf("process %s %s runs version %d, which this program does not know", m.newest.Name, in.id, in.definition)
	}
	return def, nil
}

func (m *Manager[S]) inBatches(ctx context.Context, fn func(batchTx) error) error {
	return postgres.InBatches(ctx, m.pool, fn)
}

// Fold takes facts into their instances in a transaction of its own. Facts of
// one aggregate must be in order.
func (m *Manager[S]) Fold(ctx context.Context, facts []event.Fact) error {
	return m.complete(ctx, func(found missed) error {
		return m.transact(ctx, transaction[S]{ids: keys(facts), act: func(w *work[S]) error { return w.fold(found.fill(facts), found) }})
	})
}

func keys(facts []event.Fact) []string {
	ids := make([]string, len(facts))
	for i, f := range facts {
		ids[i] = f.Key
	}
	return ids
}

// Wake tells the dispatcher that there may be commands. It never blocks.
func (m *Manager[S]) Wake() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run sends commands and fires timers until ctx ends. It returns nil then,
// after the calls under way have ended; their outcome is recorded, or their
// claim lapses and they are sent again.
func (m *Manager[S]) Run(ctx context.Context) error {
	var calls, recording sync.WaitGroup
	m.finished = make(chan pending, 1024)
	recording.Go(m.record)
	for _, l := range m.lanes {
		for range laneWorkers {
			calls.Go(func() { m.serve(ctx, l) })
		}
	}
	calls.Go(func() { m.forgetting(ctx) })
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for ctx.Err() == nil {
		more, err := m.keepUp(ctx)
		if err != nil && ctx.Err() == nil {
			m.log.Warn("process commands cannot be claimed", "process", m.newest.Name, "error", err)
		}
		if more && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-poll.C:
		}
	}
	calls.Wait()
	close(m.finished)
	recording.Wait()
	return m.abandon()
}

// keepUp renews claims, claims what is due, and fires timers. It reports
// whether there may be more at once.
func (m *Manager[S]) keepUp(ctx context.Context) (more bool, err error) {
	claimed, due, err := m.claim(ctx)
	if err != nil {
		return false, err
	}
	for _, p := range claimed {
		m.lanes[p.target].ready <- p // claim took no more than there is room for
	}
	if err := m.fire(ctx, due); err != nil {
		return false, err
	}
	return len(due) == timerBatch, nil
}

// serve sends the commands of one lane, one after the other.
func (m *Manager[S]) serve(ctx context.Context, l *lane) {
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-l.ready:
			m.dispatch(ctx, l, p)
			l.release(1)
		}
	}
}

// dispatch makes one call and records its outcome.
func (m *Manager[S]) dispatch(ctx context.Context, l *lane, p pending) {
	record, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	var err error
	switch outcome, reason, wait := m.attempt(ctx, l, p); outcome {
	case statusDone:
		m.finished <- p
		return
	case statusPending:
		err = m.later(record, p, wait, reason)
		time.AfterFunc(wait, m.Wake)
	default:
		err = m.settle(record, p, outcome, reason)
		m.log.Info("process step did not take effect", "process", m.newest.Name, "instance", p.cause.Instance,
			"step", p.step, "outcome", outcome, "reason", reason)
	}
	m.forget(p)
	if err != nil {
		m.log.Warn("process outcome not recorded; the step will be sent again",
			"process", m.newest.Name, "instance", p.cause.Instance, "step", p.step, "error", err)
	}
}

// attempt makes one call, or, for a step that was withdrawn, makes its outcome
// definite. It answers the command's new status; while that is pending, also how
// long to wait.
func (m *Manager[S]) attempt(ctx context.Context, l *lane, p pending) (outcome, reason string, wait time.Duration) {
	if p.withdrawn && p.attempts == 1 {
		return string(Withdrawn), "it was never sent", 0
	}
	if p.outcome != "" && !l.mayRetry() { // a claim that lapsed is no retry
		return statusPending, p.outcome, budgetPause/2 + backoff(1)
	}
	if open := l.openFor(); open > time.Second/100 {
		return statusPending, p.outcome, open
	}
	request, err := decode(p.request)
	if err != nil {
		return string(Refused), fmt.Sprintf("the step cannot be read: %v", err), 0
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	effective := true
	if p.withdrawn {
		effective, err = m.to.Resolve(call, p.target, p.requestID, method(request), p.cause)
	} else {
		err = m.to.Send(call, request, p.cause)
	}
	if l.report(err, p.outcome != "") {
		m.revive(ctx, l.target)
	}
	switch {
	case err == nil && effective:
		return statusDone, "", 0
	case err == nil:
		return string(Withdrawn), "it had not taken effect and is refused from now on", 0
	case p.withdrawn || unknown(err):
		return statusPending, err.Error(), backoff(p.attempts)
	default:
		return string(Refused), status.Convert(err).Message(), 0
	}
}

// revive makes what waits for its next attempt at a target that is back due now:
// the lane's places and its budget keep that from being a flood.
func (m *Manager[S]) revive(ctx context.Context, target string) {
	if err := m.dueNow(ctx, target); err != nil && ctx.Err() == nil {
		m.log.Warn("process commands wait for their next attempt although their target is back",
			"process", m.newest.Name, "target", target, "error", err)
	}
	m.Wake()
}

// hand gives commands that were committed as claimed to their lanes.
func (m *Manager[S]) hand(issued []pending) {
	missed := false
	for _, p := range issued {
		if p.attempts == 0 {
			missed = true
			continue
		}
		m.hold(p)
		m.lanes[p.target].ready <- p // there is a place reserved
	}
	if missed {
		m.Wake()
	}
}

// unreserve gives the places of commands back that were not committed.
func (m *Manager[S]) unreserve(w *work[S]) {
	if w == nil {
		return
	}
	for _, p := range w.issued {
		if p.attempts > 0 {
			m.lanes[p.target].release(1)
		}
	}
	w.issued = nil
}

func (m *Manager[S]) hold(p pending) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[p.requestID] = time.Now()
}

func (m *Manager[S]) forget(p pending) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, p.requestID)
}

// aging returns the claims that must be renewed.
func (m *Manager[S]) aging() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for id, since := range m.held {
		if time.Since(since) > renewAfter {
			ids = append(ids, id)
		}
	}
	return ids
}

// record writes down what took effect, many at once. What it cannot write down
// is sent again and answered as before.
func (m *Manager[S]) record() {
	for p := range m.finished {
		gathered := []pending{p}
		deadline := time.NewTimer(linger)
	gather:
		for len(gathered) < cap(m.finished) {
			select {
			case p, ok := <-m.finished:
				if !ok {
					break gather
				}
				gathered = append(gathered, p)
			case <-deadline.C:
				break gather
			}
		}
		deadline.Stop()
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		if err := m.done(ctx, gathered); err != nil {
			m.log.Warn("process outcomes not recorded; the steps will be sent again", "process", m.newest.Name, "steps", len(gathered), "error", err)
		}
		cancel()
		for _, p := range gathered {
			m.forget(p)
		}
	}
}

// abandon gives back what was claimed and not sent, so that another manager
// need not wait for the claims to lapse.
func (m *Manager[S]) abandon() error {
	var ids []string
	for _, l := range m.lanes {
		for len(l.ready) > 0 {
			ids = append(ids, (<-l.ready).requestID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := m.unclaim(ctx, ids); err != nil {
		m.log.Warn("process claims not given back; they lapse", "process", m.newest.Name, "error", err)
	}
	return nil
}

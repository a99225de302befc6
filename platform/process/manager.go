package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark-dev/tidemark/platform/postgres"
)

type commandTag = pgconn.CommandTag

// errRevision says that somebody else changed an instance meanwhile although it
// was locked: two creators of the same row. The caller's transaction runs again.
var errRevision = errors.New("process instance changed meanwhile")

const (
	claimFor     = 30 * time.Second // a command is claimed this long
	callTimeout  = 10 * time.Second // a call may take this long; shorter than claimFor
	pollInterval = time.Second      // for due retries and lapsed claims
	maxBackoff   = 30 * time.Second
	workers      = 16
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

// Send sends one request and returns its gRPC error. An error with a code that
// leaves the outcome unknown is tried again; any other is a refusal.
type Send func(ctx context.Context, request proto.Message, cause Cause) error

// Manager runs the instances of one definition in one database.
type Manager[S any] struct {
	def  Definition[S]
	pool *pgxpool.Pool
	send Send
	log  *slog.Logger
	wake chan struct{}
}

// NewManager returns a manager. The tables of [Migrations] must exist.
func NewManager[S any](def Definition[S], pool *pgxpool.Pool, send Send, log *slog.Logger) (*Manager[S], error) {
	if err := def.Check(); err != nil {
		return nil, err
	}
	return &Manager[S]{def: def, pool: pool, send: send, log: log, wake: make(chan struct{}, 1)}, nil
}

// Wake tells the dispatcher that there may be commands. Call it after a commit
// in which [Manager.Fold] ran. It never blocks.
func (m *Manager[S]) Wake() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run sends commands until ctx ends. It returns nil then, after the calls in
// flight have ended; their outcome is recorded or their claim lapses.
func (m *Manager[S]) Run(ctx context.Context) error {
	var calls sync.WaitGroup
	defer calls.Wait()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	free := make(chan struct{}, workers) // one token per idle worker
	for range workers {
		free <- struct{}{}
	}
	for {
		room := len(free)
		claimed, err := m.claim(ctx, room)
		if err != nil && ctx.Err() == nil {
			m.log.Warn("process commands cannot be claimed", "process", m.def.Name, "error", err)
		}
		for _, p := range claimed {
			<-free
			calls.Go(func() {
				m.dispatch(ctx, p)
				free <- struct{}{}
			})
		}
		if len(claimed) == room { // there may be more: go on as soon as anyone is idle
			select {
			case <-ctx.Done():
				return nil
			case token := <-free:
				free <- token
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-poll.C:
		}
	}
}

// dispatch makes one call and records its outcome.
func (m *Manager[S]) dispatch(ctx context.Context, p pending) {
	outcome := m.call(ctx, p)
	record, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	var err error
	switch {
	case outcome == nil:
		err = m.done(record, p)
	case unknown(outcome):
		wait := backoff(p.attempts)
		err = m.later(record, p, wait, outcome.Error())
		time.AfterFunc(wait, m.Wake)
	default:
		err = postgres.InTx(record, m.pool, func(tx pgx.Tx) error {
			return m.refused(record, tx, p, outcome.Error())
		})
		m.Wake() // the process may have reacted
		m.log.Info("process step refused", "process", m.def.Name, "instance", p.instance, "step", p.step, "error", outcome)
	}
	if err != nil {
		m.log.Warn("process outcome not recorded; the step will be sent again",
			"process", m.def.Name, "instance", p.instance, "step", p.step, "error", err)
	}
}

func (m *Manager[S]) call(ctx context.Context, p pending) error {
	request, err := decode(p.request)
	if err != nil {
		return status.Error(codes.InvalidArgument, fmt.Sprintf("step cannot be read: %v", err))
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return m.send(ctx, request, Cause{
		Instance: p.instance, ID: p.causation, TraceParent: p.traceparent, TraceState: p.tracestate,
	})
}

// unknown reports whether the command may or may not have taken effect. Only
// codes that a participant gives after deciding are definite.
func unknown(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition,
		codes.PermissionDenied, codes.Unauthenticated, codes.OutOfRange, codes.Unimplemented:
		return false
	default:
		return true
	}
}

// backoff doubles from 100 ms to maxBackoff, with full jitter on the upper half.
func backoff(attempts int) time.Duration {
	d := maxBackoff
	if attempts < 9 {
		d = min(maxBackoff, 100*time.Millisecond<<max(0, attempts-1))
	}
	return d/2 + rand.N(d/2+1)
}

// Package postgres opens databases, runs transactions, applies migrations, and
// runs a private cluster for the embedded fleet and the tests.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/telemetry"
)

// Config names one database.
type Config struct {
	URL      string `name:"url" help:"Connection URL, for example postgres://user@host:5432/database."`
	MaxConns int32  `help:"Most connections the pool opens." default:"16"`
}

// idleLimit is how long the server lets a transaction stand still between two
// statements before it ends it, and lets its locks go.
const idleLimit = "5s"

// Open returns a pool whose queries are prepared once per connection, traced
// and measured. A transaction that stands still for five seconds is ended by
// the server, unless the URL says otherwise. Open waits up to 30 seconds for
// the server to answer, so that services and their database may start in any
// order.
func Open(ctx context.Context, config Config, tel *telemetry.Telemetry) (*pgxpool.Pool, error) {
	parsed, err := pgxpool.ParseConfig(config.URL)
	if err != nil {
		return nil, fmt.Errorf("parse the postgres URL: %w", err)
	}
	if config.MaxConns > 0 {
		parsed.MaxConns = config.MaxConns
	}
	// A process that is paused inside a transaction must not hold up the one
	// that takes over from it.
	const idle = "idle_in_transaction_session_timeout"
	if _, given := parsed.ConnConfig.RuntimeParams[idle]; !given {
		parsed.ConnConfig.RuntimeParams[idle] = idleLimit
	}
	parsed.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	parsed.ConnConfig.Tracer = otelpgx.NewTracer(
		otelpgx.WithTracerProvider(tel.TracerProvider),
		otelpgx.WithMeterProvider(tel.MeterProvider),
		otelpgx.WithDisableAcquireTracer(),
		otelpgx.WithDisableConnectionDetailsInAttributes(),
	)
	pool, err := pgxpool.NewWithConfig(ctx, parsed)
	if err != nil {
		return nil, fmt.Errorf("open postgres: %w", err)
	}
	if err := waitUntilReady(ctx, pool, 30*time.Second); err != nil {
		pool.Close()
		return nil, err
	}
	if err := otelpgx.RecordStats(pool, otelpgx.WithStatsMeterProvider(tel.MeterProvider)); err != nil {
		pool.Close()
		return nil, fmt.Errorf("measure the postgres pool: %w", err)
	}
	return pool, nil
}

func waitUntilReady(ctx context.Context, pool *pgxpool.Pool, limit time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := pool.Ping(bounded)
		if err == nil {
			return nil
		}
		var refused *pgconn.PgError
		if errors.As(err, &refused) && refused.Code != cannotConnectNow {
			return fmt.Errorf("connect to postgres: %w", err)
		}
		select {
		case <-bounded.Done():
			return fmt.Errorf("postgres did not answer within %s: %w", limit, err)
		case <-time.After(pause):
		}
	}
}

// SQLSTATEs this package reacts to.
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	cannotConnectNow     = "57P03" // the server is starting or stopping
	uniqueViolation      = "23505"
)

const (
	maxAttempts = 8
	firstPause  = 2 * time.Millisecond
	longPause   = 200 * time.Millisecond

	rollbackTime = 5 * time.Second
)

// ErrNoConnection says that a transaction did not begin: nothing was done.
var ErrNoConnection = errors.New("begin")

// ErrCommitUnknown means that the connection broke while the commit was under
// way: the transaction may or may not have happened. Resolve it by running the
// same command with the same request id again, never by looking for its rows.
var ErrCommitUnknown = errors.New("outcome of the commit is unknown")

// InTx runs fn inside one READ COMMITTED transaction and commits it when fn
// returns nil. After a serialization failure or a deadlock it runs fn again,
// up to eight times in all, so fn must have no effect but through tx. Any other
// error rolls back and is returned as it is; a commit whose outcome is not
// known returns an error that wraps ErrCommitUnknown.
func InTx(ctx context.Context, pool *pgxpool.Pool, fn func(tx pgx.Tx) error) error {
	return InTxWith(ctx, pool, pgx.TxOptions{}, fn)
}

// InTxWith is InTx with a choice of isolation level and access mode.
func InTxWith(ctx context.Context, pool *pgxpool.Pool, options pgx.TxOptions, fn func(tx pgx.Tx) error) error {
	return retried(ctx, func() error { return tryTx(ctx, pool, options, fn) })
}

// retried runs a transaction again while it ends in a conflict.
func retried(ctx context.Context, try func() error) error {
	pause := firstPause
	for attempt := 1; ; attempt++ {
		err := try()
		if err == nil || !IsConflict(err) {
			return err
		}
		if attempt == maxAttempts {
			return fmt.Errorf("gave up after %d attempts: %w", attempt, err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, longPause)
	}
}

func tryTx(ctx context.Context, pool *pgxpool.Pool, options pgx.TxOptions, fn func(tx pgx.Tx) error) (err error) {
	tx, err := pool.BeginTx(ctx, options)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoConnection, err)
	}
	committing := false
	defer func() {
		if committing {
			return
		}
		// The caller's context may be the reason why fn failed, so the rollback
		// gets one of its own. After a broken connection it does nothing.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
		defer cancel()
		_ = tx.Rollback(bounded)
	}()
	if err := fn(tx); err != nil {
		return err
	}
	committing = true
	err = tx.Commit(ctx)
	if err == nil {
		return nil
	}
	if WasRefused(err) || errors.Is(err, pgx.ErrTxCommitRollback) {
		return fmt.Errorf("commit: %w", err)
	}
	return fmt.Errorf("commit: %w: %w", ErrCommitUnknown, err)
}

// WasRefused reports whether the server said no to a statement, so that nothing
// of its transaction is stored. An error that ends the connection says nothing
// about a commit that was under way.
func WasRefused(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Severity != "FATAL" && refused.Severity != "PANIC"
}

// IsConflict reports whether err is a serialization failure or a deadlock:
// running the whole transaction again may succeed.
func IsConflict(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) &&
		(refused.Code == serializationFailure || refused.Code == deadlockDetected)
}

// ViolatedUnique returns the name of the unique constraint that err says was
// violated, or "" for any other error.
func ViolatedUnique(err error) string {
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == uniqueViolation {
		return refused.ConstraintName
	}
	return ""
}

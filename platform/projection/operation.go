package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// An operation is something that takes long. It is a row, so it survives those
// who carry it out: a process of its view version holds it under a lease with a
// term, writes only while the term is its own, and whoever takes over goes on
// from what the row and the catalog say.
//
//	RUNNING ◀──▶ PAUSED        RUNNING ──▶ SUCCEEDED | FAILED
//	   └────────┴──cancel──▶ CANCELLING ──▶ CANCELLED

const (
	kindRebuild   = "REBUILD"
	kindCompare   = "COMPARE"
	kindSwap      = "SWAP"
	kindRollback  = "ROLLBACK"
	kindDrop      = "DROP"
	kindRefold    = "REFOLD"
	kindReconcile = "RECONCILE"
)

const (
	opRunning    = "RUNNING"
	opPaused     = "PAUSED"
	opCancelling = "CANCELLING"
	opSucceeded  = "SUCCEEDED"
	opFailed     = "FAILED"
	opCancelled  = "CANCELLED"
)

// lanes keep operations apart that must not run at once. One can go back while
// something is being built.
var lanes = map[string]string{
	kindRebuild: "build", kindCompare: "switch", kindSwap: "switch", kindRollback: "switch", kindDrop: "switch", kindRefold: "refold", kindReconcile: "reconcile",
}

const (
	leaseTime = 10 * time.Second
	// gatePatience is how long the gate waits for what may pass by itself.
	gatePatience = 20 * time.Second
	// keepOperations is how long the rows of operations that ended are kept.
	keepOperations = "30 days"
)

// processName names this process for operators.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "/" + strconv.Itoa(os.Getpid())
}

// request is what an operation was asked to do, as its row keeps it.
type request struct {
	Generation   string     `json:"generation,omitempty"`
	Expect       []string   `json:"expect,omitempty"`
	WithinWindow bool       `json:"within_window,omitempty"`
	Order        string     `json:"order,omitempty"`
	Partition    *int32     `json:"partition,omitempty"`
	From         *time.Time `json:"from,omitempty"`
	To           *time.Time `json:"to,omitempty"`
}

// operation is a row of tidemark.operation.
type operation struct {
	generation, baseName          string
	id, kind, state, phase, place string
	version                       int
	hash                          string
	schema, base                  string
	request                       request
	done, total                   int64
	rate                          float64
	failure, code                 string
	report                        *Report
	requestedBy, reason           string
	holder                        string
	term                          int64
	createdAt                     time.Time
	updatedAt                     time.Time
	finishedAt                    *time.Time
}

// The names of generations come from the catalog, which keeps dropped ones.
const operationColumns = `coalesce((SELECT g.name || '/' || g.version || '-' || g.hash || CASE WHEN g.attempt > 1 THEN '.' || g.attempt ELSE '' END
		FROM tidemark.generation g WHERE g.schema = operation.schema), ''),
	coalesce((SELECT g.name || '/' || g.version || '-' || g.hash || CASE WHEN g.attempt > 1 THEN '.' || g.attempt ELSE '' END
		FROM tidemark.generation g WHERE g.schema = operation.base), ''),
	id, kind, state, phase, place, version, hash, schema, base, request, done, total, rate, error, reason_code,
	report, requested_by, reason, CASE WHEN lease_until > now() THEN holder ELSE '' END, term, created_at, updated_at, finished_at`

func scanOperation(r pgx.CollectableRow) (o operation, err error) {
	var request, report []byte
	err = r.Scan(&o.generation, &o.baseName, &o.id, &o.kind, &o.state, &o.phase, &o.place, &o.version, &o.hash, &o.schema, &o.base, &request, &o.done, &o.total, &o.rate,
		&o.failure, &o.code, &report, &o.requestedBy, &o.reason, &o.holder, &o.term, &o.createdAt, &o.updatedAt, &o.finishedAt)
	if err != nil {
		return o, err
	}
	if err = json.Unmarshal(request, &o.request); err == nil && report != nil {
		o.report = &Report{}
		err = json.Unmarshal(report, o.report)
	}
	return o, err
}

func (p *Projection[S]) operations(ctx context.Context, sql string, args ...any) ([]operation, error) {
	rows, err := p.pool.Query(ctx, "SELECT "+operationColumns+" FROM tidemark.operation "+sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read operations: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanOperation)
	if err != nil {
		return nil, fmt.Errorf("read operations: %w", err)
	}
	return found, nil
}

// operationOf returns one operation of this view.
func (p *Projection[S]) operationOf(ctx context.Context, id string) (operation, error) {
	found, err := p.operations(ctx, "WHERE view = $1 AND id = $2", p.view.Name, id)
	if err == nil && len(found) == 0 {
		err = fault.NotFound("operation", id)
	}
	if err != nil {
		return operation{}, err
	}
	return found[0], nil
}

// begin enters an operation, to be taken up by a process of its version. The
// same id with the same request is the same operation.
func (p *Projection[S]) begin(ctx context.Context, o operation) (operation, error) {
	text, err := json.Marshal(o.request)
	if err != nil {
		return o, err
	}
	err = postgres.InTx(ctx, p.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM tidemark.operation WHERE view = $1 AND finished_at < now() - $2::interval", p.view.Name, keepOperations); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO tidemark.operation (id, view, lane, kind, version, hash, schema, base, request, state, phase, requested_by, reason)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'RUNNING', 'waits to be taken up', $10, $11)`,
			o.id, p.view.Name, lanes[o.kind], o.kind, o.version, o.hash, o.schema, o.base, text, o.requestedBy, o.reason)
		return err
	})
	switch postgres.ViolatedUnique(err) {
	case "operation_pkey":
		return p.sameAgain(ctx, o)
	case "operation_lane":
		if again, known := p.sameAgain(ctx, o); known == nil {
			return again, nil
		}
		return o, p.busy(ctx, o)
	}
	if err != nil {
		return o, fmt.Errorf("enter an operation: %w", err)
	}
	poke(p.family.tasks)
	return p.operationOf(ctx, o.id)
}

// sameAgain answers a repeated request.
func (p *Projection[S]) sameAgain(ctx context.Context, o operation) (operation, error) {
	known, err := p.operationOf(ctx, o.id)
	if err != nil {
		return o, err
	}
	a, errA := json.Marshal(known.request)
	b, errB := json.Marshal(o.request)
	if known.kind != o.kind || string(a) != string(b) {
		return o, fault.RequestIDReused(o.id)
	}
	return known, errors.Join(errA, errB)
}

// busy says which operation is in the way.
func (p *Projection[S]) busy(ctx context.Context, o operation) error {
	found, err := p.operations(ctx, "WHERE view = $1 AND lane = $2 AND finished_at IS NULL", p.view.Name, lanes[o.kind])
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fault.Conflict("another operation ended just now; ask again")
	}
	other := found[0]
	return fault.New(fault.KindFailedPrecondition, ReasonOperationRunning, "%s %s of %s is %s since %s",
		strings.ToLower(other.kind), other.id, other.requestedBy, strings.ToLower(other.state), other.createdAt.UTC().Format(time.RFC3339)).
		With("operation", other.id).With("kind", other.kind).With("requested_by", other.requestedBy)
}

// turn moves an operation that has not ended to another state.
func (p *Projection[S]) turn(ctx context.Context, id, to string, from ...string) (operation, error) {
	tag, err := p.pool.Exec(ctx, `UPDATE tidemark.operation SET state = $3, updated_at = now() WHERE view = $1 AND id = $2 AND state = ANY($4::text[])`,
		p.view.Name, id, to, append(from, to))
	if err != nil {
		return operation{}, fmt.Errorf("turn an operation: %w", err)
	}
	o, err := p.operationOf(ctx, id)
	if err == nil && tag.RowsAffected() == 0 {
		err = fault.IllegalTransition("operation "+id, o.state, "to become "+to)
	}
	poke(p.family.tasks)
	return o, err
}

// take leases an operation of this version that nobody holds.
func (p *Projection[S]) take(ctx context.Context) (*operation, error) {
	rows, err := p.pool.Query(ctx, `UPDATE tidemark.operation SET holder = $4, term = term + 1, lease_until = now() + $5::interval, updated_at = now()
		WHERE id = (SELECT id FROM tidemark.operation WHERE view = $1 AND version = $2 AND hash = $3 AND finished_at IS NULL
			AND state IN ('RUNNING', 'CANCELLING') AND lease_until <= now() ORDER BY created_at FOR UPDATE SKIP LOCKED LIMIT 1)
		RETURNING `+operationColumns, p.view.Name, p.own.version, p.own.hash, p.process, interval(p.lease))
	if err != nil {
		return nil, fmt.Errorf("take an operation up: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanOperation)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

func interval(d time.Duration) string { return fmt.Sprintf("%d milliseconds", d.Milliseconds()) }

// errLost says that the operation is somebody else's by now.
var errLost = errors.New("the operation was taken over by another process")

// keepUp writes how an operation stands, renews its lease, and learns whether it
// is to go on.
func (p *Projection[S]) keepUp(ctx context.Context, o *operation) error {
	err := p.pool.QueryRow(ctx, `UPDATE tidemark.operation SET phase = $3, place = $4, done = $5, total = $6, rate = $7, error = $8, schema = $9, base = $10,
			lease_until = now() + $11::interval, updated_at = now()
		WHERE id = $1 AND term = $2 AND finished_at IS NULL RETURNING state`,
		o.id, o.term, o.phase, o.place, o.done, o.total, o.rate, o.failure, o.schema, o.base, interval(p.lease)).Scan(&o.state)
	if errors.Is(err, pgx.ErrNoRows) {
		return errLost
	}
	if err != nil {
		return fmt.Errorf("write how an operation stands: %w", err)
	}
	return nil
}

// finish ends an operation.
func (p *Projection[S]) finish(ctx context.Context, o *operation, state string, cause error) error {
	failure, code := "", ""
	if cause != nil {
		failure, code = fold.Clean(cause.Error()), string(fault.ReasonOf(cause))
	}
	var report []byte
	if o.report != nil {
		var err error
		if report, err = json.Marshal(o.report); err != nil {
			return err
		}
	}
	tag, err := p.pool.Exec(ctx, `UPDATE tidemark.operation SET state = $3, error = $4, reason_code = $5, report = $6, phase = '', done = $7, total = $8, schema = $9,
			base = $10, updated_at = now(), finished_at = now(), lease_until = now() WHERE id = $1 AND term = $2 AND finished_at IS NULL`,
		o.id, o.term, state, failure, code, report, o.done, o.total, o.schema, o.base)
	if err != nil {
		return fmt.Errorf("end an operation: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return errLost
	}
	return nil
}

// release lets go of an operation that is paused, or that could not go on now.
func (p *Projection[S]) release(ctx context.Context, o *operation, after time.Duration) error {
	_, err := p.pool.Exec(ctx, `UPDATE tidemark.operation SET lease_until = now() + $3::interval, error = $4 WHERE id = $1 AND term = $2`,
		o.id, o.term, interval(after), o.failure)
	if err != nil {
		return fmt.Errorf("let go of an operation: %w", err)
	}
	return nil
}

// mine refuses a transaction of an operation that is somebody else's by now.
func (o *operation) mine(ctx context.Context, tx pgx.Tx) error {
	var state string
	err := tx.QueryRow(ctx, "SELECT state FROM tidemark.operation WHERE id = $1 AND term = $2 AND finished_at IS NULL FOR UPDATE", o.id, o.term).Scan(&state)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errLost
	case err != nil:
		return fmt.Errorf("lock an operation: %w", err)
	case state == opCancelling:
		return errCancelled
	}
	return nil
}

var errCancelled = errors.New("it is being cancelled")

package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// listed is a generation as the catalog has it now.
type listed struct {
	generation
	operation                      string // that builds it
	held                           bool   // its building is paused
	derivedFrom                    string // the generation whose states it took over, by its name
	createdAt                      time.Time
	followedAt, readyAt, retiredAt *time.Time
	pointed                        bool
}

// catalog is what is known of a view's generations at one instant of the
// database's clock.
type catalog struct {
	now         time.Time
	generations []listed // the newest first
	pointer     pointer
}

// pointer names the generation that answers.
type pointer struct {
	schema, previous string
	revision         int64
	switchedAt       time.Time
}

const (
	selectGenerations = `SELECT version, hash, attempt, schema, status, operation, held, created_at, followed_at, ready_at, retired_at,
			coalesce((SELECT b.name || '/' || b.version || '-' || b.hash || CASE WHEN b.attempt > 1 THEN '.' || b.attempt ELSE '' END
				FROM tidemark.generation b WHERE b.schema = g.derived_from), '')
		FROM tidemark.generation g WHERE name = $1 AND status <> 'DROPPED' ORDER BY created_at DESC, attempt DESC`
	selectPointer = `SELECT schema, previous, revision, switched_at FROM tidemark.pointer WHERE name = $1`
)

// readCatalog reads the catalog of the view.
func (p *Projection[S]) readCatalog(ctx context.Context) (catalog, error) {
	var c catalog
	batch := &pgx.Batch{}
	batch.Queue("SELECT now()").QueryRow(func(r pgx.Row) error { return r.Scan(&c.now) })
	batch.Queue(selectPointer, p.view.Name).Query(func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&c.pointer.schema, &c.pointer.previous, &c.pointer.revision, &c.pointer.switchedAt}, func() error { return nil })
		return err
	})
	batch.Queue(selectGenerations, p.view.Name).Query(func(rows pgx.Rows) (err error) {
		c.generations, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (g listed, err error) {
			g.name = p.view.Name
			err = r.Scan(&g.version, &g.hash, &g.attempt, &g.schema, &g.status, &g.operation, &g.held, &g.createdAt, &g.followedAt, &g.readyAt, &g.retiredAt, &g.derivedFrom)
			return g, err
		})
		return err
	})
	if err := p.pool.SendBatch(ctx, batch).Close(); err != nil {
		return c, fmt.Errorf("read the catalog: %w", err)
	}
	for i := range c.generations {
		g := &c.generations[i]
		switch g.pointed = g.schema == c.pointer.schema; {
		case g.pointed:
			g.status = statusServing
		case g.status == statusServing: // an older kernel's switch leaves it so
			g.status = statusRetired
		}
	}
	return c, nil
}

// by finds a generation by its schema or by its name.
func (c catalog) by(which string) (listed, bool) {
	for _, g := range c.generations {
		if which != "" && (g.schema == which || g.String() == which) {
			return g, true
		}
	}
	return listed{}, false
}

// followedFor is how long a generation counts as kept after a process last said
// so.
const followedFor = 10 * time.Second

// followed reports whether some process keeps the generation.
func (c catalog) followed(g listed) bool {
	return g.followedAt != nil && c.now.Sub(*g.followedAt) < followedFor
}

// note says that this process keeps these generations.
func (p *Projection[S]) note(ctx context.Context, schemas []string) error {
	_, err := p.pool.Exec(ctx, "UPDATE tidemark.generation SET followed_at = now() WHERE schema = ANY($1::text[])", schemas)
	if err != nil {
		return fmt.Errorf("say what is kept here: %w", err)
	}
	return nil
}

// becomeReady notes that a generation has caught up.
func (p *Projection[S]) becomeReady(ctx context.Context, g generation) error {
	_, err := p.pool.Exec(ctx, `UPDATE tidemark.generation SET status = 'READY', ready_at = now() WHERE schema = $1 AND status = 'BUILDING'`, g.schema)
	if err != nil {
		return fmt.Errorf("note that %s is ready: %w", g, err)
	}
	return nil
}

// errPointerMoved says that somebody else switched meanwhile.
var errPointerMoved = errors.New("another switch came first")

// swap has a generation answer in the place of another: a compare-and-set on the
// pointer. before runs in the same transaction and may refuse.
func (p *Projection[S]) swap(ctx context.Context, to generation, from pointer, before func(context.Context, pgx.Tx) error) error {
	err := postgres.InTx(ctx, p.pool, func(tx pgx.Tx) error {
		if before != nil {
			if err := before(ctx, tx); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, lockCatalog, "tidemark.generation "+p.view.Name); err != nil {
			return err
		}
		var status string
		if err := tx.QueryRow(ctx, "SELECT status FROM tidemark.generation WHERE schema = $1", to.schema).Scan(&status); err != nil {
			return err
		}
		if status == statusDropping || status == statusDropped {
			return fault.New(fault.KindFailedPrecondition, ReasonGateRefused, "generation %s is being dropped", to)
		}
		tag, err := tx.Exec(ctx, `UPDATE tidemark.pointer SET version = $2, hash = $3, schema = $4, previous = schema, revision = revision + 1, switched_at = now()
			WHERE name = $1 AND schema = $5 AND revision = $6`, to.name, to.version, to.hash, to.schema, from.schema, from.revision)
		if err == nil && tag.RowsAffected() == 0 && from.schema == "" {
			tag, err = tx.Exec(ctx, `INSERT INTO tidemark.pointer (name, version, hash, schema, switched_at) VALUES ($1, $2, $3, $4, now())
				ON CONFLICT (name) DO NOTHING`, to.name, to.version, to.hash, to.schema)
		}
		switch {
		case err != nil:
			return err
		case tag.RowsAffected() == 0:
			return errPointerMoved
		}
		if _, err := tx.Exec(ctx, "UPDATE tidemark.generation SET status = 'RETIRED', retired_at = now() WHERE schema = $1", from.schema); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE tidemark.generation SET status = 'SERVING', retired_at = NULL, ready_at = coalesce(ready_at, now()) WHERE schema = $1", to.schema)
		return err
	})
	if err != nil {
		return fmt.Errorf("point to generation %s: %w", to, err)
	}
	return nil
}

// dropGeneration removes a generation from disk. It can be repeated.
func (p *Projection[S]) dropGeneration(ctx context.Context, g generation) error {
	if _, err := p.pool.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{g.schema}.Sanitize()+" CASCADE"); err != nil {
		return fmt.Errorf("drop generation %s: %w", g, err)
	}
	if _, err := p.pool.Exec(ctx, "UPDATE tidemark.generation SET status = 'DROPPED' WHERE schema = $1 AND status = 'DROPPING'", g.schema); err != nil {
		return fmt.Errorf("note that %s is dropped: %w", g, err)
	}
	return nil
}

package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// bulkSchema is where copying in bulk notes how far it is. The tables are empty
// before and after.
const bulkSchema = `
DO $$ BEGIN
	IF to_regclass('bulk_part') IS NOT NULL THEN
		RETURN;
	END IF;
	CREATE TABLE bulk_part (
		partition integer PRIMARY KEY,
		logs      jsonb   NOT NULL,
		topic_ids jsonb   NOT NULL DEFAULT '{}',
		books     jsonb   NOT NULL,
		buckets   bigint  NOT NULL,
		done      bigint  NOT NULL DEFAULT 0,
		progress  bigint  NOT NULL DEFAULT 0
	);
	CREATE TABLE bulk_index (
		of         text    NOT NULL,
		name       text    PRIMARY KEY,
		definition text    NOT NULL,
		constrains text    NOT NULL,
		made       boolean NOT NULL DEFAULT false
	);
END $$`

const (
	// noteIndexes notes the indexes of some tables; constrains says what of a
	// constraint each of them is, if any.
	noteIndexes = `INSERT INTO bulk_index (of, name, definition, constrains)
		SELECT t.relname, x.relname, pg_get_indexdef(x.oid), CASE c.contype WHEN 'p' THEN 'PRIMARY KEY' WHEN 'u' THEN 'UNIQUE' ELSE coalesce(c.contype::text, '') END
		FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
		LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid
		WHERE t.relnamespace = current_schema()::regnamespace AND t.relname = ANY($1::text[])`
	selectIndexes = `SELECT of, name, constrains, definition, made FROM bulk_index ORDER BY name`
	nextIndex     = `SELECT name, definition FROM bulk_index WHERE NOT made ORDER BY constrains = '', name LIMIT 1 FOR UPDATE SKIP LOCKED`
)

// notedIndex is an index that copying in bulk does without.
type notedIndex struct {
	of, name, constrains, definition string
	made                             bool
}

func (b *bulk[S]) noted(ctx context.Context, tx pgx.Tx) ([]notedIndex, error) {
	rows, err := tx.Query(ctx, selectIndexes)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (n notedIndex, err error) {
		return n, r.Scan(&n.of, &n.name, &n.constrains, &n.definition, &n.made)
	})
}

// dropIndexes drops the indexes of the tables that are copied into. Sums, which
// several passes add to, keep theirs.
func (b *bulk[S]) dropIndexes(ctx context.Context, tx pgx.Tx) error {
	of := []string{"state", "member"}
	for _, spec := range b.p.view.Specs() {
		if spec.Kind != fold.KindSums {
			of = append(of, spec.Name)
		}
	}
	if _, err := tx.Exec(ctx, noteIndexes, of); err != nil {
		return fmt.Errorf("note the indexes: %w", err)
	}
	indexes, err := b.noted(ctx, tx)
	if err != nil {
		return err
	}
	for _, n := range indexes {
		drop := "DROP INDEX " + pgx.Identifier{n.name}.Sanitize()
		if n.constrains != "" {
			drop = "ALTER TABLE " + pgx.Identifier{n.of}.Sanitize() + " DROP CONSTRAINT " + pgx.Identifier{n.name}.Sanitize()
		}
		if !slices.Contains([]string{"", "PRIMARY KEY", "UNIQUE"}, n.constrains) {
			return fmt.Errorf("%w: constraint %s of table %s", errUnfit, n.name, n.of)
		}
		if _, err := tx.Exec(ctx, drop); err != nil {
			return fmt.Errorf("drop an index: %w", err)
		}
	}
	return nil
}

// index makes one index anew. It reports whether there was one to make.
func (b *bulk[S]) index(ctx context.Context) (more bool, err error) {
	tx, err := b.p.pool.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var n notedIndex
	switch err := tx.QueryRow(ctx, nextIndex).Scan(&n.name, &n.definition); {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for an index to make: %w", err)
	}
	if err := b.makeIndex(ctx, tx, n); err != nil {
		return false, err
	}
	if err := b.p.fail("bulk index"); err != nil {
		return false, err
	}
	return true, tx.Commit(ctx)
}

func (b *bulk[S]) makeIndex(ctx context.Context, tx pgx.Tx, n notedIndex) error {
	if _, err := tx.Exec(ctx, "SET LOCAL maintenance_work_mem = '96MB'; SET LOCAL synchronous_commit = off; "+n.definition); err != nil {
		if refused(asRefusal(err)) {
			return fmt.Errorf("%w: index %s: %w", errUnfit, n.name, asRefusal(err))
		}
		return fmt.Errorf("make index %s: %w", n.name, err)
	}
	_, err := tx.Exec(ctx, "UPDATE bulk_index SET made = true WHERE name = $1", n.name)
	return err
}

// makeIndexes makes all that are not there.
func (b *bulk[S]) makeIndexes(ctx context.Context, tx pgx.Tx) error {
	indexes, err := b.noted(ctx, tx)
	if err != nil {
		return err
	}
	for _, n := range indexes {
		if n.made {
			continue
		}
		if err := b.makeIndex(ctx, tx, n); err != nil {
			return err
		}
	}
	return b.sealIndexes(ctx, tx)
}

// sealIndexes has the indexes that were constraints be constraints again, and the
// planner know the tables.
func (b *bulk[S]) sealIndexes(ctx context.Context, tx pgx.Tx) error {
	indexes, err := b.noted(ctx, tx)
	if err != nil {
		return err
	}
	tables := map[string]bool{}
	for _, n := range indexes {
		tables[n.of] = true
		if n.constrains == "" {
			continue
		}
		name := pgx.Identifier{n.name}.Sanitize()
		if _, err := tx.Exec(ctx, fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s %s USING INDEX %s", pgx.Identifier{n.of}.Sanitize(), name, n.constrains, name)); err != nil {
			return fmt.Errorf("make a constraint: %w", err)
		}
	}
	for table := range tables {
		if _, err := tx.Exec(ctx, "ANALYZE "+pgx.Identifier{table}.Sanitize()); err != nil {
			return fmt.Errorf("count what was copied: %w", err)
		}
	}
	return nil
}

package projection

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// A generation is one build of a view: its tables, states, positions and
// parked facts, in a Postgres schema of its own. The pointer names the one that
// answers.
//
//	BUILDING ──reached the end the log had when it started──▶ SERVING

const (
	statusBuilding = "BUILDING"
	statusServing  = "SERVING"
)

const catalogSchema = `
CREATE SCHEMA IF NOT EXISTS tidemark;
CREATE TABLE IF NOT EXISTS tidemark.generation (
	name       text        NOT NULL,
	version    integer     NOT NULL,
	hash       text        NOT NULL,
	schema     text        NOT NULL UNIQUE,
	partitions integer     NOT NULL,
	status     text        NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (name, version, hash)
);
CREATE TABLE IF NOT EXISTS tidemark.pointer (
	name        text        PRIMARY KEY,
	version     integer     NOT NULL,
	hash        text        NOT NULL,
	schema      text        NOT NULL,
	switched_at timestamptz NOT NULL
);`

// kernelSchema makes what every generation has besides the view's own tables.
// A change here needs a new layout number.
const kernelSchema = `
CREATE TABLE position (
	partition  integer     PRIMARY KEY,
	revision   bigint      NOT NULL DEFAULT 0,
	term       bigint      NOT NULL DEFAULT 0,
	offsets    jsonb       NOT NULL DEFAULT '{}',
	topic_ids  jsonb       NOT NULL DEFAULT '{}',
	updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE source_mark (
	partition     integer NOT NULL,
	source        text    NOT NULL,
	epoch         text    NOT NULL,
	term          bigint  NOT NULL,
	number        bigint  NOT NULL,
	as_of         timestamptz NOT NULL,
	blocked_count bigint  NOT NULL,
	PRIMARY KEY (partition, source)
);
CREATE TABLE state (
	order_id  text    PRIMARY KEY,
	partition integer NOT NULL,
	state     json    NOT NULL,
	applied   json    NOT NULL
) WITH (fillfactor = 80);
CREATE TABLE member (
	aggregate_type text NOT NULL,
	aggregate_id   text NOT NULL,
	order_id       text NOT NULL,
	PRIMARY KEY (aggregate_type, aggregate_id, order_id)
);
CREATE TABLE quarantine (
	aggregate_type  text        NOT NULL,
	aggregate_id    text        NOT NULL,
	order_id        text        NOT NULL,
	partition       integer     NOT NULL,
	verdict         text        NOT NULL,
	reason          text        NOT NULL,
	since           timestamptz NOT NULL DEFAULT now(),
	attempts        integer     NOT NULL DEFAULT 0,
	next_attempt_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (aggregate_type, aggregate_id, order_id)
);
CREATE INDEX quarantine_due ON quarantine (next_attempt_at) WHERE verdict = 'gap';
CREATE INDEX quarantine_order ON quarantine (order_id);
CREATE TABLE parked (
	reference      text        PRIMARY KEY,
	partition      integer     NOT NULL,
	topic          text        NOT NULL,
	topic_id       text        NOT NULL,
	record_offset  bigint      NOT NULL,
	order_id       text        NOT NULL,
	aggregate_type text        NOT NULL,
	aggregate_id   text        NOT NULL,
	epoch          text        NOT NULL,
	version        bigint      NOT NULL,
	event_id       text        NOT NULL,
	verdict        text        NOT NULL,
	reason         text        NOT NULL,
	code_version   integer     NOT NULL,
	parked_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX parked_aggregate ON parked (aggregate_type, aggregate_id, order_id, version);`

// kernelUpgrade brings generations that older kernels made up to date. It only
// adds, so those kernels go on working beside this one.
const kernelUpgrade = `
DO $$ BEGIN
	IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'position'::regclass AND attname = 'books') THEN
		RETURN;
	END IF;
	ALTER TABLE position ADD COLUMN books jsonb NOT NULL DEFAULT '{}';
	CREATE INDEX quarantine_heal ON quarantine (next_attempt_at) WHERE verdict IN ('gap', 'newer_epoch', 'equivocation');
END $$`

// generation is a row of the catalog.
type generation struct {
	name    string
	version int
	hash    string
	schema  string
	status  string
}

func (g generation) String() string { return g.name + "/" + strconv.Itoa(g.version) + "-" + g.hash }

// openGeneration finds the view's generation or makes it, and returns it with
// the generation that the pointer names, if any.
func openGeneration[S any](ctx context.Context, pool *pgxpool.Pool, view View[S], partitions int32) (own, serving generation, err error) {
	own = generation{name: view.Name, version: view.Version, hash: view.Hash(), status: statusBuilding}
	own.schema = fmt.Sprintf("%s_g%d_%s", own.name, own.version, own.hash)
	err = postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		// All processes of a projection start at once; one of them creates.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", "tidemark.generation "+view.Name); err != nil {
			return fmt.Errorf("lock the catalog: %w", err)
		}
		if _, err := tx.Exec(ctx, catalogSchema); err != nil {
			return fmt.Errorf("make the catalog: %w", err)
		}
		var known int32
		err := tx.QueryRow(ctx, "SELECT status, partitions FROM tidemark.generation WHERE name = $1 AND version = $2 AND hash = $3",
			own.name, own.version, own.hash).Scan(&own.status, &known)
		switch {
		case err == pgx.ErrNoRows:
			if err := createGeneration(ctx, tx, view, own, partitions); err != nil {
				return fmt.Errorf("make generation %s: %w", own, err)
			}
		case err != nil:
			return fmt.Errorf("read the catalog: %w", err)
		case known != partitions:
			return fmt.Errorf("generation %s was built for %d partitions, configured are %d", own, known, partitions)
		}
		serving = generation{name: view.Name}
		err = tx.QueryRow(ctx, "SELECT version, hash, schema FROM tidemark.pointer WHERE name = $1", view.Name).
			Scan(&serving.version, &serving.hash, &serving.schema)
		if err != nil && err != pgx.ErrNoRows {
			return fmt.Errorf("read the pointer: %w", err)
		}
		for _, schema := range []string{own.schema, serving.schema} {
			if schema == "" {
				continue
			}
			if _, err := tx.Exec(ctx, "SET LOCAL search_path = "+pgx.Identifier{schema}.Sanitize()+"; "+kernelUpgrade); err != nil {
				return fmt.Errorf("bring the kernel's tables of %s up to date: %w", schema, err)
			}
		}
		return nil
	})
	if err != nil {
		return own, serving, fmt.Errorf("open view %s: %w", view.Name, err)
	}
	return own, serving, nil
}

func createGeneration[S any](ctx context.Context, tx pgx.Tx, view View[S], own generation, partitions int32) error {
	schema := pgx.Identifier{own.schema}.Sanitize()
	for _, statement := range []string{"CREATE SCHEMA " + schema, "SET LOCAL search_path = " + schema, kernelSchema, view.Schema} {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return err
		}
	}
	for _, spec := range view.specs() {
		var names []string
		for _, col := range spec.all {
			names = append(names, col.name)
		}
		if _, err := tx.Exec(ctx, "SELECT "+strings.Join(names, ", ")+" FROM "+spec.name+" LIMIT 0"); err != nil {
			return fmt.Errorf("schema.sql does not fit table %s: %w", spec.name, err)
		}
	}
	// The rows exist before anybody locks them: FOR UPDATE locks no absent row.
	if _, err := tx.Exec(ctx, "INSERT INTO position (partition) SELECT generate_series(0, $1::integer - 1)", partitions); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "INSERT INTO tidemark.generation (name, version, hash, schema, partitions, status) VALUES ($1, $2, $3, $4, $5, $6)",
		own.name, own.version, own.hash, own.schema, partitions, statusBuilding)
	return err
}

// point makes the generation the one that answers.
func (g generation) point(ctx context.Context, pool *pgxpool.Pool) error {
	err := postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE tidemark.generation SET status = $4 WHERE name = $1 AND version = $2 AND hash = $3",
			g.name, g.version, g.hash, statusServing); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO tidemark.pointer (name, version, hash, schema, switched_at) VALUES ($1, $2, $3, $4, now())
			ON CONFLICT (name) DO UPDATE SET version = $2, hash = $3, schema = $4, switched_at = now()`,
			g.name, g.version, g.hash, g.schema)
		return err
	})
	if err != nil {
		return fmt.Errorf("point to generation %s: %w", g, err)
	}
	return nil
}

// within returns the configuration of a pool whose unqualified table names are
// those of a generation.
func within(config postgres.Config, schema string) (postgres.Config, error) {
	u, err := url.Parse(config.URL)
	if err != nil || !slices.Contains([]string{"postgres", "postgresql"}, u.Scheme) {
		return config, fmt.Errorf("postgres URL must start with postgres://")
	}
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	config.URL = u.String()
	return config, nil
}

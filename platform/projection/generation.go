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
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// A generation is one build of a view: its tables, states, positions and
// parked facts, in a Postgres schema of its own. The pointer names the one that
// answers.
//
//	BUILDING ──caught up──▶ READY ──swap──▶ SERVING
//	    │                     │               │ ▲
//	    │ cancel              │ drop      swap│ │ rollback
//	    ▼                     ▼               ▼ │
//	  DROPPING ──▶ DROPPED ◀──────drop────  RETIRED (follows through its rollback window)

const (
	statusBuilding = "BUILDING"
	statusReady    = "READY"
	statusServing  = "SERVING"
	statusRetired  = "RETIRED"
	statusDropping = "DROPPING"
	statusDropped  = "DROPPED"
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
END $$;
DO $$ BEGIN
	IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'position'::regclass AND attname = 'skipped') THEN
		RETURN;
	END IF;
	-- How many facts of which orders were given up: what states say, for lists.
	ALTER TABLE position ADD COLUMN skipped jsonb NOT NULL DEFAULT '{}';
	UPDATE position p SET skipped = s.skipped FROM (
		SELECT partition, jsonb_object_agg(order_id, skipped) AS skipped FROM (
			SELECT partition, order_id, (SELECT sum((a.value ->> 'k')::bigint) FROM json_each(applied -> 'a') a) AS skipped
			FROM state WHERE order_id IN (SELECT order_id FROM tidemark.skip)) o
		WHERE skipped > 0 GROUP BY partition) s
	WHERE s.partition = p.partition;
END $$`

// catalogUpgrade brings a catalog that an older kernel made up to date. What is
// there stays as it is, so that kernel goes on working beside this one.
const catalogUpgrade = `
DO $$ BEGIN
	IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'tidemark.generation'::regclass AND attname = 'attempt') THEN
		RETURN;
	END IF;
	ALTER TABLE tidemark.generation
		ADD COLUMN attempt integer NOT NULL DEFAULT 1,
		ADD COLUMN operation text NOT NULL DEFAULT '',
		ADD COLUMN held boolean NOT NULL DEFAULT false,
		ADD COLUMN followed_at timestamptz,
		ADD COLUMN ready_at timestamptz,
		ADD COLUMN retired_at timestamptz;
	ALTER TABLE tidemark.generation DROP CONSTRAINT generation_pkey;
	ALTER TABLE tidemark.generation ADD PRIMARY KEY (name, version, hash, attempt);
	ALTER TABLE tidemark.pointer
		ADD COLUMN revision bigint NOT NULL DEFAULT 0,
		ADD COLUMN previous text NOT NULL DEFAULT '';
	CREATE TABLE tidemark.operation (
		id           text        PRIMARY KEY,
		view         text        NOT NULL,
		lane         text        NOT NULL,
		kind         text        NOT NULL,
		version      integer     NOT NULL,
		hash         text        NOT NULL,
		schema       text        NOT NULL DEFAULT '',
		base         text        NOT NULL DEFAULT '',
		request      jsonb       NOT NULL,
		state        text        NOT NULL,
		phase        text        NOT NULL DEFAULT '',
		place        text        NOT NULL DEFAULT '',
		done         bigint      NOT NULL DEFAULT 0,
		total        bigint      NOT NULL DEFAULT 0,
		rate         float8      NOT NULL DEFAULT 0,
		error        text        NOT NULL DEFAULT '',
		reason_code  text        NOT NULL DEFAULT '',
		report       jsonb,
		requested_by text        NOT NULL,
		reason       text        NOT NULL DEFAULT '',
		holder       text        NOT NULL DEFAULT '',
		term         bigint      NOT NULL DEFAULT 0,
		lease_until  timestamptz NOT NULL DEFAULT now(),
		created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
		updated_at   timestamptz NOT NULL DEFAULT now(),
		finished_at  timestamptz
	);
	CREATE UNIQUE INDEX operation_lane ON tidemark.operation (view, lane) WHERE finished_at IS NULL;
	CREATE INDEX operation_newest ON tidemark.operation (view, created_at DESC, id DESC);
END $$;
DO $$ BEGIN
	IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'tidemark.generation'::regclass AND attname = 'remembers') THEN
		RETURN;
	END IF;
	-- derived_from is NULL until it is decided, and empty if it is built from facts.
	ALTER TABLE tidemark.generation
		ADD COLUMN remembers text NOT NULL DEFAULT '',
		ADD COLUMN derived_from text;
END $$`

// generation is a row of the catalog.
type generation struct {
	name    string
	version int
	hash    string
	attempt int // counts the builds of one version; the first is not part of the name
	schema  string
	status  string
}

// String names the generation. A rebuilt one has another name, so whatever is
// bound to a generation, a page token or an ETag, is not taken for its twin's.
func (g generation) String() string {
	name := g.name + "/" + strconv.Itoa(g.version) + "-" + g.hash
	if g.attempt > 1 {
		name += "." + strconv.Itoa(g.attempt)
	}
	return name
}

// attemptOf names a build of the view's own version.
func attemptOf[S any](view fold.View[S], attempt int) generation {
	g := generation{name: view.Name, version: view.Version, hash: view.Hash(), attempt: attempt, status: statusBuilding}
	g.schema = fmt.Sprintf("%s_g%d_%s", g.name, g.version, g.hash)
	if attempt > 1 {
		g.schema += "_" + strconv.Itoa(attempt)
	}
	return g
}

const lockCatalog = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"

// openGeneration finds the view's generation or makes it, and returns it with
// the generation that the pointer names, if any. Of several of its version it
// takes the one that answers, else the one that was ready first.
func openGeneration[S any](ctx context.Context, pool *pgxpool.Pool, view fold.View[S], partitions int32) (own, serving generation, err error) {
	err = postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		own = attemptOf(view, 1)
		// All processes of a projection start at once; one of them creates.
		if _, err := tx.Exec(ctx, lockCatalog, "tidemark.generation "+view.Name); err != nil {
			return fmt.Errorf("lock the catalog: %w", err)
		}
		if _, err := tx.Exec(ctx, catalogSchema+skipSchema+catalogUpgrade); err != nil {
			return fmt.Errorf("make the catalog: %w", err)
		}
		var known int32
		err := tx.QueryRow(ctx, `SELECT g.schema, g.status, g.attempt, g.partitions
			FROM tidemark.generation g LEFT JOIN tidemark.pointer p ON p.schema = g.schema
			WHERE g.name = $1 AND g.version = $2 AND g.hash = $3 AND g.status NOT IN ('DROPPING', 'DROPPED')
			ORDER BY p.schema IS NULL, g.status = 'BUILDING', g.attempt LIMIT 1`,
			own.name, own.version, own.hash).Scan(&own.schema, &own.status, &own.attempt, &known)
		switch {
		case err == pgx.ErrNoRows:
			if own, err = nextGeneration(ctx, tx, view, "", partitions); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("read the catalog: %w", err)
		case known != partitions:
			return fmt.Errorf("generation %s was built for %d partitions, configured are %d", own, known, partitions)
		}
		serving = generation{name: view.Name, attempt: 1}
		err = tx.QueryRow(ctx, `SELECT p.version, p.hash, p.schema, coalesce(g.attempt, 1) FROM tidemark.pointer p
			LEFT JOIN tidemark.generation g ON g.schema = p.schema WHERE p.name = $1`, view.Name).
			Scan(&serving.version, &serving.hash, &serving.schema, &serving.attempt)
		if err != nil && err != pgx.ErrNoRows {
			return fmt.Errorf("read the pointer: %w", err)
		}
		for _, schema := range []string{own.schema, serving.schema} {
			if schema == "" {
				continue
			}
			if err := upgradeKernel(ctx, tx, schema); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return own, serving, fmt.Errorf("open view %s: %w", view.Name, err)
	}
	return own, serving, nil
}

func upgradeKernel(ctx context.Context, tx pgx.Tx, schema string) error {
	if _, err := tx.Exec(ctx, "SET LOCAL search_path = "+pgx.Identifier{schema}.Sanitize()+"; "+kernelUpgrade+";"+bulkSchema); err != nil {
		return fmt.Errorf("bring the kernel's tables of %s up to date: %w", schema, err)
	}
	return nil
}

// nextGeneration makes another generation of the view's version, under the lock
// of the catalog. Numbers are never used twice, because consumer groups and page
// tokens bear them.
func nextGeneration[S any](ctx context.Context, tx pgx.Tx, view fold.View[S], operation string, partitions int32) (generation, error) {
	own, last := attemptOf(view, 1), 0
	if err := tx.QueryRow(ctx, "SELECT coalesce(max(attempt), 0) FROM tidemark.generation WHERE name = $1 AND version = $2 AND hash = $3",
		own.name, own.version, own.hash).Scan(&last); err != nil {
		return own, fmt.Errorf("read the catalog: %w", err)
	}
	own = attemptOf(view, last+1)
	if err := createGeneration(ctx, tx, view, own, partitions); err != nil {
		return own, fmt.Errorf("make generation %s: %w", own, err)
	}
	_, err := tx.Exec(ctx, `INSERT INTO tidemark.generation (name, version, hash, attempt, schema, partitions, status, operation, remembers)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		own.name, own.version, own.hash, own.attempt, own.schema, partitions, statusBuilding, operation, view.Remembers())
	if err != nil {
		return own, fmt.Errorf("enter generation %s into the catalog: %w", own, err)
	}
	return own, nil
}

func createGeneration[S any](ctx context.Context, tx pgx.Tx, view fold.View[S], own generation, partitions int32) error {
	schema := pgx.Identifier{own.schema}.Sanitize()
	for _, statement := range []string{"CREATE SCHEMA " + schema, "SET LOCAL search_path = " + schema, kernelSchema, view.Schema} {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return err
		}
	}
	for _, spec := range view.Specs() {
		var names []string
		for _, col := range spec.All {
			names = append(names, col.Name)
		}
		if _, err := tx.Exec(ctx, "SELECT "+strings.Join(names, ", ")+" FROM "+spec.Name+" LIMIT 0"); err != nil {
			return fmt.Errorf("schema.sql does not fit table %s: %w", spec.Name, err)
		}
	}
	// The rows exist before anybody locks them: FOR UPDATE locks no absent row.
	_, err := tx.Exec(ctx, "INSERT INTO position (partition) SELECT generate_series(0, $1::integer - 1)", partitions)
	return err
}

// within returns the configuration of a pool whose unqualified table names are
// those of a generation, with further settings: name, value, name, value, …
func within(config postgres.Config, schema string, settings ...string) (postgres.Config, error) {
	u, err := url.Parse(config.URL)
	if err != nil || !slices.Contains([]string{"postgres", "postgresql"}, u.Scheme) {
		return config, fmt.Errorf("postgres URL must start with postgres://")
	}
	query := u.Query()
	query.Set("search_path", schema)
	for i := 0; i < len(settings); i += 2 {
		query.Set(settings[i], settings[i+1])
	}
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20") // libpq and pgx take a plus for itself
	config.URL = u.String()
	return config, nil
}

-- +goose Up

-- Every event for ever. One plain table: a unique constraint on a partitioned
-- table would have to contain the partition key. CACHE 1 so that the sequence
-- order is the order of drawing; it is drawn by the INSERT, never by a default,
-- because the INSERT runs after the aggregate's lock.
CREATE SEQUENCE journal_sequence AS bigint CACHE 1;

CREATE TABLE journal (
    sequence       bigint      NOT NULL,
    partition      integer     NOT NULL,
    aggregate_type text        NOT NULL,
    aggregate_id   text        NOT NULL,
    version        bigint      NOT NULL CHECK (version > 0),
    epoch          text        NOT NULL,
    event_id       uuid        NOT NULL,
    name           text        NOT NULL,
    schema_version integer     NOT NULL,
    key            text        NOT NULL,
    occurred_at    timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL,
    causation_id   text        NOT NULL,
    correlation_id text        NOT NULL,
    traceparent    text        NOT NULL,
    tracestate     text        NOT NULL,
    payload        bytea       NOT NULL,
    CONSTRAINT journal_sequence_key PRIMARY KEY (sequence),
    CONSTRAINT journal_version_key UNIQUE (aggregate_type, aggregate_id, version)
);
CREATE INDEX journal_partition_sequence ON journal (partition, sequence);

-- The unsent set: a queue, deleted from after the broker's acknowledgement.
CREATE TABLE outbox (
    partition integer NOT NULL,
    sequence  bigint  NOT NULL,
    PRIMARY KEY (partition, sequence)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- Bad rows and the rows that follow them, out of the unsent set.
CREATE TABLE blocked (
    sequence       bigint      NOT NULL PRIMARY KEY,
    partition      integer     NOT NULL,
    aggregate_type text        NOT NULL,
    aggregate_id   text        NOT NULL,
    reason         text        NOT NULL, -- '' for a row that only follows another
    blocked_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX blocked_aggregate ON blocked (aggregate_type, aggregate_id);

-- Requests that took effect, with the answer that was given.
CREATE TABLE idempotency (
    request_id  text        NOT NULL PRIMARY KEY,
    method      text        NOT NULL,
    fingerprint bytea       NOT NULL,
    response    bytea,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 80);
CREATE INDEX idempotency_created_at ON idempotency USING brin (created_at);

-- Epochs of this source, newest last, with the identity of the database that
-- they were minted in.
CREATE TABLE source_epoch (
    ordinal           bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch             text        NOT NULL UNIQUE,
    predecessor       text        NOT NULL,
    minted_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    system_identifier bigint,
    timeline          integer
);

-- Who may send. Terms are issued here and never repeat.
CREATE TABLE lease (
    name       text        NOT NULL PRIMARY KEY,
    term       bigint      NOT NULL,
    holder     text        NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Running totals of what was marked sent, per epoch and partition.
CREATE TABLE control_totals (
    epoch        text    NOT NULL,
    partition    integer NOT NULL,
    number       bigint  NOT NULL DEFAULT 0, -- of the last control record
    opened       boolean NOT NULL DEFAULT false, -- the opening record is acknowledged
    count        bigint  NOT NULL DEFAULT 0,
    hash         bytea   NOT NULL,
    min_sequence bigint  NOT NULL DEFAULT 0, -- marked since the last control record; 0 = none
    max_sequence bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (epoch, partition)
) WITH (fillfactor = 50);

-- +goose Down
DROP TABLE control_totals, lease, source_epoch, idempotency, blocked, outbox, journal;
DROP SEQUENCE journal_sequence;

-- +goose Up

-- Where the last control record of a partition stands in its topic, as far as it
-- was noted: a relay that takes over reads on from there. -1 = from the start.
ALTER TABLE control_totals ADD COLUMN control_offset bigint NOT NULL DEFAULT -1;

-- Why the source does not work, if it does not. At most one row.
CREATE TABLE source_stop (
    one          boolean     NOT NULL DEFAULT true PRIMARY KEY CHECK (one),
    state        text        NOT NULL CHECK (state IN ('WENT_BACK', 'TOPIC_REPLACED')),
    reason       text        NOT NULL,
    newest_epoch text        NOT NULL, -- the newest that was met in the topic, or ''
    stopped_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Which topic was sent to. One that is deleted and made again has another id.
CREATE TABLE source_topic (
    topic    text NOT NULL PRIMARY KEY,
    topic_id text NOT NULL
);

-- Facts that were given up: what stood in the journal where now a void fact stands.
CREATE TABLE voided (
    sequence       bigint      NOT NULL PRIMARY KEY,
    name           text        NOT NULL,
    schema_version integer     NOT NULL,
    payload        bytea       NOT NULL,
    reason         text        NOT NULL,
    actor          text        NOT NULL,
    voided_at      timestamptz NOT NULL
);

-- What operators did.
CREATE TABLE operator_log (
    id      bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor   text        NOT NULL,
    action  text        NOT NULL,
    subject text        NOT NULL,
    reason  text        NOT NULL
);

-- +goose StatementBegin
-- The epoch that a command decided in, if it is still today's. It is volatile,
-- so it sees an epoch that began after the calling statement's snapshot.
CREATE FUNCTION journal_epoch(decided text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF decided <> (SELECT epoch FROM source_epoch ORDER BY ordinal DESC LIMIT 1) THEN
        RAISE EXCEPTION 'the source epoch % is over', decided USING ERRCODE = '40001';
    END IF;
    RETURN decided;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION journal_epoch;
DROP TABLE operator_log, voided, source_topic, source_stop;
ALTER TABLE control_totals DROP COLUMN control_offset;

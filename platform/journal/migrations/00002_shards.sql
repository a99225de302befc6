-- +goose Up

-- Who may send which partition. Terms come from one sequence, so none repeats
-- and none is lower than an earlier one of its partition. A relay of the version
-- before finds its table gone and sends nothing more.
CREATE SEQUENCE relay_term AS bigint CACHE 1;
SELECT setval('relay_term', greatest((SELECT max(term) FROM lease), 1));
DROP TABLE lease;

CREATE TABLE relay_shard (
    partition  integer     NOT NULL PRIMARY KEY,
    term       bigint      NOT NULL,
    holder     text        NOT NULL, -- '' = nobody
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Relays that are alive, so that each can tell its fair share of the partitions.
CREATE TABLE relay_member (
    holder     text        NOT NULL PRIMARY KEY,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- +goose Down
DROP TABLE relay_member, relay_shard;
DROP SEQUENCE relay_term;
CREATE TABLE lease (
    name       text        NOT NULL PRIMARY KEY,
    term       bigint      NOT NULL,
    holder     text        NOT NULL,
    expires_at timestamptz NOT NULL
);

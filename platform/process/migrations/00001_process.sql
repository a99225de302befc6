-- +goose Up
CREATE TABLE process_instance (
	process    text        NOT NULL,
	id         text        NOT NULL,
	definition integer     NOT NULL,
	state      jsonb       NOT NULL,
	book       jsonb       NOT NULL,
	revision   bigint      NOT NULL,
	status     text        NOT NULL,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (process, id)
) WITH (fillfactor = 70);

CREATE TABLE process_command (
	request_id    uuid        NOT NULL PRIMARY KEY,
	process       text        NOT NULL,
	instance_id   text        NOT NULL,
	step          text        NOT NULL,
	request       bytea       NOT NULL,
	status        text        NOT NULL DEFAULT 'pending',
	attempts      integer     NOT NULL DEFAULT 0,
	due_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
	claimed_until timestamptz NOT NULL DEFAULT '-infinity',
	outcome       text        NOT NULL DEFAULT '',
	causation_id  text        NOT NULL DEFAULT '',
	traceparent   text        NOT NULL DEFAULT '',
	tracestate    text        NOT NULL DEFAULT '',
	created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
	finished_at   timestamptz
) WITH (fillfactor = 70);

CREATE INDEX process_command_pending ON process_command (process, due_at) WHERE status = 'pending';
CREATE INDEX process_command_instance ON process_command (process, instance_id);

CREATE TABLE process_position (
	process   text    NOT NULL,
	partition integer NOT NULL,
	term      bigint  NOT NULL,
	PRIMARY KEY (process, partition)
);

CREATE TABLE process_offset (
	process     text    NOT NULL,
	partition   integer NOT NULL,
	topic       text    NOT NULL,
	topic_id    text    NOT NULL,
	next_offset bigint  NOT NULL,
	PRIMARY KEY (process, partition, topic)
) WITH (fillfactor = 50);

CREATE TABLE process_unread (
	process       text        NOT NULL,
	topic         text        NOT NULL,
	partition     integer     NOT NULL,
	record_offset bigint      NOT NULL,
	instance_id   text        NOT NULL,
	reason        text        NOT NULL,
	seen_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (process, topic, partition, record_offset)
);

-- +goose Down
DROP TABLE process_unread;
DROP TABLE process_offset;
DROP TABLE process_position;
DROP TABLE process_command;
DROP TABLE process_instance;

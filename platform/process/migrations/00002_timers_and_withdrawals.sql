-- +goose Up

-- Offsets live in the position row: one row to lock, one row to write.
ALTER TABLE process_position ADD COLUMN offsets jsonb NOT NULL DEFAULT '{}';
UPDATE process_position AS p SET offsets = o.offsets
  FROM (SELECT process, partition, jsonb_object_agg(topic, jsonb_build_object('id', topic_id, 'next', next_offset)) AS offsets
          FROM process_offset GROUP BY process, partition) AS o
 WHERE o.process = p.process AND o.partition = p.partition;
ALTER TABLE process_position SET (fillfactor = 50);
DROP TABLE process_offset;

ALTER TABLE process_instance ADD COLUMN attention text NOT NULL DEFAULT '';
UPDATE process_instance SET attention = book->>'attention' WHERE coalesce(book->>'attention', '') <> '';
CREATE INDEX process_instance_open ON process_instance (process, created_at, id) WHERE status = 'running';
CREATE INDEX process_instance_attention ON process_instance (process, created_at, id) WHERE attention <> '';

-- target: the participant. withdrawn: must not take effect any more, to be made
-- definite there. stalled: without an answer for so long that a person sees it.
ALTER TABLE process_command ADD COLUMN target text NOT NULL DEFAULT '';
ALTER TABLE process_command ADD COLUMN withdrawn boolean NOT NULL DEFAULT false;
ALTER TABLE process_command ADD COLUMN stalled boolean NOT NULL DEFAULT false;
DROP INDEX process_command_pending;
CREATE INDEX process_command_pending ON process_command (process, target, due_at) WHERE status = 'pending';
CREATE INDEX process_command_stalled ON process_command (process, instance_id) WHERE status = 'pending' AND stalled;

-- A timer is deleted when it fires or is taken back.
CREATE TABLE process_timer (
	process     text        NOT NULL,
	instance_id text        NOT NULL,
	name        text        NOT NULL,
	due_at      timestamptz NOT NULL,
	set_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (process, instance_id, name)
);
CREATE INDEX process_timer_due ON process_timer (process, due_at);

-- What people did to processes, for ever.
CREATE TABLE process_audit (
	process     text        NOT NULL,
	instance_id text        NOT NULL,
	at          timestamptz NOT NULL DEFAULT clock_timestamp(),
	actor       text        NOT NULL,
	action      text        NOT NULL,
	step        text        NOT NULL,
	reason      text        NOT NULL
);
CREATE INDEX process_audit_instance ON process_audit (process, instance_id, at);

-- +goose Down
DROP TABLE process_audit, process_timer;
DROP INDEX process_command_stalled, process_command_pending, process_instance_attention, process_instance_open;
ALTER TABLE process_command DROP COLUMN stalled, DROP COLUMN withdrawn, DROP COLUMN target;
CREATE INDEX process_command_pending ON process_command (process, due_at) WHERE status = 'pending';
ALTER TABLE process_instance DROP COLUMN attention;
CREATE TABLE process_offset (
	process     text    NOT NULL,
	partition   integer NOT NULL,
	topic       text    NOT NULL,
	topic_id    text    NOT NULL,
	next_offset bigint  NOT NULL,
	PRIMARY KEY (process, partition, topic)
) WITH (fillfactor = 50);
INSERT INTO process_offset
SELECT p.process, p.partition, o.key, o.value->>'id', (o.value->>'next')::bigint FROM process_position p, jsonb_each(p.offsets) o;
ALTER TABLE process_position DROP COLUMN offsets;

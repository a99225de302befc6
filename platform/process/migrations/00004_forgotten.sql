-- +goose Up

-- Whether the participants were told that the requests of an instance that ended
-- will not be made again. The index leaves updated_at out: an index on what every
-- step changes would make every step dearer.
ALTER TABLE process_instance ADD COLUMN forgotten boolean NOT NULL DEFAULT false;
CREATE INDEX process_instance_kept ON process_instance (process, created_at) WHERE status = 'ended' AND NOT forgotten;

-- +goose Down
DROP INDEX process_instance_kept;
ALTER TABLE process_instance DROP COLUMN forgotten;

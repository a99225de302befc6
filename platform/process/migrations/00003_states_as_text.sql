-- +goose Up

-- States are written at every step and read whole: as text they need not be
-- taken apart and put together again. The table is written anew, once.
ALTER TABLE process_instance ALTER COLUMN state TYPE json, ALTER COLUMN book TYPE json;
-- +goose StatementBegin
DO $$
BEGIN
	ALTER TABLE process_instance ALTER COLUMN state SET COMPRESSION lz4, ALTER COLUMN book SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
	NULL; -- a server that was built without it
END $$;
-- +goose StatementEnd

-- +goose Down
ALTER TABLE process_instance ALTER COLUMN state TYPE jsonb, ALTER COLUMN book TYPE jsonb;

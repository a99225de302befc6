-- +goose Up

-- A parcel of the order is known to have left the house. The fulfilment process
-- sets it; commands read it under the order's lock.
ALTER TABLE orders ADD COLUMN dispatched boolean NOT NULL DEFAULT false;
-- +goose StatementBegin
DO $$ BEGIN
	IF to_regclass('process_instance') IS NOT NULL THEN
		UPDATE orders SET dispatched = true
		 WHERE id IN (SELECT p.id FROM process_instance AS p, jsonb_each(p.state->'shipments') AS s
		               WHERE p.process = 'fulfilment' AND s.value->>'State' IN ('GONE', 'DELIVERED'));
	END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
ALTER TABLE orders DROP COLUMN dispatched;

-- +goose Up
CREATE TABLE shipments (
    id          text        NOT NULL PRIMARY KEY,
    order_id    text        NOT NULL,
    fulfilment  text        NOT NULL,
    state_name  text        NOT NULL,
    created_at  timestamptz NOT NULL,
    version     bigint      NOT NULL,
    epoch       text        NOT NULL,
    event_id    text        NOT NULL,
    recorded_at timestamptz NOT NULL,
    state       jsonb       NOT NULL
) WITH (fillfactor = 80);
-- Both only over columns that never change, so that updates stay in their page.
CREATE INDEX shipments_newest ON shipments (created_at DESC, id DESC);
CREATE INDEX shipments_of_order ON shipments (order_id, created_at DESC, id DESC);

-- +goose Down
DROP TABLE shipments;

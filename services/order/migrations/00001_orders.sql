-- +goose Up
CREATE TABLE orders (
    id          text        NOT NULL PRIMARY KEY,
    customer_id text        NOT NULL,
    state_name  text        NOT NULL,
    created_at  timestamptz NOT NULL,
    version     bigint      NOT NULL,
    epoch       text        NOT NULL,
    event_id    text        NOT NULL,
    recorded_at timestamptz NOT NULL,
    state       jsonb       NOT NULL
) WITH (fillfactor = 80);
-- Both only over columns that never change, so that updates stay in their page.
CREATE INDEX orders_newest ON orders (created_at DESC, id DESC);
CREATE INDEX orders_of_customer ON orders (customer_id, created_at DESC, id DESC);

-- +goose Down
DROP TABLE orders;

-- +goose Up
CREATE TABLE payments (
    id          text        NOT NULL PRIMARY KEY,
    order_id    text        NOT NULL,
    state_name  text        NOT NULL,
    created_at  timestamptz NOT NULL,
    version     bigint      NOT NULL,
    epoch       text        NOT NULL,
    event_id    text        NOT NULL,
    recorded_at timestamptz NOT NULL,
    attempt_due timestamptz, -- when an unanswered call to the provider is made again
    state       jsonb       NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX payments_newest ON payments (created_at DESC, id DESC);
CREATE INDEX payments_of_order ON payments (order_id, created_at DESC, id DESC);
CREATE INDEX payments_attempt_due ON payments (attempt_due) WHERE attempt_due IS NOT NULL;

-- What the simulated provider remembers. It stands for another company's
-- database: nothing but the simulator reads or writes it.
CREATE TABLE simulated_provider (
    key        text        NOT NULL PRIMARY KEY,
    kind       text        NOT NULL,
    payment_id text        NOT NULL,
    amount     bigint      NOT NULL,
    approved   boolean     NOT NULL,
    reference  text        NOT NULL,
    code       text        NOT NULL,
    message    text        NOT NULL,
    calls      integer     NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX simulated_provider_payment ON simulated_provider (payment_id);

-- +goose Down
DROP TABLE simulated_provider, payments;

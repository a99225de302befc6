-- Tables of one generation of the timeline. There are no migrations: a change
-- here makes a new generation, which is built beside the old one.

CREATE TABLE orders (
	order_id      text        PRIMARY KEY,
	customer_id   text        NOT NULL,
	open          boolean     NOT NULL,
	placed_at     timestamptz,
	last_event_at timestamptz NOT NULL,
	contact_at    timestamptz,
	document      text        NOT NULL
);
CREATE INDEX orders_open ON orders (customer_id, placed_at DESC NULLS LAST, order_id) WHERE open;
CREATE INDEX orders_contact ON orders (customer_id, contact_at DESC, order_id) WHERE contact_at IS NOT NULL;
CREATE INDEX orders_last ON orders (customer_id, last_event_at DESC);

CREATE TABLE customers (
	partition   integer NOT NULL,
	customer_id text    NOT NULL,
	orders      bigint  NOT NULL,
	open        bigint  NOT NULL,
	PRIMARY KEY (customer_id, partition)
);

CREATE TABLE spend (
	partition   integer NOT NULL,
	customer_id text    NOT NULL,
	currency    text    NOT NULL,
	net         bigint  NOT NULL,
	PRIMARY KEY (customer_id, currency, partition)
);

CREATE TABLE entries (
	order_id       text        NOT NULL,
	aggregate_type text        NOT NULL,
	aggregate_id   text        NOT NULL,
	epoch          text        NOT NULL,
	version        bigint      NOT NULL,
	event_id       text        NOT NULL,
	ordinal        integer     NOT NULL,
	customer_id    text        NOT NULL,
	kind           integer     NOT NULL,
	fact           text        NOT NULL,
	summary        text        NOT NULL,
	actor          text        NOT NULL,
	occurred_at    timestamptz NOT NULL,
	time_estimated boolean     NOT NULL,
	recorded_at    timestamptz NOT NULL,
	amount         bigint,
	currency       text,
	trace_id       text        NOT NULL,
	PRIMARY KEY (aggregate_type, aggregate_id, epoch, version, event_id, ordinal)
);
CREATE INDEX entries_customer ON entries (customer_id, occurred_at, recorded_at, event_id);
CREATE INDEX entries_order ON entries (order_id, occurred_at, recorded_at, event_id);

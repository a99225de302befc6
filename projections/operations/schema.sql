-- Tables of one generation of operations. There are no migrations: a change
-- here makes a new generation, which is built beside the old one.

CREATE TABLE work_items (
	order_id      text        NOT NULL,
	kind          integer     NOT NULL,
	subject_id    text        NOT NULL,
	customer_id   text        NOT NULL,
	reason        text        NOT NULL,
	channel       text        NOT NULL,
	warehouse     text        NOT NULL,
	since         timestamptz NOT NULL,
	shows_at      timestamptz NOT NULL,
	deadline      timestamptz NOT NULL,
	severity      integer     NOT NULL,
	late_severity integer     NOT NULL,
	amount        bigint,
	currency      text,
	PRIMARY KEY (order_id, kind, subject_id)
);
CREATE INDEX work_items_deadline ON work_items (deadline, order_id, kind, subject_id);
CREATE INDEX work_items_since ON work_items (since, order_id, kind, subject_id);
CREATE INDEX work_items_shows ON work_items (shows_at);

CREATE TABLE open_orders (
	order_id    text        NOT NULL,
	warehouse   text        NOT NULL,
	customer_id text        NOT NULL,
	status      text        NOT NULL,
	on_hold     boolean     NOT NULL,
	placed_at   timestamptz NOT NULL,
	promised_at timestamptz,
	total       bigint      NOT NULL,
	currency    text        NOT NULL,
	channel     text        NOT NULL,
	PRIMARY KEY (order_id, warehouse)
);
CREATE INDEX open_orders_oldest ON open_orders (placed_at, order_id, warehouse);
CREATE INDEX open_orders_warehouse ON open_orders (warehouse, placed_at, order_id);

CREATE TABLE warehouses (
	partition            integer NOT NULL,
	warehouse            text    NOT NULL,
	open_orders          bigint  NOT NULL,
	shipments_planned    bigint  NOT NULL,
	shipments_in_transit bigint  NOT NULL,
	PRIMARY KEY (partition, warehouse)
);

CREATE TABLE throughput (
	partition integer     NOT NULL,
	hour      timestamptz NOT NULL,
	channel   text        NOT NULL,
	placed    bigint      NOT NULL,
	confirmed bigint      NOT NULL,
	shipped   bigint      NOT NULL,
	delivered bigint      NOT NULL,
	completed bigint      NOT NULL,
	cancelled bigint      NOT NULL,
	PRIMARY KEY (hour, channel, partition)
);

CREATE TABLE statuses (
	partition integer NOT NULL,
	channel   text    NOT NULL,
	status    text    NOT NULL,
	orders    bigint  NOT NULL,
	PRIMARY KEY (partition, channel, status)
);

CREATE TABLE money (
	partition integer NOT NULL,
	channel   text    NOT NULL,
	method    text    NOT NULL,
	currency  text    NOT NULL,
	payments  bigint  NOT NULL,
	requested bigint  NOT NULL,
	captured  bigint  NOT NULL,
	refunded  bigint  NOT NULL,
	PRIMARY KEY (partition, channel, method, currency)
);

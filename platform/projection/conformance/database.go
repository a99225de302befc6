package conformance

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// partitions of the topics that the kit plays.
const partitions = 3

// database is the real kernel over an empty database, fed without a broker.
type database[S any] struct {
	k      *kit[S]
	ctx    context.Context
	cfg    projection.Config
	first  *projection.Projection[S]
	all    []*projection.Projection[S]
	pool   *pgxpool.Pool // its unqualified tables are those of the generation
	tables []string
	ids    map[string]string
	next   map[string]int64            // by topic and partition
	log    map[int32][]consumer.Record // what was delivered, for a replay
}

func (k *kit[S]) open(t *testing.T) *database[S] {
	t.Helper()
	d := k.unclaimed(t)
	for number := range int32(partitions) {
		if _, err := d.first.Claim(d.ctx, number, d.ids); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// unclaimed is a database whose partitions nobody owns yet.
func (k *kit[S]) unclaimed(t *testing.T, tweaks ...func(*projection.Config)) *database[S] {
	t.Helper()
	d := &database[S]{
		k: k, ctx: t.Context(), next: map[string]int64{}, log: map[int32][]consumer.Record{},
		ids: map[string]string{kafka.TopicControl: "id-control"},
		cfg: projection.Config{
			Postgres:  postgres.Config{URL: testkit.PostgresURL(t), MaxConns: 4},
			Kafka:     kafka.Config{Brokers: "127.0.0.1:1", Partitions: partitions},
			Codec:     k.bytes.codec,
			Telemetry: telemetry.Off(),
			Log:       slog.New(slog.DiscardHandler),
			Bounds:    func(context.Context) (map[string]map[int32]consumer.Bounds, error) { return nil, nil },
		},
	}
	for _, source := range k.View.Sources {
		d.ids[kafka.EventsTopic(source)] = "id-" + source
	}
	for _, tweak := range tweaks {
		tweak(&d.cfg)
	}
	d.first = d.replica(t)
	d.look(t)
	return d
}

// replica opens one more process of the projection.
func (d *database[S]) replica(t *testing.T) *projection.Projection[S] {
	t.Helper()
	p, err := projection.Open(t.Context(), d.cfg, d.k.View)
	if err != nil {
		t.Fatal(err)
	}
	d.all = append(d.all, p)
	return p
}

// look opens a pool of the kit's own and lists the generation's tables.
func (d *database[S]) look(t *testing.T) {
	t.Helper()
	config, err := pgxpool.ParseConfig(d.cfg.Postgres.URL)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 2
	conn, err := pgx.Connect(t.Context(), d.cfg.Postgres.URL)
	if err != nil {
		t.Fatal(err)
	}
	var schema string
	err = conn.QueryRow(t.Context(), "SELECT schema FROM tidemark.generation WHERE name = $1", d.k.View.Name).Scan(&schema)
	if closed := conn.Close(t.Context()); err == nil {
		err = closed
	}
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["search_path"] = schema
	if d.pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	rows, err := d.pool.Query(t.Context(), "SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY 1", schema)
	if err == nil {
		d.tables, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (d *database[S]) close() {
	for _, p := range d.all {
		p.Close()
	}
	d.pool.Close()
}

// put appends facts to the topics and returns the records by partition.
func (d *database[S]) put(batch []sent) map[int32][]consumer.Record {
	records := map[int32][]consumer.Record{}
	for _, one := range batch {
		number := event.PartitionOf(one.fact.Key, partitions)
		topic := kafka.EventsTopic(one.fact.Source)
		place := fmt.Sprintf("%s/%d", topic, number)
		records[number] = append(records[number], consumer.Record{
			Topic: topic, Partition: number, Offset: d.next[place], Key: []byte(one.fact.Key), Value: one.value, Headers: one.fact.Headers(),
		})
		d.next[place]++
	}
	for number, some := range records {
		d.log[number] = append(d.log[number], some...)
	}
	return records
}

// deliver appends batches to the topics and has the projection take them.
func (d *database[S]) deliver(to *projection.Projection[S], batches ...[]sent) error {
	for _, batch := range batches {
		for number, records := range d.put(batch) {
			if err := to.Handle(d.ctx, number, records); err != nil {
				return fmt.Errorf("the kernel refuses a batch: %w", err)
			}
		}
	}
	return nil
}

// agree compares what is stored with the reference; nothing may be parked.
func (d *database[S]) agree(what string, facts []event.Fact) error {
	var parked int
	var reason string
	err := d.pool.QueryRow(d.ctx, `SELECT count(*), coalesce(min(verdict || ': ' || reason) FILTER (WHERE verdict <> 'behind'), '') FROM parked`).Scan(&parked, &reason)
	if err != nil {
		return err
	}
	if parked > 0 {
		return fmt.Errorf("%s: %d facts parked, for instance as %s", what, parked, reason)
	}
	want, err := fold.Reference(d.k.View, facts)
	if err != nil {
		return err
	}
	got, err := d.first.All(d.ctx)
	if err != nil {
		return err
	}
	return same(what, want, got)
}

// everything is every row of the generation, the kernel's included.
func (d *database[S]) everything() (map[string]string, error) {
	var parts []string
	for _, table := range d.tables {
		parts = append(parts, fmt.Sprintf("SELECT '%s', coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM %s AS t",
			table, pgx.Identifier{table}.Sanitize()))
	}
	rows, err := d.pool.Query(d.ctx, strings.Join(parts, " UNION ALL "))
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	var table, text string
	_, err = pgx.ForEachRow(rows, []any{&table, &text}, func() error { all[table] = text; return nil })
	return all, err
}

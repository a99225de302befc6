package bench

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// The bare loop knows beforehand what every batch changes, and only writes it:
// one bulk statement per table, states and members and a position among them.

// bareTable is a table as the catalog of the database describes it.
type bareTable struct {
	schema, name string
	columns      []string
	types        map[string]string
	key          []string
}

func (t *bareTable) qualified() string { return pgx.Identifier{t.schema, t.name}.Sanitize() }

// kind tells sums and logs from rows by the columns that the kernel fills.
func (t *bareTable) sums() bool { return t.types["partition"] != "" }
func (t *bareTable) log() bool  { return t.types["ordinal"] != "" && t.types["event_id"] != "" }

// kernels are the kernel's own tables but for states.
var kernels = []string{"position", "source_mark", "member", "quarantine", "parked"}

// tablesOf lists the tables of a view's generation: its own, and state.
func tablesOf(ctx context.Context, conn *pgx.Conn, view string) ([]*bareTable, error) {
	rows, err := conn.Query(ctx, `SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
			coalesce(a.attnum = ANY (i.indkey::smallint[]), false)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
		LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
		WHERE n.nspname LIKE $1 || '\_g%' AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname, a.attnum`, view)
	if err != nil {
		return nil, err
	}
	found := map[string]*bareTable{}
	var schema, name, column, typ string
	var key bool
	_, err = pgx.ForEachRow(rows, []any{&schema, &name, &column, &typ, &key}, func() error {
		t := found[name]
		if t == nil {
			t = &bareTable{schema: schema, name: name, types: map[string]string{}}
			found[name] = t
		}
		t.columns, t.types[column] = append(t.columns, column), typ
		if key {
			t.key = append(t.key, column)
		}
		return nil
	})
	var tables []*bareTable
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if !slices.Contains(kernels, name) && (name == "state" || found[name].types["order_id"] != "" || found[name].sums()) {
			tables = append(tables, found[name])
		}
	}
	return tables, err
}

// write is what one batch changes in one table: rows to upsert, keys to delete.
type bareWrite struct {
	upserts, deletes []map[string]any
}

// bareBatch is what one batch changes: by table, and the aggregates it makes known.
type bareBatch struct {
	tables  map[string]*bareWrite
	members [][3]string
}

// bareLoop is the work of one view, per partition and batch.
type bareLoop[S any] struct {
	view    fold.View[S]
	batches [][]bareBatch
}

// knownOrder is what the work so far has made of one order.
type knownOrder[S any] struct {
	memory   *fold.Memory[S]
	rows     map[string][]map[string]any
	versions map[string]*bareApplied
}

type bareApplied struct {
	Epoch   string `json:"e"`
	Version int64  `json:"v"`
	Recent  string `json:"r"`
}

func bareWork[S any](ctx context.Context, b *copyBed, view fold.View[S], streams [][]event.Fact) (*bareLoop[S], error) {
	loop := &bareLoop[S]{view: view, batches: make([][]bareBatch, len(streams))}
	group, ctx := errgroup.WithContext(ctx)
	for p, stream := range streams {
		group.Go(func() error {
			known := map[string]*knownOrder[S]{}
			for from := 0; from < len(stream) && ctx.Err() == nil; from += copyBatch {
				batch, err := loop.batch(known, stream[from:min(from+copyBatch, len(stream))])
				if err != nil {
					return err
				}
				loop.batches[p] = append(loop.batches[p], batch)
			}
			return ctx.Err()
		})
	}
	return loop, group.Wait()
}

func (l *bareLoop[S]) batch(known map[string]*knownOrder[S], facts []event.Fact) (bareBatch, error) {
	batch := bareBatch{tables: map[string]*bareWrite{"state": {}}}
	byOrder, ids := map[string][]event.Fact{}, []string(nil)
	for _, f := range facts {
		if byOrder[f.Key] == nil {
			ids = append(ids, f.Key)
		}
		byOrder[f.Key] = append(byOrder[f.Key], f)
	}
	sums := map[string]map[string]map[string]any{}
	for _, id := range ids {
		o := known[id]
		if o == nil {
			o = &knownOrder[S]{memory: fold.NewMemory(l.view), versions: map[string]*bareApplied{}}
			known[id] = o
		}
		if err := o.memory.Apply(byOrder[id]...); err != nil {
			return batch, err
		}
		for _, f := range byOrder[id] {
			a := o.versions[f.Aggregate.String()]
			if a == nil {
				a = &bareApplied{}
				o.versions[f.Aggregate.String()] = a
				batch.members = append(batch.members, [3]string{f.Aggregate.Type, f.Aggregate.ID, f.Key})
			}
			a.Epoch, a.Version = f.Epoch, f.Version
			a.Recent = base64.StdEncoding.EncodeToString(make([]byte, 4*min(16, f.Version)))
		}
		applied, err := json.Marshal(map[string]any{"a": o.versions})
		if err != nil {
			return batch, err
		}
		state := batch.tables["state"]
		state.upserts = append(state.upserts, map[string]any{"order_id": id, "state": string(o.memory.States()[id]), "applied": string(applied)})
		after := o.memory.All()
		for table, rows := range after {
			l.changes(&batch, table, o.rows[table], rows, sums)
		}
		o.rows = after
	}
	for table, keys := range sums {
		for _, r := range keys {
			batch.of(table).upserts = append(batch.of(table).upserts, r)
		}
	}
	return batch, nil
}

func (b *bareBatch) of(table string) *bareWrite {
	if b.tables[table] == nil {
		b.tables[table] = &bareWrite{}
	}
	return b.tables[table]
}

// changes adds the rows that differ; sums are added up by key.
func (l *bareLoop[S]) changes(batch *bareBatch, table string, before, after []map[string]any, sums map[string]map[string]map[string]any) {
	if len(after) == 0 && len(before) == 0 {
		return
	}
	sample := append(slices.Clone(after), before...)[0]
	if _, row := sample["order_id"]; !row {
		if sums[table] == nil {
			sums[table] = map[string]map[string]any{}
		}
		for sign, rows := range map[int64][]map[string]any{1: after, -1: before} {
			for _, r := range rows {
				add(sums[table], r, sign)
			}
		}
		return
	}
	old := map[string]map[string]any{}
	for _, r := range before {
		old[rowKey(r)] = r
	}
	for _, r := range after {
		key := rowKey(r)
		if !reflect.DeepEqual(old[key], r) {
			batch.of(table).upserts = append(batch.of(table).upserts, r)
		}
		delete(old, key)
	}
	for _, r := range old {
		batch.of(table).deletes = append(batch.of(table).deletes, r)
	}
}

// rowKey tells the rows of one order apart, in every table there is.
func rowKey(r map[string]any) string {
	return fmt.Sprint(r["order_id"], r["warehouse"], r["kind"], r["subject_id"], r["event_id"], r["ordinal"])
}

// add adds a row's amounts to those of its key: what is int64 is an amount.
func add(totals map[string]map[string]any, r map[string]any, sign int64) {
	var key []string
	for _, column := range slices.Sorted(maps.Keys(r)) {
		if _, amount := r[column].(int64); !amount {
			key = append(key, fmt.Sprint(r[column]))
		}
	}
	name := strings.Join(key, "\x00")
	total := totals[name]
	if total == nil {
		total = map[string]any{}
		for column, v := range r {
			if _, amount := v.(int64); amount {
				v = int64(0)
			}
			total[column] = v
		}
		totals[name] = total
	}
	empty := true
	for column, v := range r {
		if amount, ok := v.(int64); ok {
			total[column] = total[column].(int64) + sign*amount
			empty = empty && total[column] == int64(0)
		}
	}
	if empty {
		delete(totals, name)
	}
}

// run makes the generation's tables and returns the loop.
func (l *bareLoop[S]) run(ctx context.Context, b *copyBed, db string) (func() error, func(), error) {
	_, closed, err := kernelRun(ctx, b, l.view, nil, db) // makes the tables
	if err != nil {
		return nil, nil, err
	}
	closed()
	var tables []*bareTable
	if err := b.on(ctx, db, func(conn *pgx.Conn) (err error) { tables, err = tablesOf(ctx, conn, l.view.Name); return err }); err != nil {
		return nil, nil, err
	}
	pool, err := pgxpool.New(ctx, b.cluster.URL(db)+fmt.Sprintf("&pool_max_conns=%d&search_path=%s", copyPartitions, tables[0].schema))
	if err != nil {
		return nil, nil, err
	}
	prepared := make([][]*pgx.Batch, len(l.batches))
	for p, batches := range l.batches {
		for _, one := range batches {
			prepared[p] = append(prepared[p], one.statements(tables, int32(p)))
		}
	}
	return func() error {
		group, ctx := errgroup.WithContext(ctx)
		for _, batches := range prepared {
			group.Go(func() error {
				for _, batch := range batches {
					if err := pool.SendBatch(ctx, batch).Close(); err != nil { // one implicit transaction
						return err
					}
				}
				return nil
			})
		}
		return group.Wait()
	}, pool.Close, nil
}

// statements are the bulk statements of one batch.
func (b bareBatch) statements(tables []*bareTable, partition int32) *pgx.Batch {
	batch := &pgx.Batch{}
	for _, t := range tables {
		write := b.tables[t.name]
		if write == nil {
			continue
		}
		if len(write.deletes) > 0 {
			var match []string
			for _, column := range t.key {
				match = append(match, fmt.Sprintf("t.%s = u.%s", column, column))
			}
			from, args := t.unnest(t.key, write.deletes, partition)
			batch.Queue(fmt.Sprintf("DELETE FROM %s AS t USING %s WHERE %s", t.name, from, strings.Join(match, " AND ")), args...)
		}
		if len(write.upserts) > 0 {
			from, args := t.unnest(t.columns, write.upserts, partition)
			batch.Queue(t.upsert(from), args...)
		}
	}
	if len(b.members) > 0 {
		columns := make([][]string, 3)
		for _, m := range b.members {
			for i, v := range m {
				columns[i] = append(columns[i], v)
			}
		}
		batch.Queue("INSERT INTO member (aggregate_type, aggregate_id, order_id) SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING",
			columns[0], columns[1], columns[2])
	}
	batch.Queue("UPDATE position SET revision = revision + 1, offsets = $2, updated_at = now() WHERE partition = $1", partition,
		`{"tidemark.order.events": 100000, "tidemark.payment.events": 100000, "tidemark.shipment.events": 100000}`)
	return batch
}

func (t *bareTable) upsert(from string) string {
	var sets []string
	for _, column := range t.columns {
		switch {
		case slices.Contains(t.key, column) || t.name == "state" && column == "partition":
		case t.name != "state" && t.sums():
			sets = append(sets, fmt.Sprintf("%s = t.%s + excluded.%s", column, column, column))
		default:
			sets = append(sets, fmt.Sprintf("%s = excluded.%s", column, column))
		}
	}
	conflict := "DO NOTHING"
	if !t.log() {
		conflict = "DO UPDATE SET " + strings.Join(sets, ", ")
	}
	return fmt.Sprintf("INSERT INTO %s AS t (%s) SELECT %s FROM %s ON CONFLICT (%s) %s", t.name, strings.Join(t.columns, ", "), strings.Join(t.columns, ", "),
		from, strings.Join(t.key, ", "), conflict)
}

// unnest turns rows into one array per column.
func (t *bareTable) unnest(columns []string, rows []map[string]any, partition int32) (from string, args []any) {
	var arrays []string
	for _, column := range columns {
		arrays = append(arrays, fmt.Sprintf("$%d::%s[]", len(args)+1, t.types[column]))
		switch typ := t.types[column]; {
		case column == "partition":
			args = append(args, array(rows, func(map[string]any) (int32, bool) { return partition, true }))
		case typ == "bigint" || typ == "integer":
			args = append(args, array(rows, func(r map[string]any) (int64, bool) { v, ok := r[column].(int64); return v, ok }))
		case typ == "boolean":
			args = append(args, array(rows, func(r map[string]any) (bool, bool) { v, ok := r[column].(bool); return v, ok }))
		case strings.HasPrefix(typ, "timestamp"):
			args = append(args, array(rows, func(r map[string]any) (time.Time, bool) { v, ok := r[column].(time.Time); return v, ok }))
		default:
			args = append(args, array(rows, func(r map[string]any) (string, bool) { v, ok := r[column].(string); return v, ok }))
		}
	}
	return fmt.Sprintf("unnest(%s) AS u(%s)", strings.Join(arrays, ", "), strings.Join(columns, ", ")), args
}

func array[T any](rows []map[string]any, of func(map[string]any) (T, bool)) []*T {
	values := make([]*T, len(rows))
	for i, r := range rows {
		if v, ok := of(r); ok {
			values[i] = &v
		}
	}
	return values
}

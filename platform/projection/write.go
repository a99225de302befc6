package projection

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// statements are the bulk statements of one table. Each takes one array per
// column.
type statements struct {
	upsert, remove string
}

var columnTypes = map[columnType]string{
	typeText: "text", typeInt: "bigint", typeBool: "boolean", typeTime: "timestamptz", typeJSON: "text",
}

// statementsOf writes the SQL of a table.
func statementsOf(t *tableSpec) statements {
	var names, keys, sets, arrays, aliases, selected, match, keyArrays, keyAliases []string
	for i, col := range t.all {
		alias := fmt.Sprintf("u%d", i)
		names, aliases = append(names, col.name), append(aliases, alias)
		arrays = append(arrays, fmt.Sprintf("$%d::%s[]", i+1, columnTypes[col.typ]))
		if col.typ == typeJSON {
			alias += "::jsonb"
		}
		selected = append(selected, alias)
		switch {
		case col.key:
			keys = append(keys, col.name)
			keyArrays = append(keyArrays, fmt.Sprintf("$%d::%s[]", len(keys), columnTypes[col.typ]))
			keyAliases = append(keyAliases, fmt.Sprintf("k%d", len(keys)))
			match = append(match, fmt.Sprintf("t.%s = k.k%d", col.name, len(keys)))
		case col.sum:
			sets = append(sets, fmt.Sprintf("%s = t.%s + excluded.%s", col.name, col.name, col.name))
		default:
			sets = append(sets, fmt.Sprintf("%s = excluded.%s", col.name, col.name))
		}
	}
	conflict := "DO NOTHING" // a log entry is the same for ever
	if t.kind != kindLog && len(sets) > 0 {
		conflict = "DO UPDATE SET " + strings.Join(sets, ", ")
	}
	return statements{
		upsert: fmt.Sprintf("INSERT INTO %s AS t (%s) SELECT %s FROM unnest(%s) AS u(%s) ON CONFLICT (%s) %s",
			t.name, strings.Join(names, ", "), strings.Join(selected, ", "), strings.Join(arrays, ", "),
			strings.Join(aliases, ", "), strings.Join(keys, ", "), conflict),
		remove: fmt.Sprintf("DELETE FROM %s AS t USING unnest(%s) AS k(%s) WHERE %s",
			t.name, strings.Join(keyArrays, ", "), strings.Join(keyAliases, ", "), strings.Join(match, " AND ")),
	}
}

// queueTable adds the statements that write the difference of one table.
func queueTable(b *pgx.Batch, t *tableDelta, sql statements, partition int32) {
	if len(t.deletes) > 0 {
		var keys []column
		for _, col := range t.spec.columns {
			if col.key {
				keys = append(keys, col)
			}
		}
		b.Queue(sql.remove, arraysOf(keys, t.spec.columns, values(t.deletes))...)
	}
	rows := t.rows
	if len(t.upserts) > 0 {
		rows = values(t.upserts)
	}
	if len(rows) == 0 {
		return
	}
	if t.spec.kind != kindSums {
		b.Queue(sql.upsert, arraysOf(t.spec.all, t.spec.all, rows)...)
		return
	}
	partitions := make([]int64, len(rows))
	for i := range partitions {
		partitions[i] = int64(partition)
	}
	b.Queue(sql.upsert, append([]any{partitions}, arraysOf(t.spec.columns, t.spec.columns, rows)...)...)
}

func values(rows map[string]row) []row {
	all := make([]row, 0, len(rows))
	for _, r := range rows {
		all = append(all, r)
	}
	return all
}

// arraysOf turns rows that have the columns of all into one array for each
// wanted column.
func arraysOf(wanted, all []column, rows []row) []any {
	arrays := make([]any, 0, len(wanted))
	for _, want := range wanted {
		for i, col := range all {
			if col.name != want.name {
				continue
			}
			switch col.typ {
			case typeText, typeJSON:
				arrays = append(arrays, arrayOf[string](rows, i))
			case typeInt:
				arrays = append(arrays, arrayOf[int64](rows, i))
			case typeBool:
				arrays = append(arrays, arrayOf[bool](rows, i))
			case typeTime:
				arrays = append(arrays, arrayOf[time.Time](rows, i))
			}
		}
	}
	return arrays
}

// arrayOf takes one column of the rows; nil is NULL.
func arrayOf[T any](rows []row, i int) []*T {
	array := make([]*T, len(rows))
	for n, r := range rows {
		if v, ok := r[i].(T); ok {
			array[n] = &v
		}
	}
	return array
}

const (
	upsertStates = `INSERT INTO state (order_id, partition, state, applied)
		SELECT o, $1, s, a FROM unnest($2::text[], $3::json[], $4::json[]) AS u(o, s, a)
		ON CONFLICT (order_id) DO UPDATE SET state = excluded.state, applied = excluded.applied`
	insertMembers = `INSERT INTO member (aggregate_type, aggregate_id, order_id)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING`
	insertParked = `INSERT INTO parked (reference, partition, topic, topic_id, record_offset, order_id, aggregate_type, aggregate_id,
			epoch, version, event_id, verdict, reason, code_version)
		SELECT r, $1, t, ti, ro, o, at, ai, e, v, ei, ve, re, $2
		FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[],
			$12::text[], $13::text[], $14::text[]) AS u(r, t, ti, ro, o, at, ai, e, v, ei, ve, re)
		ON CONFLICT (reference) DO NOTHING`
	upsertQuarantine = `INSERT INTO quarantine (partition, aggregate_type, aggregate_id, order_id, verdict, reason)
		SELECT DISTINCT ON (at, ai, o) $1::integer, at, ai, o, ve, re
		FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) WITH ORDINALITY AS u(at, ai, o, ve, re, n)
		ORDER BY at, ai, o, n DESC
		ON CONFLICT (aggregate_type, aggregate_id, order_id) DO UPDATE SET verdict = excluded.verdict, reason = excluded.reason`
	upsertMarks = `INSERT INTO source_mark (partition, source, epoch, term, number, as_of, blocked_count)
		SELECT $1::integer, * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::bigint[])
		ON CONFLICT (partition, source) DO UPDATE SET epoch = excluded.epoch, term = excluded.term, number = excluded.number,
			as_of = excluded.as_of, blocked_count = excluded.blocked_count`
	movePosition = `UPDATE position SET revision = revision + 1, offsets = $2, books = $3, updated_at = now() WHERE partition = $1`
)

// queueDelta adds everything a delta changes but the position.
func queueDelta(b *pgx.Batch, d *delta, sql []statements, partition int32, codeVersion int) {
	if n := len(d.states); n > 0 {
		orders, states, applied := make([]string, n), make([]string, n), make([]string, n)
		for i, s := range d.states {
			orders[i], states[i], applied[i] = s.order, string(s.encoded.state), string(s.encoded.applied)
		}
		b.Queue(upsertStates, partition, orders, states, applied)
	}
	if n := len(d.members); n > 0 {
		types, ids, orders := make([]string, n), make([]string, n), make([]string, n)
		for i, m := range d.members {
			types[i], ids[i], orders[i] = m.aggregate.Type, m.aggregate.ID, m.order
		}
		b.Queue(insertMembers, types, ids, orders)
	}
	for i := range d.tables {
		queueTable(b, &d.tables[i], sql[i], partition)
	}
	if len(d.parked) > 0 {
		queueParked(b, d.parked, partition, codeVersion)
	}
	if n := len(d.quarantined); n > 0 {
		columns := make([][]string, 5)
		for _, q := range d.quarantined {
			for i, v := range []string{q.aggregate.Type, q.aggregate.ID, q.order, string(q.verdict), clean(q.reason)} {
				columns[i] = append(columns[i], v)
			}
		}
		b.Queue(upsertQuarantine, partition, columns[0], columns[1], columns[2], columns[3], columns[4])
	}
}

func queueParked(b *pgx.Batch, parked []parkedFact, partition int32, codeVersion int) {
	var offsets, versions []int64
	columns := make([][]string, 10)
	for _, p := range parked {
		offsets, versions = append(offsets, p.ref.Offset), append(versions, p.token.Version)
		for i, v := range []string{
			p.reference(partition), p.ref.Topic, p.ref.TopicID, p.order, p.token.Type, p.token.ID, p.token.Epoch, p.token.EventID,
			string(p.verdict), clean(p.reason),
		} {
			columns[i] = append(columns[i], v)
		}
	}
	b.Queue(insertParked, partition, codeVersion, columns[0], columns[1], columns[2], offsets, columns[3], columns[4], columns[5],
		columns[6], versions, columns[7], columns[8], columns[9])
}

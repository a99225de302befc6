package projection

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// statements are the bulk statements of one table. Each takes one array per
// column.
type statements struct {
	upsert, remove string
}

var columnTypes = map[fold.ColumnType]string{
	fold.TypeText: "text", fold.TypeInt: "bigint", fold.TypeBool: "boolean", fold.TypeTime: "timestamptz", fold.TypeJSON: "text",
}

// statementsOf writes the SQL of a table.
func statementsOf(t *fold.Spec) statements {
	var names, keys, sets, arrays, aliases, selected, match, keyArrays, keyAliases []string
	for i, col := range t.All {
		alias := fmt.Sprintf("u%d", i)
		names, aliases = append(names, col.Name), append(aliases, alias)
		arrays = append(arrays, fmt.Sprintf("$%d::%s[]", i+1, columnTypes[col.Type]))
		if col.Type == fold.TypeJSON {
			alias += "::jsonb"
		}
		selected = append(selected, alias)
		switch {
		case col.Key:
			keys = append(keys, col.Name)
			keyArrays = append(keyArrays, fmt.Sprintf("$%d::%s[]", len(keys), columnTypes[col.Type]))
			keyAliases = append(keyAliases, fmt.Sprintf("k%d", len(keys)))
			match = append(match, fmt.Sprintf("t.%s = k.k%d", col.Name, len(keys)))
		case col.Sum:
			sets = append(sets, fmt.Sprintf("%s = t.%s + excluded.%s", col.Name, col.Name, col.Name))
		default:
			sets = append(sets, fmt.Sprintf("%s = excluded.%s", col.Name, col.Name))
		}
	}
	conflict := "DO NOTHING" // a log entry is the same for ever
	if t.Kind != fold.KindLog && len(sets) > 0 {
		conflict = "DO UPDATE SET " + strings.Join(sets, ", ")
	}
	return statements{
		upsert: fmt.Sprintf("INSERT INTO %s AS t (%s) SELECT %s FROM unnest(%s) AS u(%s) ON CONFLICT (%s) %s",
			t.Name, strings.Join(names, ", "), strings.Join(selected, ", "), strings.Join(arrays, ", "),
			strings.Join(aliases, ", "), strings.Join(keys, ", "), conflict),
		remove: fmt.Sprintf("DELETE FROM %s AS t USING unnest(%s) AS k(%s) WHERE %s",
			t.Name, strings.Join(keyArrays, ", "), strings.Join(keyAliases, ", "), strings.Join(match, " AND ")),
	}
}

// queueTable adds the statements that write the difference of one table.
func queueTable(b *pgx.Batch, t *fold.TableDelta, sql statements, partition int32) {
	if len(t.Deletes) > 0 {
		var keys []fold.Column
		for _, col := range t.Spec.Columns {
			if col.Key {
				keys = append(keys, col)
			}
		}
		b.Queue(sql.remove, arraysOf(keys, t.Spec.Columns, values(t.Deletes))...)
	}
	rows := t.Rows
	if len(t.Upserts) > 0 {
		rows = values(t.Upserts)
	}
	if len(rows) == 0 {
		return
	}
	if t.Spec.Kind != fold.KindSums {
		b.Queue(sql.upsert, arraysOf(t.Spec.All, t.Spec.All, rows)...)
		return
	}
	partitions := make([]int64, len(rows))
	for i := range partitions {
		partitions[i] = int64(partition)
	}
	b.Queue(sql.upsert, append([]any{partitions}, arraysOf(t.Spec.Columns, t.Spec.Columns, rows)...)...)
}

func values(rows map[string]fold.Row) []fold.Row {
	all := make([]fold.Row, 0, len(rows))
	for _, r := range rows {
		all = append(all, r)
	}
	return all
}

// arraysOf turns rows that have the columns of all into one array for each
// wanted column.
func arraysOf(wanted, all []fold.Column, rows []fold.Row) []any {
	arrays := make([]any, 0, len(wanted))
	for _, want := range wanted {
		for i, col := range all {
			if col.Name != want.Name {
				continue
			}
			switch col.Type {
			case fold.TypeText, fold.TypeJSON:
				arrays = append(arrays, arrayOf[string](rows, i))
			case fold.TypeInt:
				arrays = append(arrays, arrayOf[int64](rows, i))
			case fold.TypeBool:
				arrays = append(arrays, arrayOf[bool](rows, i))
			case fold.TypeTime:
				arrays = append(arrays, arrayOf[time.Time](rows, i))
			}
		}
	}
	return arrays
}

// arrayOf takes one column of the rows; nil is NULL.
func arrayOf[T any](rows []fold.Row, i int) []*T {
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
func queueDelta(b *pgx.Batch, d *fold.Delta, sql []statements, partition int32, codeVersion int) {
	if n := len(d.States); n > 0 {
		orders, states, applied := make([]string, n), make([]string, n), make([]string, n)
		for i, s := range d.States {
			orders[i], states[i], applied[i] = s.Order, string(s.Encoded.State), string(s.Encoded.Applied)
		}
		b.Queue(upsertStates, partition, orders, states, applied)
	}
	if n := len(d.Members); n > 0 {
		types, ids, orders := make([]string, n), make([]string, n), make([]string, n)
		for i, m := range d.Members {
			types[i], ids[i], orders[i] = m.Aggregate.Type, m.Aggregate.ID, m.Order
		}
		b.Queue(insertMembers, types, ids, orders)
	}
	for i := range d.Tables {
		queueTable(b, &d.Tables[i], sql[i], partition)
	}
	if len(d.Parked) > 0 {
		queueParked(b, d.Parked, partition, codeVersion)
	}
	if n := len(d.Quarantined); n > 0 {
		columns := make([][]string, 5)
		for _, q := range d.Quarantined {
			for i, v := range []string{q.Aggregate.Type, q.Aggregate.ID, q.Order, string(q.Verdict), fold.Clean(q.Reason)} {
				columns[i] = append(columns[i], v)
			}
		}
		b.Queue(upsertQuarantine, partition, columns[0], columns[1], columns[2], columns[3], columns[4])
	}
}

func queueParked(b *pgx.Batch, parked []fold.ParkedFact, partition int32, codeVersion int) {
	var offsets, versions []int64
	columns := make([][]string, 10)
	for _, p := range parked {
		offsets, versions = append(offsets, p.Ref.Offset), append(versions, p.Token.Version)
		for i, v := range []string{
			p.Reference(partition), p.Ref.Topic, p.Ref.TopicID, p.Order, p.Token.Type, p.Token.ID, p.Token.Epoch, p.Token.EventID,
			string(p.Verdict), fold.Clean(p.Reason),
		} {
			columns[i] = append(columns[i], v)
		}
	}
	b.Queue(insertParked, partition, codeVersion, columns[0], columns[1], columns[2], offsets, columns[3], columns[4], columns[5],
		columns[6], versions, columns[7], columns[8], columns[9])
}

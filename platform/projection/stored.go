package projection

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// All returns the stored rows of every table, as [Memory.All] does: what a copy
// is compared by in tests. Sums are added up over partitions. It reads
// everything at once; it is not for answering queries.
func (p *Projection[S]) All(ctx context.Context) (map[string][]map[string]any, error) {
	all := map[string][]map[string]any{}
	for _, spec := range p.view.specs() {
		rows, err := p.pool.Query(ctx, selectAll(spec))
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", spec.name, err)
		}
		columns, stored := spec.shown(), map[string]row{}
		for rows.Next() {
			values, err := rows.Values()
			if err != nil {
				rows.Close()
				return nil, fmt.Errorf("read table %s: %w", spec.name, err)
			}
			for i, v := range values {
				if at, ok := v.(time.Time); ok {
					values[i] = at.UTC()
				}
			}
			r := row(values)
			if spec.kind != kindSums || !spec.empty(r) {
				stored[keyOf(columns, r)] = r
			}
		}
		if err := rows.Err(); err != nil {
			return nil, fmt.Errorf("read table %s: %w", spec.name, err)
		}
		all[spec.name] = spec.named(stored)
	}
	return all, nil
}

// selectAll reads the table in the types that rows have.
func selectAll(t *tableSpec) string {
	var wanted, keys []string
	for _, col := range t.shown() {
		name := pgx.Identifier{col.name}.Sanitize()
		switch {
		case col.sum:
			wanted = append(wanted, fmt.Sprintf("coalesce(sum(%s), 0)::bigint", name))
			continue
		case col.typ == typeInt:
			wanted = append(wanted, name+"::bigint")
		case col.typ == typeJSON:
			wanted = append(wanted, name+"::text")
		default:
			wanted = append(wanted, name)
		}
		keys = append(keys, name)
	}
	sql := fmt.Sprintf("SELECT %s FROM %s", strings.Join(wanted, ", "), t.name)
	if t.kind == kindSums && len(keys) > 0 {
		sql += " GROUP BY " + strings.Join(keys, ", ")
	}
	return sql
}

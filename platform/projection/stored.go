package projection

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// All returns the stored rows of every table, as [fold.Memory.All] does: what a copy
// is compared by in tests. Sums are added up over partitions. It reads
// everything at once; it is not for answering queries.
func (p *Projection[S]) All(ctx context.Context) (map[string][]map[string]any, error) {
	all := map[string][]map[string]any{}
	for _, spec := range p.view.Specs() {
		rows, err := p.pool.Query(ctx, selectAll(spec))
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", spec.Name, err)
		}
		columns, stored := spec.Shown(), map[string]fold.Row{}
		for rows.Next() {
			values, err := rows.Values()
			if err != nil {
				rows.Close()
				return nil, fmt.Errorf("read table %s: %w", spec.Name, err)
			}
			for i, v := range values {
				if at, ok := v.(time.Time); ok {
					values[i] = at.UTC()
				}
			}
			r := fold.Row(values)
			if spec.Kind != fold.KindSums || !spec.Empty(r) {
				stored[fold.KeyOf(columns, r)] = r
			}
		}
		if err := rows.Err(); err != nil {
			return nil, fmt.Errorf("read table %s: %w", spec.Name, err)
		}
		all[spec.Name] = spec.Named(stored)
	}
	return all, nil
}

// selectAll reads the table in the types that rows have.
func selectAll(t *fold.Spec) string {
	var wanted, keys []string
	for _, col := range t.Shown() {
		name := pgx.Identifier{col.Name}.Sanitize()
		switch {
		case col.Sum:
			wanted = append(wanted, fmt.Sprintf("coalesce(sum(%s), 0)::bigint", name))
			continue
		case col.Type == fold.TypeInt:
			wanted = append(wanted, name+"::bigint")
		case col.Type == fold.TypeJSON:
			wanted = append(wanted, name+"::text")
		default:
			wanted = append(wanted, name)
		}
		keys = append(keys, name)
	}
	sql := fmt.Sprintf("SELECT %s FROM %s", strings.Join(wanted, ", "), t.Name)
	if t.Kind == fold.KindSums && len(keys) > 0 {
		sql += " GROUP BY " + strings.Join(keys, ", ")
	}
	return sql
}

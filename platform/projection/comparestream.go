package projection

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// cursor reads the rows of a table in the order of their orders, a page at a
// time. "C" is how Go compares strings.
type cursor struct {
	tx   pgx.Tx
	name string
	page []fold.Row // the first column is the order
	end  bool
}

func openCursor(ctx context.Context, tx pgx.Tx, name, selects, from string) (*cursor, error) {
	_, err := tx.Exec(ctx, fmt.Sprintf(`DECLARE %s NO SCROLL CURSOR FOR SELECT %s FROM %s ORDER BY order_id COLLATE "C"`, name, selects, from))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", from, err)
	}
	return &cursor{tx: tx, name: name}, nil
}

// peek returns the order of the next row.
func (c *cursor) peek(ctx context.Context) (order string, ok bool, err error) {
	if len(c.page) == 0 && !c.end {
		rows, err := c.tx.Query(ctx, fmt.Sprintf("FETCH %d FROM %s", comparePage, c.name))
		if err != nil {
			return "", false, fmt.Errorf("read a page: %w", err)
		}
		if c.page, err = pgx.CollectRows(rows, scanRow); err != nil {
			return "", false, fmt.Errorf("read a page: %w", err)
		}
		c.end = len(c.page) < comparePage
	}
	if len(c.page) == 0 {
		return "", false, nil
	}
	return c.page[0][0].(string), true, nil
}

// take returns the rows of one order, which must be the next one here.
func (c *cursor) take(ctx context.Context, id string) ([]fold.Row, error) {
	var taken []fold.Row
	for {
		next, ok, err := c.peek(ctx)
		if err != nil || !ok || next != id {
			return taken, err
		}
		taken, c.page = append(taken, c.page[0]), c.page[1:]
	}
}

func scanRow(r pgx.CollectableRow) (fold.Row, error) {
	values, err := r.Values()
	for i, v := range values {
		if at, ok := v.(time.Time); ok {
			values[i] = at.UTC()
		}
	}
	return values, err
}

// selects writes the columns of a table as the kernel's types, the order first.
func selects(columns []fold.Column) string {
	names := []string{"order_id"}
	for _, col := range columns {
		names = append(names, col.Name+"::"+columnTypes[col.Type])
	}
	return strings.Join(names, ", ")
}

const stateColumns = "order_id, partition::bigint, state::text, applied::text"

// sources of one comparison, all in one snapshot.
type cursors struct {
	newState, oldState *cursor
	tables             map[string][2]*cursor // new, old
}

func (c *comparison[S]) open(ctx context.Context, tx pgx.Tx) (*cursors, error) {
	quote := func(schema, table string) string { return pgx.Identifier{schema, table}.Sanitize() }
	all := &cursors{tables: map[string][2]*cursor{}}
	var err error
	if all.newState, err = openCursor(ctx, tx, "new_state", stateColumns, quote(c.to.own.schema, "state")); err != nil {
		return nil, err
	}
	if all.oldState, err = openCursor(ctx, tx, "old_state", stateColumns, quote(c.base.schema, "state")); err != nil {
		return nil, err
	}
	for i, spec := range c.p.view.Specs() {
		if spec.Kind == fold.KindSums {
			continue
		}
		var both [2]*cursor
		if both[0], err = openCursor(ctx, tx, fmt.Sprintf("new_%d", i), selects(spec.All), quote(c.to.own.schema, spec.Name)); err != nil {
			return nil, err
		}
		if shared, ok := c.shared[spec.Name]; ok {
			if both[1], err = openCursor(ctx, tx, fmt.Sprintf("old_%d", i), selects(shared), quote(c.base.schema, spec.Name)); err != nil {
				return nil, err
			}
		}
		all.tables[spec.Name] = both
	}
	return all, nil
}

// stream examines every order of both generations.
func (c *comparison[S]) stream(ctx context.Context, tx pgx.Tx) error {
	all, err := c.open(ctx, tx)
	if err != nil {
		return err
	}
	for {
		pr, err := c.next(ctx, all)
		if err != nil || pr == nil {
			return err
		}
		full := len(c.apart) >= maxApart
		if err := c.examine(pr); err != nil {
			return err
		}
		if full && len(c.apart) > maxApart {
			delete(c.apart, pr.id)
			c.skipped++
		}
		if c.done++; c.progress != nil && c.done%comparePage == 0 {
			c.progress(c.done, max(c.total, c.done))
		}
	}
}

// next merges the cursors: the order with the least id that any of them has.
func (c *comparison[S]) next(ctx context.Context, all *cursors) (*pair[S], error) {
	every := []*cursor{all.newState, all.oldState}
	for _, both := range all.tables {
		every = append(every, both[0])
		if both[1] != nil {
			every = append(every, both[1])
		}
	}
	least, found := "", false
	for _, cur := range every {
		id, ok, err := cur.peek(ctx)
		if err != nil {
			return nil, err
		}
		if ok && (!found || id < least) {
			least, found = id, true
		}
	}
	if !found {
		return nil, nil
	}
	pr := &pair[S]{id: least, rows: map[string]*tablePair{}}
	for i, cur := range []*cursor{all.newState, all.oldState} {
		rows, err := cur.take(ctx, least)
		if err != nil {
			return nil, err
		}
		if len(rows) > 0 {
			pr.state(i, rows[0])
		}
	}
	for name, both := range all.tables {
		t := &tablePair{}
		var err error
		if t.new, err = takeRows(ctx, both[0], least); err != nil {
			return nil, err
		}
		if both[1] != nil {
			if t.old, err = takeRows(ctx, both[1], least); err != nil {
				return nil, err
			}
		}
		pr.rows[name] = t
	}
	return pr, nil
}

func (pr *pair[S]) state(side int, r fold.Row) {
	s := &stateOf{state: []byte(r[2].(string)), applied: []byte(r[3].(string))}
	if side == 0 {
		pr.new, pr.partition = s, int32(r[1].(int64))
	} else {
		pr.old = s
	}
}

// takeRows takes the rows of an order, without the order that was put first.
func takeRows(ctx context.Context, cur *cursor, id string) ([]fold.Row, error) {
	rows, err := cur.take(ctx, id)
	for i := range rows {
		rows[i] = rows[i][1:]
	}
	return rows, err
}

// again looks at orders that were at other versions, each time in a new
// snapshot, until all were seen at equal ones or patience ends.
func (c *comparison[S]) again(ctx context.Context, patience time.Duration) error {
	for deadline := time.Now().Add(patience); len(c.apart) > 0 && time.Now().Before(deadline); {
		if err := rest(ctx, 200*time.Millisecond); err != nil {
			return err
		}
		ids := slices.Sorted(maps.Keys(c.apart))
		for page := range slices.Chunk(ids, comparePage) {
			if err := c.p.inSnapshot(ctx, func(tx pgx.Tx) error { return c.lookAt(ctx, tx, page) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// lookAt examines some orders.
func (c *comparison[S]) lookAt(ctx context.Context, tx pgx.Tx, ids []string) error {
	pairs := map[string]*pair[S]{}
	for _, id := range ids {
		pairs[id] = &pair[S]{id: id, rows: map[string]*tablePair{}}
		for name := range c.shared {
			pairs[id].rows[name] = &tablePair{}
		}
	}
	each := func(schema, table, columns string, take func(*pair[S], fold.Row)) error {
		rows, err := tx.Query(ctx, "SELECT "+columns+" FROM "+pgx.Identifier{schema, table}.Sanitize()+" WHERE order_id = ANY($1::text[])", ids)
		if err != nil {
			return fmt.Errorf("look at orders: %w", err)
		}
		found, err := pgx.CollectRows(rows, scanRow)
		if err != nil {
			return fmt.Errorf("look at orders: %w", err)
		}
		for _, r := range found {
			take(pairs[r[0].(string)], r)
		}
		return nil
	}
	for side, schema := range []string{c.to.own.schema, c.base.schema} {
		if err := each(schema, "state", stateColumns, func(pr *pair[S], r fold.Row) { pr.state(side, r) }); err != nil {
			return err
		}
		for _, spec := range c.p.view.Specs() {
			both, ok := c.shared[spec.Name]
			if !ok {
				continue
			}
			columns := spec.All
			if side == 1 {
				columns = both
			}
			err := each(schema, spec.Name, selects(columns), func(pr *pair[S], r fold.Row) {
				if t := pr.rows[spec.Name]; side == 0 {
					t.new = append(t.new, r[1:])
				} else {
					t.old = append(t.old, r[1:])
				}
			})
			if err != nil {
				return err
			}
		}
	}
	for _, id := range ids {
		how, err := versionsApart(pairs[id].new, pairs[id].old)
		if err != nil {
			return err
		}
		if c.apart[id] = how; how == "" {
			delete(c.apart, id)
			c.report.OrdersCompared++
			for _, spec := range c.p.view.Specs() {
				if both, ok := c.shared[spec.Name]; ok {
					c.rows(id, spec, both, pairs[id].rows[spec.Name])
				}
			}
		}
	}
	return nil
}

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

// A comparison goes through two generations order by order, in the order of
// their ids, in one snapshot. It holds a page of each table and never a table.
// Where both applied the same versions they must show the same; where not, the
// order is looked at again later, in snapshots of its own.

const (
	comparePage = 1000
	// maxApart bounds the orders that are looked at again.
	maxApart = 10_000
)

// comparison is one run of it.
type comparison[S any] struct {
	p        *Projection[S]
	to       *Projection[S]
	base     listed
	report   *Report
	expect   func(table, field string) bool
	progress func(done, total int64)

	shared  map[string][]fold.Column // per table of rows and logs, the columns both have
	sums    *sumCheck
	apart   map[string]string // orders at other versions, and how
	stored  int64             // fields that are not what this code derives
	tables  map[string]map[string]bool
	done    int64
	total   int64
	skipped int64
}

// expectations matches what may differ: a table, a column, or a place within a
// document.
func expectations(declared []fold.Expected, asked []string) func(table, field string) bool {
	all := slices.Clone(asked)
	for _, e := range declared {
		if len(e.Columns) == 0 {
			all = append(all, e.Table)
		}
		for _, col := range e.Columns {
			all = append(all, e.Table+"."+col)
		}
	}
	return func(table, field string) bool {
		full := table
		if field != "" {
			full += "." + field
		}
		return slices.ContainsFunc(all, func(e string) bool { return full == e || strings.HasPrefix(full, e+".") })
	}
}

func (c *comparison[S]) run(ctx context.Context, patience time.Duration) error {
	c.apart, c.tables = map[string]string{}, map[string]map[string]bool{}
	c.report.Expected = map[string]int64{}
	err := c.p.inSnapshot(ctx, func(tx pgx.Tx) error {
		if err := c.shape(ctx, tx); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, fmt.Sprintf("SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = '%s.state'::regclass",
			pgx.Identifier{c.base.schema}.Sanitize())).Scan(&c.total); err != nil {
			return err
		}
		c.sums = newSumCheck(c.p.view.Specs())
		if err := c.stream(ctx, tx); err != nil {
			return err
		}
		return c.checkSums(ctx, tx)
	})
	if err != nil {
		return err
	}
	if err := c.again(ctx, patience); err != nil {
		return err
	}
	c.conclude()
	return nil
}

// shape finds out which columns both generations have. A table or column that
// only one has cannot differ.
func (c *comparison[S]) shape(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, "SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = $1", c.base.schema)
	if err != nil {
		return fmt.Errorf("look at the tables: %w", err)
	}
	has := map[string]bool{}
	var table, name string
	if _, err := pgx.ForEachRow(rows, []any{&table, &name}, func() error { has[table+"."+name] = true; return nil }); err != nil {
		return fmt.Errorf("look at the tables: %w", err)
	}
	c.shared = map[string][]fold.Column{}
	for _, spec := range c.p.view.Specs() {
		if spec.Kind == fold.KindSums {
			continue
		}
		var both []fold.Column
		keyed := true
		for _, col := range spec.All {
			if has[spec.Name+"."+col.Name] {
				both = append(both, col)
			} else {
				keyed = keyed && !col.Key
			}
		}
		if keyed && len(both) > 0 {
			c.shared[spec.Name] = both
		}
	}
	return nil
}

// pair is one order as both generations have it.
type pair[S any] struct {
	id        string
	partition int32
	new, old  *stateOf
	rows      map[string]*tablePair // by table
}

type stateOf struct{ state, applied []byte }

// tablePair are the rows of one order in one table: all columns of the new
// generation, the shared ones of the old.
type tablePair struct{ new, old []fold.Row }

// examine judges one order.
func (c *comparison[S]) examine(pr *pair[S]) error {
	if pr.new != nil {
		if err := c.derived(pr); err != nil {
			return err
		}
	} else {
		for table, t := range pr.rows {
			if len(t.new) > 0 {
				c.foreign(pr.id, table)
			}
		}
	}
	how, err := versionsApart(pr.new, pr.old)
	if err != nil {
		return err
	}
	if how != "" {
		c.apart[pr.id] = how
		return nil
	}
	delete(c.apart, pr.id)
	c.report.OrdersCompared++
	for _, spec := range c.p.view.Specs() {
		if both, ok := c.shared[spec.Name]; ok {
			c.rows(pr.id, spec, both, pr.rows[spec.Name])
		}
	}
	return nil
}

func (c *comparison[S]) foreign(id, table string) {
	if c.stored++; c.stored <= maxNamed {
		c.report.refuse(checkStored, "order "+id, "table %s has rows of an order that the generation does not know", table)
	}
}

// derived compares stored rows with what this code makes of the state.
func (c *comparison[S]) derived(pr *pair[S]) error {
	tables, err := c.derive(pr.id, pr.new)
	if err != nil {
		return err
	}
	for i, spec := range c.p.view.Specs() {
		if i >= len(tables) {
			break // logs need nothing but their fact
		}
		if spec.Kind == fold.KindSums {
			for _, r := range tables[i] {
				c.sums.add(spec, pr.partition, r, 1)
			}
			continue
		}
		stored := map[string]fold.Row{}
		if t := pr.rows[spec.Name]; t != nil {
			for _, r := range t.new {
				stored[fold.KeyOf(spec.All, r)] = r
			}
		}
		for key, r := range tables[i] {
			for _, field := range fieldsApart(spec.All, spec.All, stored[key], r) {
				if c.stored++; c.stored <= maxNamed {
					c.report.refuse(checkStored, "order "+pr.id, "table %s: %s is stored otherwise than this code derives it from the state", spec.Name, nameOf(field.name))
				}
			}
			delete(stored, key)
		}
		for range stored {
			if c.stored++; c.stored <= maxNamed {
				c.report.refuse(checkStored, "order "+pr.id, "table %s: a row is stored that this code does not derive from the state", spec.Name)
			}
		}
	}
	return nil
}

func nameOf(field string) string {
	if field == "" {
		return "a row"
	}
	return field
}

// derive runs today's code over a stored state, and survives it.
func (c *comparison[S]) derive(id string, s *stateOf) (tables []map[string]fold.Row, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("view %s panicked over the state of order %s: %v", c.p.view.Name, id, cause)
		}
	}()
	o, err := fold.OpenOrder[S](id, fold.Encoded{State: s.state, Applied: s.applied})
	if err != nil {
		return nil, err
	}
	return c.p.engine.Derive(o), nil
}

// versionsApart says how the versions of an order differ, or "".
func versionsApart(new, old *stateOf) (string, error) {
	var docs [2]fold.Versions
	for i, s := range []*stateOf{new, old} {
		if s == nil {
			continue
		}
		var err error
		if docs[i], err = fold.OpenVersions(s.applied); err != nil {
			return "", err
		}
	}
	keys := map[string]bool{}
	for _, doc := range docs {
		for key := range doc.Aggregates {
			keys[key] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		var at [2]fold.Applied
		for i, doc := range docs {
			if record := doc.Aggregates[key]; record != nil {
				at[i] = *record
			}
		}
		a, b := at[0], at[1]
		switch n := min(len(a.Recent), len(b.Recent)); {
		case a.Version != b.Version || a.Epoch != b.Epoch:
			return fmt.Sprintf("%s is at version %d%s here and at %d%s there", key, a.Version, parkedWord(a), b.Version, parkedWord(b)), nil
		case string(a.Recent[len(a.Recent)-n:]) != string(b.Recent[len(b.Recent)-n:]):
			return key + " has the same version here and there, of other events", nil
		}
	}
	return "", nil
}

func parkedWord(a fold.Applied) string {
	if a.Parked == "" {
		return ""
	}
	return " (parked: " + string(a.Parked) + ")"
}

// rows compares what both generations show of one order in one table.
func (c *comparison[S]) rows(id string, spec *fold.Spec, both []fold.Column, t *tablePair) {
	if t == nil {
		return
	}
	old := map[string]fold.Row{}
	for _, r := range t.old {
		old[fold.KeyOf(both, r)] = r
	}
	named := func(key string, fields []fieldApart) {
		for _, f := range fields {
			c.differ(Difference{Order: id, Table: spec.Name, Key: key, Field: f.name, Base: f.base, Value: f.value})
		}
	}
	for _, r := range t.new {
		c.report.RowsCompared++
		key := fold.KeyOf(spec.All, r)
		named(keyText(spec.All, r), fieldsApart(both, spec.All, old[key], r))
		delete(old, key)
	}
	for _, r := range old {
		c.report.RowsCompared++
		named(keyText(both, r), []fieldApart{{base: "(row)"}})
	}
}

// differ notes a field that differs.
func (c *comparison[S]) differ(d Difference) {
	if c.expect(d.Table, d.Field) {
		name := d.Table
		if column, _, _ := strings.Cut(d.Field, "."); column != "" {
			name += "." + column
		}
		c.report.Expected[name]++
		return
	}
	c.report.Differing++
	if c.tables[d.Table] == nil {
		c.tables[d.Table] = map[string]bool{}
	}
	if len(c.tables[d.Table]) < maxApart {
		c.tables[d.Table][d.Order] = true
	}
	if len(c.report.Differences) < maxNamed {
		if c.personal(d.Table, d.Field) {
			d.Base, d.Value = "(personal data)", "(personal data)"
		}
		c.report.Differences = append(c.report.Differences, d)
	}
}

// personal reports whether a field holds personal data, or is around some.
func (c *comparison[S]) personal(table, field string) bool {
	return c.p.contract.KeepsPersonal(table, field)
}

// conclude turns what was found into reasons to refuse.
func (c *comparison[S]) conclude() {
	for _, table := range slices.Sorted(maps.Keys(c.tables)) {
		c.report.refuse(checkRows, "table "+table, "%d orders differ at equal versions", len(c.tables[table]))
	}
	if c.stored > maxNamed {
		c.report.refuse(checkStored, "others", "%d more fields are stored otherwise than this code derives them", c.stored-maxNamed)
	}
	c.report.OrdersApart = int64(len(c.apart)) + c.skipped
	named := 0
	for _, id := range slices.Sorted(maps.Keys(c.apart)) {
		if named++; named > maxNamed {
			c.report.refuse(checkVersions, "others", "%d more orders were never seen at equal versions", c.report.OrdersApart-maxNamed)
			break
		}
		c.report.refuse(checkVersions, "order "+id, "never seen at equal versions: %s", c.apart[id])
	}
}

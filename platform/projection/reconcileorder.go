package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// What is stored of an order is compared with what its owners' journals make of
// it at the versions that are applied here: state, rows and log entries. Versions
// up to there never change in a journal, and what is stored is read in one
// snapshot, so an order that moves meanwhile is compared as it was.

// storedOrder is one order in one snapshot.
type storedOrder struct {
	id     string
	bytes  *stateOf              // nil if there is no state
	tables []map[string]fold.Row // per table and log of the view, by key; nil for sums
}

// Pseudo tables of differences.
const (
	tableState   = "state"
	tableApplied = "applied"
)

const (
	pageOfStates = `SELECT order_id, state, applied FROM state WHERE order_id > $1 ORDER BY order_id LIMIT $2`
	someStates   = `SELECT order_id, state, applied FROM state WHERE order_id = ANY($1::text[])`
	skipsOf      = `SELECT event_id FROM tidemark.skip WHERE name = $1 AND order_id = $2`
	maxStrayRow  = 10_000 // rows of orders without a state, of one page
)

// storedPage reads the orders behind one, and the rows between: also those of
// orders that have no state. It goes on behind to, unless it was the last one.
func (p *Projection[S]) storedPage(ctx context.Context, behind string, n int) (page []*storedOrder, to string, last bool, err error) {
	err = p.inSnapshot(ctx, func(tx pgx.Tx) error {
		found, err := p.statesOf(ctx, tx, pageOfStates, behind, n)
		if err != nil {
			return err
		}
		if last = len(found) < n; !last {
			if err := tx.QueryRow(ctx, "SELECT max(id) FROM unnest($1::text[]) AS u(id)", slices.Collect(maps.Keys(found))).Scan(&to); err != nil {
				return err
			}
		}
		page, err = p.rowsOf(ctx, tx, found, "order_id > $1 AND ($2 = '' OR order_id <= $2) LIMIT "+fmt.Sprint(maxStrayRow+n*100), behind, to)
		return err
	})
	return page, to, last, err
}

// storedSome reads some orders; those of which nothing is stored are left out.
func (p *Projection[S]) storedSome(ctx context.Context, ids []string) (page []*storedOrder, err error) {
	err = p.inSnapshot(ctx, func(tx pgx.Tx) error {
		found, err := p.statesOf(ctx, tx, someStates, ids)
		if err != nil {
			return err
		}
		page, err = p.rowsOf(ctx, tx, found, "order_id = ANY($1::text[])", ids)
		return err
	})
	return page, err
}

func (p *Projection[S]) statesOf(ctx context.Context, tx pgx.Tx, sql string, args ...any) (map[string]*storedOrder, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read states: %w", err)
	}
	found := map[string]*storedOrder{}
	var id string
	var state, versions []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &state, &versions}, func() error {
		o := p.storedAs(found, id)
		o.bytes = &stateOf{slices.Clone(state), slices.Clone(versions)}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read states: %w", err)
	}
	return found, nil
}

func (p *Projection[S]) storedAs(found map[string]*storedOrder, id string) *storedOrder {
	o := found[id]
	if o == nil {
		o = &storedOrder{id: id, tables: make([]map[string]fold.Row, len(p.view.Specs()))}
		for i, spec := range p.view.Specs() {
			if spec.Kind != fold.KindSums {
				o.tables[i] = map[string]fold.Row{}
			}
		}
		found[id] = o
	}
	return o
}

// rowsOf adds the rows that a condition picks, and the log entries of the orders.
func (p *Projection[S]) rowsOf(ctx context.Context, tx pgx.Tx, found map[string]*storedOrder, where string, args ...any) ([]*storedOrder, error) {
	var types, ids []string
	for _, o := range found {
		doc, err := fold.OpenVersions(o.bytes.applied)
		if err != nil {
			return nil, err
		}
		for key := range doc.Aggregates {
			a := aggregateOf(key)
			types, ids = append(types, a.Type), append(ids, a.ID)
		}
	}
	for i, spec := range p.view.Specs() {
		sql, with := "", args
		switch spec.Kind {
		case fold.KindSums:
			continue
		case fold.KindRows:
			sql = fmt.Sprintf("SELECT %s FROM %s WHERE %s", selects(spec.All), spec.Name, where)
		case fold.KindLog:
			sql = fmt.Sprintf(`SELECT %s FROM %s JOIN (SELECT DISTINCT of_type, of_id FROM unnest($1::text[], $2::text[]) AS u(of_type, of_id)) u
				ON aggregate_type = u.of_type AND aggregate_id = u.of_id`, selects(spec.All), spec.Name)
			with = []any{types, ids}
		}
		rows, err := tx.Query(ctx, sql, with...)
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", spec.Name, err)
		}
		all, err := pgx.CollectRows(rows, scanRow)
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", spec.Name, err)
		}
		for _, r := range all {
			id := r[0].(string)
			if spec.Kind == fold.KindLog && found[id] == nil {
				continue
			}
			p.storedAs(found, id).tables[i][p.rowKey(spec, r[1:])] = r[1:]
		}
	}
	page := slices.Collect(maps.Values(found))
	slices.SortFunc(page, func(a, b *storedOrder) int { return strings.Compare(a.id, b.id) })
	return page, nil
}

// rowKey names a row. A log entry is the same in every epoch: a source that
// sends its journal anew does not write it anew.
func (p *Projection[S]) rowKey(spec *fold.Spec, r fold.Row) string {
	columns := spec.All
	if spec.Kind == fold.KindLog {
		columns = slices.DeleteFunc(slices.Clone(columns), func(c fold.Column) bool { return c.Name == "epoch" })
		r = slices.Clone(r)
		at := slices.IndexFunc(spec.All, func(c fold.Column) bool { return c.Name == "epoch" })
		r = slices.Delete(r, at, at+1)
	}
	return fold.KeyOf(columns, r)
}

// judgeOrder compares an order once.
func (p *Projection[S]) judgeOrder(ctx context.Context, o *storedOrder) (v verdictOfOrder, err error) {
	if o.bytes == nil {
		return verdictOfOrder{differences: []Difference{{Order: o.id, Table: tableState, Base: "(row)"}}}, nil
	}
	stored, err := fold.OpenOrder[S](o.id, fold.Encoded{State: o.bytes.state, Applied: o.bytes.applied})
	if err != nil {
		return verdictOfOrder{differences: []Difference{{Order: o.id, Table: tableState, Value: "cannot be decoded"}}}, nil
	}
	var facts []event.Fact
	for _, key := range slices.Sorted(maps.Keys(stored.Applied)) {
		record := stored.Applied[key]
		some, err := p.historyTo(ctx, o.id, aggregateOf(key), record.Version)
		if err != nil {
			return v, err
		}
		if n := int64(len(some)); n < record.Version {
			v.differences = append(v.differences, Difference{Order: o.id, Table: tableApplied, Key: key, Base: fmt.Sprint(n), Value: fmt.Sprint(record.Version)})
		} else if n > 0 {
			if same, known := record.Holds(n, some[n-1].ID); known && !same {
				v.differences = append(v.differences, Difference{Order: o.id, Table: tableApplied, Key: key, Field: "event", Base: some[n-1].ID, Value: "another event"})
			}
		}
		facts = append(facts, some...)
	}
	if len(v.differences) > 0 {
		return v, nil
	}
	v, err = p.judgeFacts(ctx, o, stored, facts, nil)
	if err != nil || len(v.differences) == 0 {
		return v, err
	}
	// A fact that was given up folds nothing here, whatever today's code makes of it.
	rows, err := p.pool.Query(ctx, skipsOf, p.view.Name, o.id)
	if err != nil {
		return v, fmt.Errorf("look for skipped facts: %w", err)
	}
	skipped, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(skipped) == 0 {
		return v, err
	}
	return p.judgeFacts(ctx, o, stored, facts, skipped)
}

// judgeFacts compares an order with what its facts, but for those that were given
// up, make of it, and that with what the owners answer.
func (p *Projection[S]) judgeFacts(ctx context.Context, o *storedOrder, stored *fold.Order[S], facts []event.Fact, skipped []string) (verdictOfOrder, error) {
	v, fresh, err := p.compareOrder(o, stored, facts, skipped)
	if err != nil || fresh == nil {
		return v, err
	}
	v.answers, err = p.hearOwners(ctx, stored, fresh, facts, skipped)
	for _, key := range slices.Sorted(maps.Keys(v.answers)) {
		v.differences = append(v.differences, v.answers[key].differences...)
	}
	return v, err
}

// historyTo fetches an aggregate up to a version from its owner.
func (p *Projection[S]) historyTo(ctx context.Context, order string, a event.Aggregate, to int64) (all []event.Fact, err error) {
	for int64(len(all)) < to {
		next := int64(len(all)) + 1
		facts, err := p.cfg.Journal.Events(ctx, a, next, min(to, next+healPage-1))
		if err != nil {
			return nil, fmt.Errorf("fetch from the owner: %w", err)
		}
		for _, f := range facts {
			if f.Key != order || f.Version != int64(len(all))+1 {
				return all, nil
			}
			all = append(all, f)
		}
		if len(facts) == 0 {
			break
		}
	}
	return all, nil
}

// compareOrder folds the facts anew and compares what comes of it, which it
// returns, with what is stored. It is nil if some fact cannot be applied.
func (p *Projection[S]) compareOrder(o *storedOrder, stored *fold.Order[S], facts []event.Fact, skipped []string) (v verdictOfOrder, fresh *fold.Order[S], err error) {
	inputs := make([]fold.Input, len(facts))
	for i, f := range facts {
		if slices.Contains(skipped, f.ID) {
			f.Body = &control.FactVoided{}
		}
		if inputs[i] = (fold.Input{Fact: f}); f.Body == nil {
			inputs[i].Err = errUnreadable
		}
	}
	fresh = fold.NewOrder[S](o.id)
	out, err := p.engine.Run(fresh, inputs)
	if err != nil {
		return v, nil, err
	}
	if len(out.Parked) > 0 {
		first := out.Parked[0]
		return verdictOfOrder{differences: []Difference{{
			Order: o.id, Table: tableApplied, Key: first.Token.Aggregate.String(), Field: "version " + fmt.Sprint(first.Token.Version),
			Base: "cannot be applied: " + brief(first.Reason), Value: "applied",
		}}}, nil, nil
	}
	should, err := fresh.Encode()
	if err != nil {
		return v, nil, err
	}
	if fresh, err = fold.OpenOrder[S](o.id, should); err != nil { // as it reads when it was stored
		return v, nil, err
	}
	if err := p.compareState(o, stored, fresh, should, &v); err != nil {
		return v, nil, err
	}
	tables := p.engine.Derive(fresh)
	for i, spec := range p.view.Specs() {
		if spec.Kind == fold.KindSums {
			continue
		}
		expected := map[string]fold.Row{}
		if spec.Kind == fold.KindRows {
			expected = tables[i]
		} else if at := i - len(p.view.Tables); at < len(out.Logs) {
			for _, r := range out.Logs[at] {
				expected[p.rowKey(spec, r)] = r
			}
		}
		v.rows += int64(len(expected))
		p.compareRows(o.id, spec, o.tables[i], expected, &v)
	}
	return v, fresh, nil
}

func (p *Projection[S]) compareState(o *storedOrder, stored, fresh *fold.Order[S], should fold.Encoded, v *verdictOfOrder) error {
	a, err := json.Marshal(&fresh.State)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	b, err := json.Marshal(&stored.State)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if string(a) == string(b) {
		return nil
	}
	v.expected = should
	for _, f := range documentsApart("", string(a), string(b)) {
		// Values of a state may be personal: the place is enough to look there.
		v.differences = append(v.differences, Difference{Order: o.id, Table: tableState, Field: strings.TrimPrefix(f.name, "."), Base: "(as folded)", Value: "(otherwise)"})
	}
	return nil
}

func (p *Projection[S]) compareRows(id string, spec *fold.Spec, stored, expected map[string]fold.Row, v *verdictOfOrder) {
	differ := func(r fold.Row, fields []fieldApart) {
		for _, f := range fields {
			if spec.Kind == fold.KindLog && f.name == "epoch" {
				continue
			}
			d := Difference{Order: id, Table: spec.Name, Key: keyText(spec.All, r), Field: f.name, Base: f.base, Value: f.value}
			if p.contract.KeepsPersonal(d.Table, d.Field) {
				d.Base, d.Value = masked, masked
			}
			v.differences = append(v.differences, d)
		}
	}
	for key, want := range expected {
		switch got, ok := stored[key]; {
		case !ok:
			differ(want, []fieldApart{{base: "(row)"}})
		default:
			differ(want, fieldsApart(spec.All, spec.All, want, got))
		}
	}
	for key, got := range stored {
		if _, ok := expected[key]; !ok {
			differ(got, []fieldApart{{value: "(row)"}})
		}
	}
}

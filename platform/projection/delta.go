package projection

import "github.com/tidemark-dev/tidemark/platform/event"

// delta is the difference that one batch makes to a partition, summed over its
// orders, ready to be written in bulk.
type delta struct {
	states      []stateRow
	members     []memberRow
	tables      []tableDelta // per table, then per log
	parked      []parkedFact
	quarantined []quarantine
	changes     []Change
	counts      map[Verdict]int
}

type stateRow struct {
	order   string
	encoded encoded
}

type memberRow struct {
	aggregate event.Aggregate
	order     string
}

// tableDelta is what changes in one table: rows to write and keys to delete,
// amounts to add, or rows to append.
type tableDelta struct {
	spec    *tableSpec
	upserts map[string]row
	deletes map[string]row
	rows    []row
}

// Change tells who waits that an order changed: the versions now applied of
// the aggregates that facts came for.
type Change struct {
	Order      string
	Aggregates []AggregateVersion
}

// AggregateVersion is what is applied of one aggregate.
type AggregateVersion struct {
	Aggregate event.Aggregate
	Epoch     string
	Version   int64
	// Parked is the verdict that parked it, or "".
	Parked Verdict
}

func (e *engine[S]) newDelta() *delta {
	d := &delta{counts: map[Verdict]int{}}
	for _, spec := range e.view.specs() {
		d.tables = append(d.tables, tableDelta{spec: spec, upserts: map[string]row{}, deletes: map[string]row{}})
	}
	return d
}

// merge adds what a run did to one order. It is called at most once per order
// and delta, because the differences are against what is stored.
func (d *delta) merge(order string, out *outcome, applied map[string]*applied) {
	for verdict, n := range out.counts {
		d.counts[verdict] += n
	}
	if !out.dirty {
		return
	}
	d.states = append(d.states, stateRow{order, out.encoded})
	for _, a := range out.members {
		d.members = append(d.members, memberRow{a, order})
	}
	d.parked = append(d.parked, out.parked...)
	d.quarantined = append(d.quarantined, out.quarantined...)
	for i := range out.before {
		d.tables[i].diff(out.before[i], out.after[i])
	}
	logs := d.tables[len(d.tables)-len(out.logs):]
	for i := range out.logs {
		logs[i].rows = append(logs[i].rows, out.logs[i]...)
	}
	change := Change{Order: order}
	for key, a := range out.touched {
		record := applied[key]
		change.Aggregates = append(change.Aggregates, AggregateVersion{a, record.Epoch, record.Version, record.Parked})
	}
	d.changes = append(d.changes, change)
}

func (t *tableDelta) diff(before, after map[string]row) {
	if t.spec.kind == kindSums {
		for key, r := range before {
			t.add(key, r, -1)
		}
		for key, r := range after {
			t.add(key, r, 1)
		}
		return
	}
	for key, r := range after {
		if old, ok := before[key]; !ok || !equalRows(old, r) {
			t.upserts[key] = r
		}
	}
	for key, r := range before {
		if _, ok := after[key]; !ok {
			t.deletes[key] = r
		}
	}
}

// add adds amounts under a key; what cancels out leaves no row.
func (t *tableDelta) add(key string, r row, sign int64) {
	total, ok := t.upserts[key]
	if !ok {
		total = append(row(nil), r...)
		for i, col := range t.spec.columns {
			if col.sum {
				total[i] = int64(0)
			}
		}
		t.upserts[key] = total
	}
	t.spec.addTo(total, r, sign)
	if t.spec.empty(total) {
		delete(t.upserts, key)
	}
}

// supersede forgets what waited of the epochs before one that is opened at an
// offset of the topic.
func (d *delta) supersede(source, topic, epoch string, offset int64) {
	kept := d.parked[:0]
	for _, f := range d.parked {
		if f.token.Epoch >= epoch || f.token.Type != source && f.ref.Topic != topic || f.ref.Offset > offset {
			kept = append(kept, f)
		}
	}
	d.parked = kept
}

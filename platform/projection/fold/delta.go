package fold

import "github.com/tidemark-dev/tidemark/platform/event"

// Delta is the difference that one batch makes to a partition, summed over its
// orders, ready to be written in bulk.
type Delta struct {
	States      []StateRow
	Members     []MemberRow
	Tables      []TableDelta // per table, then per log
	Parked      []ParkedFact
	Quarantined []Quarantine
	Changes     []Change
	Counts      map[Verdict]int
}

// StateRow is an order as it is to be stored.
type StateRow struct {
	Order   string
	Encoded Encoded
}

// MemberRow says which order an aggregate belongs to.
type MemberRow struct {
	Aggregate event.Aggregate
	Order     string
}

// TableDelta is what changes in one table: rows to write and keys to delete,
// amounts to add, or rows to append.
type TableDelta struct {
	Spec    *Spec
	Upserts map[string]Row
	Deletes map[string]Row
	Rows    []Row
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

// NewDelta returns one without any difference.
func (e *Engine[S]) NewDelta() *Delta {
	d := &Delta{Counts: map[Verdict]int{}}
	for _, spec := range e.View.Specs() {
		d.Tables = append(d.Tables, TableDelta{Spec: spec, Upserts: map[string]Row{}, Deletes: map[string]Row{}})
	}
	return d
}

// Merge adds what a run did to one order. It is called at most once per order
// and delta, because the differences are against what is stored.
func (d *Delta) Merge(order string, out *Outcome, applied map[string]*Applied) {
	for verdict, n := range out.Counts {
		d.Counts[verdict] += n
	}
	if !out.Dirty {
		return
	}
	d.States = append(d.States, StateRow{order, out.Encoded})
	for _, a := range out.Members {
		d.Members = append(d.Members, MemberRow{a, order})
	}
	d.Parked = append(d.Parked, out.Parked...)
	d.Quarantined = append(d.Quarantined, out.Quarantined...)
	for i := range out.Before {
		d.Tables[i].diff(out.Before[i], out.After[i])
	}
	logs := d.Tables[len(d.Tables)-len(out.Logs):]
	for i := range out.Logs {
		logs[i].Rows = append(logs[i].Rows, out.Logs[i]...)
	}
	change := Change{Order: order}
	for key, a := range out.Touched {
		record := applied[key]
		change.Aggregates = append(change.Aggregates, AggregateVersion{a, record.Epoch, record.Version, record.Parked})
	}
	d.Changes = append(d.Changes, change)
}

func (t *TableDelta) diff(before, after map[string]Row) {
	if t.Spec.Kind == KindSums {
		for key, r := range before {
			t.Add(key, r, -1)
		}
		for key, r := range after {
			t.Add(key, r, 1)
		}
		return
	}
	for key, r := range after {
		if old, ok := before[key]; !ok || !EqualRows(old, r) {
			t.Upserts[key] = r
		}
	}
	for key, r := range before {
		if _, ok := after[key]; !ok {
			t.Deletes[key] = r
		}
	}
}

// Add adds amounts under a key; what cancels out leaves no row.
func (t *TableDelta) Add(key string, r Row, sign int64) {
	total, ok := t.Upserts[key]
	if !ok {
		total = append(Row(nil), r...)
		for i, col := range t.Spec.Columns {
			if col.Sum {
				total[i] = int64(0)
			}
		}
		t.Upserts[key] = total
	}
	t.Spec.AddTo(total, r, sign)
	if t.Spec.Empty(total) {
		delete(t.Upserts, key)
	}
}

// Supersede forgets what waited of the epochs before one that is opened at an
// offset of the topic.
func (d *Delta) Supersede(source, topic, epoch string, offset int64) {
	kept := d.Parked[:0]
	for _, f := range d.Parked {
		if f.Token.Epoch >= epoch || f.Token.Type != source && f.Ref.Topic != topic || f.Ref.Offset > offset {
			kept = append(kept, f)
		}
	}
	d.Parked = kept
}

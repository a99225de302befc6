package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
)

// The gate decides whether a generation may answer in another one's place: it
// must have lost nothing the other has, know no less about its completeness, be
// as fresh, park nothing the other applied, and show the same of the same facts.

// Reasons of errors about generations.
const (
	ReasonGateRefused      = fault.Reason("GATE_REFUSED")
	ReasonOperationRunning = fault.Reason("OPERATION_RUNNING")
)

// Report is what the gate found. It is stored as JSON with its operation.
type Report struct {
	Generation     string           `json:"generation"`
	Base           string           `json:"base"`
	Violations     []Violation      `json:"violations,omitempty"`
	OrdersCompared int64            `json:"orders_compared"`
	RowsCompared   int64            `json:"rows_compared"`
	OrdersApart    int64            `json:"orders_apart"`
	Differing      int64            `json:"differing"`
	Differences    []Difference     `json:"differences,omitempty"`
	Expected       map[string]int64 `json:"expected,omitempty"`
	SumsChecked    []string         `json:"sums_checked,omitempty"`
	Owners         tallies          `json:"owners,omitempty"`
}

// Violation is one thing that stands in the way of a swap.
type Violation struct {
	Check       string `json:"check"`
	Subject     string `json:"subject"`
	Description string `json:"description"`
}

// Difference is a field that two generations show differently at equal versions.
type Difference struct {
	Order string `json:"order"`
	Table string `json:"table"`
	Key   string `json:"key,omitempty"`
	Field string `json:"field,omitempty"`
	Base  string `json:"base"`
	Value string `json:"value"`
}

// Checks of the gate.
const (
	checkState        = "STATE"
	checkFollowed     = "FOLLOWED"
	checkPositions    = "POSITIONS"
	checkCompleteness = "COMPLETENESS"
	checkStaleness    = "STALENESS"
	checkParked       = "PARKED"
	checkRows         = "ROWS"
	checkStored       = "STORED_ROWS"
	checkSums         = "SUMS"
	checkVersions     = "VERSIONS"
	checkDerived      = "DERIVED"
)

// maxNamed bounds what a report names of each kind.
const maxNamed = 20

func (r *Report) refuse(check, subject, format string, args ...any) {
	r.Violations = append(r.Violations, Violation{check, subject, fmt.Sprintf(format, args...)})
}

// reasons are the violations in one line.
func (r *Report) reasons() string {
	var all []string
	for i, v := range r.Violations {
		if i == 5 {
			all = append(all, fmt.Sprintf("and %d more", len(r.Violations)-i))
			break
		}
		all = append(all, fmt.Sprintf("%s %s: %s", v.Check, v.Subject, v.Description))
	}
	return strings.Join(all, "; ")
}

// gateOptions say how strict the gate is.
type gateOptions struct {
	rows     bool     // compare what they show; not on the way back
	parked   bool     // nor is what is parked a reason to stay
	expect   []string // differences that are expected besides those of the view
	patience time.Duration
}

// gate compares a generation of this process with the one that answers. What may
// pass by itself is looked at again until patience ends.
func (p *Projection[S]) gate(ctx context.Context, to *Projection[S], base listed, o gateOptions, progress func(done, total int64)) (*Report, error) {
	started := time.Now()
	need, err := p.positions(ctx, p.pool, base.schema)
	if err != nil {
		return nil, err
	}
	var report *Report
	for {
		if report, err = p.standsUp(ctx, to, base, need, o); err != nil {
			return nil, err
		}
		if len(report.Violations) == 0 || time.Since(started) > o.patience {
			break
		}
		if err := rest(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
	if o.parked { // not on the way back
		if err := to.checkDerived(ctx, report, o.rows); err != nil {
			return nil, err
		}
	}
	if !o.rows {
		return report, nil
	}
	c := &comparison[S]{p: p, to: to, base: base, report: report, expect: expectations(p.view.Expected, o.expect), progress: progress}
	if err := c.run(ctx, o.patience); err != nil {
		return nil, fmt.Errorf("compare %s with %s: %w", to.own, base, err)
	}
	return report, nil
}

func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait: %w", ctx.Err())
	case <-timer.C:
		return nil
	}
}

// side is how one generation stands, partition by partition.
type side struct {
	offsets  map[int32]map[string]int64
	topicIDs map[int32]map[string]string
	books    map[int32]completeness.Books
	age      time.Duration // of the oldest as_of
	marks    int64
}

// standsUp makes the checks that need no rows, in one snapshot.
func (p *Projection[S]) standsUp(ctx context.Context, to *Projection[S], base listed, need map[int32]map[string]int64, o gateOptions) (*Report, error) {
	report := &Report{Generation: to.own.String(), Base: base.String()}
	err := p.inSnapshot(ctx, func(tx pgx.Tx) error {
		new, err := p.side(ctx, tx, to.own.schema)
		if err != nil {
			return err
		}
		old, err := p.side(ctx, tx, base.schema)
		if err != nil {
			return err
		}
		p.checkPositions(report, new, old, need)
		p.checkBooks(report, new, old)
		p.checkAge(report, new, old)
		if !o.parked {
			return nil
		}
		return p.checkParked(ctx, tx, report, to.own.schema, base.schema)
	})
	return report, err
}

// inSnapshot runs fn in one snapshot of the database.
func (p *Projection[S]) inSnapshot(ctx context.Context, fn func(pgx.Tx) error) error {
	tx, err := p.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("take a snapshot: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, "SET LOCAL idle_in_transaction_session_timeout = '60s'; SET LOCAL statement_timeout = 0"); err != nil {
		return fmt.Errorf("take a snapshot: %w", err)
	}
	return fn(tx)
}

func (p *Projection[S]) side(ctx context.Context, tx pgx.Tx, schema string) (side, error) {
	s := side{offsets: map[int32]map[string]int64{}, topicIDs: map[int32]map[string]string{}, books: map[int32]completeness.Books{}}
	quoted := pgx.Identifier{schema}.Sanitize()
	rows, err := tx.Query(ctx, "SELECT partition, offsets, topic_ids, books FROM "+quoted+".position")
	if err != nil {
		return s, fmt.Errorf("read positions: %w", err)
	}
	var number int32
	var offsets, ids, text []byte
	_, err = pgx.ForEachRow(rows, []any{&number, &offsets, &ids, &text}, func() error {
		var at map[string]int64
		var named map[string]string
		var b completeness.Books
		for _, part := range []struct {
			from []byte
			to   any
		}{{offsets, &at}, {ids, &named}, {text, &b}} {
			if err := json.Unmarshal(part.from, part.to); err != nil {
				return err
			}
		}
		s.offsets[number], s.topicIDs[number], s.books[number] = at, named, b
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("read positions: %w", err)
	}
	var age float64
	err = tx.QueryRow(ctx, "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(as_of)), 0)::float8 FROM "+quoted+".source_mark").Scan(&s.marks, &age)
	if err != nil {
		return s, fmt.Errorf("read marks: %w", err)
	}
	s.age = time.Duration(age * float64(time.Second))
	return s, nil
}

// checkPositions: it has read what the other had read when the gate was entered.
func (p *Projection[S]) checkPositions(report *Report, new, old side, need map[int32]map[string]int64) {
	for number := range p.cfg.Kafka.PartitionCount() {
		for _, topic := range p.dataTopics() {
			subject := fmt.Sprintf("partition %d of %s", number, topic)
			if a, b := new.topicIDs[number][topic], old.topicIDs[number][topic]; a != b && b != "" {
				report.refuse(checkPositions, subject, "it is read from another log than the generation that answers reads")
			}
			if at, must := new.offsets[number][topic], need[number][topic]; at < must {
				report.refuse(checkPositions, subject, "read up to %d, the generation that answers up to %d", at, must)
			}
		}
	}
}

// checkBooks: its totals were compared with the same control records.
func (p *Projection[S]) checkBooks(report *Report, new, old side) {
	for number := range p.cfg.Kafka.PartitionCount() {
		for _, source := range p.view.Sources {
			subject := fmt.Sprintf("source %s, partition %d", source, number)
			has, had := completeness.Book{State: completeness.Unproven, Reason: "not compared yet"}, completeness.Book{State: completeness.Unproven}
			if b := new.books[number].Sources[source]; b != nil {
				has = *b
			}
			if b := old.books[number].Sources[source]; b != nil {
				had = *b
			}
			switch {
			case has.State == completeness.Violated:
				report.refuse(checkCompleteness, subject, "totals prove a fault: %s", has.Reason)
			case had.State == completeness.Proven && has.State != completeness.Proven:
				report.refuse(checkCompleteness, subject, "not proven, and the generation that answers is: %s", has.Reason)
			case has.Epoch < had.Epoch:
				report.refuse(checkCompleteness, subject, "in epoch %s, the generation that answers is in %s", has.Epoch, had.Epoch)
			}
		}
	}
}

// checkAge: it is within its objective, or as fresh as the other.
func (p *Projection[S]) checkAge(report *Report, new, old side) {
	objective := 5 * time.Second
	if p.contract != nil {
		objective = p.contract.StalenessObjective
	}
	switch {
	case new.marks < old.marks:
		report.refuse(checkStaleness, "all sources", "%d of %d control records were taken, so nobody can tell how fresh it is", new.marks, old.marks)
	case new.age > max(objective, old.age+time.Second):
		report.refuse(checkStaleness, "all sources", "%s old; the objective is %s and the generation that answers is %s old",
			new.age.Round(time.Millisecond), objective, old.age.Round(time.Millisecond))
	}
}

// parkedAlone lists what is parked in one generation and not in the other,
// although the other has read it.
const parkedAlone = `SELECT q.aggregate_type || '/' || q.aggregate_id, q.order_id, q.verdict, q.reason, count(*) OVER ()
	FROM %[1]s.quarantine q
	WHERE NOT EXISTS (SELECT FROM %[2]s.quarantine o WHERE (o.aggregate_type, o.aggregate_id, o.order_id) = (q.aggregate_type, q.aggregate_id, q.order_id))
	AND (NOT EXISTS (SELECT FROM %[1]s.parked f WHERE (f.aggregate_type, f.aggregate_id, f.order_id) = (q.aggregate_type, q.aggregate_id, q.order_id))
		OR EXISTS (SELECT FROM %[1]s.parked f JOIN %[2]s.position o ON o.partition = f.partition
			WHERE (f.aggregate_type, f.aggregate_id, f.order_id) = (q.aggregate_type, q.aggregate_id, q.order_id)
			AND (f.topic = '' OR f.record_offset < coalesce((o.offsets ->> f.topic)::bigint, 0))))
	UNION ALL
	SELECT 'a record', f.reference, f.verdict, f.reason, count(*) OVER ()
	FROM %[1]s.parked f JOIN %[2]s.position o ON o.partition = f.partition
	WHERE f.aggregate_id = '' AND f.record_offset < coalesce((o.offsets ->> f.topic)::bigint, 0)
	AND NOT EXISTS (SELECT FROM %[2]s.parked g WHERE g.reference = f.reference)
	ORDER BY 1, 2 LIMIT %[3]d`

func (p *Projection[S]) checkParked(ctx context.Context, tx pgx.Tx, report *Report, new, old string) error {
	rows, err := tx.Query(ctx, fmt.Sprintf(parkedAlone, pgx.Identifier{new}.Sanitize(), pgx.Identifier{old}.Sanitize(), maxNamed))
	if err != nil {
		return fmt.Errorf("compare what is parked: %w", err)
	}
	var aggregate, order, verdict, reason string
	var n, named int64
	_, err = pgx.ForEachRow(rows, []any{&aggregate, &order, &verdict, &reason, &n}, func() error {
		named++
		report.refuse(checkParked, aggregate+" of order "+order, "parked here and not in the generation that answers: %s %s", verdict, reason)
		return nil
	})
	if err != nil {
		return fmt.Errorf("compare what is parked: %w", err)
	}
	if n > named {
		report.refuse(checkParked, "others", "%d more are parked here and not in the generation that answers", n-named)
	}
	return nil
}

package projection_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// jsonCodec is the codec of these tests: real headers, JSON bodies.
type jsonCodec struct{}

func (jsonCodec) LearnRecord(context.Context, []event.Header) error { return nil }

func (jsonCodec) Learn(context.Context, string, string, int) error { return nil }

func (jsonCodec) DecodeRecord(headers []event.Header, _, value []byte) (event.Fact, error) {
	e, err := event.ParseHeaders(headers)
	if err != nil {
		return event.Fact{Envelope: e}, err
	}
	body, err := jsonCodec{}.Decode("Note", 1, value)
	return event.Fact{Envelope: e, Body: body}, err
}

func (jsonCodec) Decode(_ string, _ int, bare []byte) (event.Body, error) {
	if string(bare) == "{}" {
		return &skip{}, nil
	}
	var void control.FactVoided
	if err := json.Unmarshal(bare, &void); err == nil && void.OriginalName != "" {
		return &void, nil
	}
	var n note
	if err := json.Unmarshal(bare, &n); err != nil {
		return nil, fmt.Errorf("not a note: %w", err)
	}
	return &n, nil
}

func (jsonCodec) DecodeControl(_ []event.Header, _, value []byte) (*control.ControlRecord, error) {
	var c control.ControlRecord
	return &c, json.Unmarshal(value, &c)
}

// log is topics of one partition in memory.
type topics struct {
	offsets map[string]int64
}

func newTopics() *topics { return &topics{offsets: map[string]int64{}} }

func (l *topics) put(topic string, headers []event.Header, key, value []byte) consumer.Record {
	r := consumer.Record{Topic: topic, Offset: l.offsets[topic], Key: key, Value: value, Headers: headers}
	l.offsets[topic]++
	return r
}

func (l *topics) facts(facts ...event.Fact) []consumer.Record {
	var records []consumer.Record
	for _, f := range facts {
		value, err := json.Marshal(f.Body)
		if err != nil {
			panic(err)
		}
		records = append(records, l.put(kafka.EventsTopic(f.Source), f.Headers(), []byte(f.Key), value))
	}
	return records
}

// totals makes a control record: in the data topic, or idle if end is not -1.
func (l *topics) totals(c control.ControlRecord) consumer.Record {
	c.Kind = control.ControlKindTotals
	value, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	topic := kafka.EventsTopic(c.Source)
	if c.DataEndOffset >= 0 {
		topic = kafka.TopicControl
	}
	headers := event.Control{ID: "c", Source: c.Source, SchemaVersion: 1, AsOf: c.AsOf}.Headers()
	return l.put(topic, headers, []byte(c.Source), value)
}

var topicIDs = map[string]string{
	kafka.TopicOrder: "id-order", kafka.TopicPayment: "id-payment", kafka.TopicControl: "id-control",
}

// ownerJournal is the owners' journals in memory.
type ownerJournal struct {
	mu    sync.Mutex
	facts []event.Fact // by sequence
	err   error
	calls int
	hook  func() // called before Events answers; may be nil
}

func journalOf(facts ...event.Fact) *ownerJournal {
	j := &ownerJournal{}
	j.add(facts...)
	return j
}

func (j *ownerJournal) add(facts ...event.Fact) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range facts {
		f.Sequence = int64(len(j.facts)) + 1
		j.facts = append(j.facts, f)
	}
}

// restore takes the journal back to an earlier state.
func (j *ownerJournal) restore(facts ...event.Fact) {
	j.mu.Lock()
	j.facts = nil
	j.mu.Unlock()
	j.add(facts...)
}

// spoil makes a fact one that this code cannot decode.
func (j *ownerJournal) spoil(f event.Fact) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range j.facts {
		if j.facts[i].Token() == f.Token() {
			j.facts[i].Body = nil
		}
	}
}

func (j *ownerJournal) Events(_ context.Context, a event.Aggregate, from, to int64) ([]event.Fact, error) {
	if j.hook != nil {
		j.hook()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls++
	var found []event.Fact
	for _, f := range j.facts {
		if f.Aggregate == a && f.Version >= from && f.Version <= to {
			found = append(found, f)
		}
	}
	slices.SortFunc(found, func(a, b event.Fact) int { return int(a.Version - b.Version) })
	return found, j.err
}

// Range serves two facts a page, to be asked for more than one.
func (j *ownerJournal) Range(_ context.Context, source string, _ int32, from, to int64) ([]event.Fact, int64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []event.Fact
	for _, f := range j.facts {
		if f.Source != source || f.Sequence < from || to > 0 && f.Sequence > to {
			continue
		}
		if len(found) == 2 {
			return found, f.Sequence, j.err
		}
		found = append(found, f)
	}
	return found, 0, j.err
}

// Heads serves two heads a page.
func (j *ownerJournal) Heads(_ context.Context, source string, _ int32, page string) ([]event.Token, string, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	newest := map[string]event.Token{}
	for _, f := range j.facts {
		if f.Source == source && f.Aggregate.ID > page && newest[f.Aggregate.ID].Version < f.Version {
			newest[f.Aggregate.ID] = f.Token()
		}
	}
	var found []event.Token
	for _, id := range slices.Sorted(maps.Keys(newest)) {
		if len(found) == 2 {
			return found, found[1].ID, j.err
		}
		found = append(found, newest[id])
	}
	return found, "", j.err
}

// subject is a projection over a database, driven without a broker.
type subject struct {
	*projection.Projection[tally]
	t    *testing.T
	url  string
	pool *pgxpool.Pool // plain, for looking
	logs *atomic.Pointer[bounds]
}

// bounds are where logs begin and end.
type bounds = map[string]map[int32]consumer.Bounds

// endsAre says where the logs of one partition number end now, without a broker.
func (s *subject) endsAre(number int32, offsets map[string]int64) {
	known := bounds{}
	for topic, end := range offsets {
		known[topic] = map[int32]consumer.Bounds{number: {End: end}}
	}
	s.boundsAre(known)
}

// boundsAre says where the logs begin and end now, without a broker.
func (s *subject) boundsAre(known bounds) {
	s.logs.Store(&known)
	s.Learn(known)
}

const noBroker = "127.0.0.1:1"

type tweak func(*projection.Config, *fold.View[tally])

func open(t *testing.T, url string, tweaks ...tweak) *subject {
	t.Helper()
	return openWith(t, url, nil, tweaks...)
}

func openWith(t *testing.T, url string, truths []projection.Truth[tally], tweaks ...tweak) *subject {
	t.Helper()
	cfg := projection.Config{
		Postgres:  postgres.Config{URL: url, MaxConns: 4},
		Kafka:     kafka.Config{Brokers: noBroker, Partitions: 1},
		Codec:     jsonCodec{},
		Telemetry: telemetry.Off(),
		Log:       slog.New(slog.DiscardHandler),
	}
	view := tallyView()
	for _, tweak := range tweaks {
		tweak(&cfg, &view)
	}
	logs := &atomic.Pointer[bounds]{}
	logs.Store(&bounds{})
	if cfg.Kafka.Brokers == noBroker {
		cfg.Bounds = func(context.Context) (bounds, error) { return *logs.Load(), nil }
	}
	p, err := projection.Open(t.Context(), cfg, view, truths...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: url, MaxConns: 2}, telemetry.Off())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &subject{p, t, url, pool, logs}
}

// fresh opens a projection over an empty database, owns its partition, and
// lets it answer.
func fresh(t *testing.T, tweaks ...tweak) *subject {
	t.Helper()
	s := open(t, testkit.UsedURL(t), tweaks...)
	s.claim()
	if err := s.Point(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func withJournal(j *ownerJournal) tweak {
	return func(c *projection.Config, _ *fold.View[tally]) { c.Journal = j }
}

func (s *subject) claim() map[string]int64 {
	s.t.Helper()
	offsets, err := s.Claim(s.t.Context(), 0, topicIDs)
	if err != nil {
		s.t.Fatal(err)
	}
	return offsets
}

func (s *subject) handle(records ...consumer.Record) {
	s.t.Helper()
	if err := s.Handle(s.t.Context(), 0, records); err != nil {
		s.t.Fatal(err)
	}
}

// schema is the Postgres schema of the subject's generation.
func (s *subject) schema() string {
	name, rest, _ := strings.Cut(s.Generation(), "/")
	return name + "_g" + strings.ReplaceAll(rest, "-", "_")
}

func (s *subject) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.pool.Exec(s.t.Context(), "SET search_path = "+s.schema()+"; "+sql); err != nil {
		s.t.Fatal(err)
	}
}

func (s *subject) query(sql string, args ...any) []map[string]any {
	s.t.Helper()
	rows, err := s.pool.Query(s.t.Context(), strings.ReplaceAll(sql, "@", s.schema()+"."), args...)
	if err != nil {
		s.t.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToMap)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range found {
		for k, v := range r {
			if at, ok := v.(time.Time); ok {
				r[k] = at.UTC()
			}
		}
	}
	return found
}

// viewRows are the rows of the view's tables, as Memory.All has them.
func (s *subject) viewRows() map[string][]map[string]any {
	s.t.Helper()
	return map[string][]map[string]any{
		"parts": s.query("SELECT order_id, part, amount, text, last, doc::text FROM @parts"),
		"texts": s.query(`SELECT text, sum(parts)::bigint AS parts, sum(amount)::bigint AS amount FROM @texts
			GROUP BY text HAVING sum(parts) <> 0 OR sum(amount) <> 0`),
		"notes": s.query(`SELECT order_id, aggregate_type, aggregate_id, epoch, version, event_id, ordinal::bigint AS ordinal, text, at FROM @notes`),
	}
}

// same compares rows in any order; jsonb has its own spelling.
func same(t *testing.T, want, got map[string][]map[string]any) {
	t.Helper()
	normal := func(all map[string][]map[string]any) map[string][]string {
		lines := map[string][]string{}
		for table, rows := range all {
			for _, r := range rows {
				var line []string
				for _, k := range slices.Sorted(maps.Keys(r)) {
					line = append(line, fmt.Sprintf("%s=%v", k, strings.ReplaceAll(fmt.Sprint(r[k]), `": `, `":`)))
				}
				lines[table] = append(lines[table], strings.Join(line, " "))
			}
			slices.Sort(lines[table])
		}
		return lines
	}
	if diff := cmp.Diff(normal(want), normal(got)); diff != "" {
		t.Fatalf("rows (-want +got):\n%s", diff)
	}
}

func memory(t *testing.T, facts ...event.Fact) map[string][]map[string]any {
	t.Helper()
	m := fold.NewMemory(tallyView())
	apply(t, m, facts...)
	return m.All()
}

// everything is all rows of the generation, kernel tables included, but for
// what may differ between a run and its repetition.
func (s *subject) everything() string {
	s.t.Helper()
	var b strings.Builder
	for _, q := range []string{
		"SELECT order_id, state::text, applied::text FROM @state ORDER BY 1",
		"SELECT * FROM @member ORDER BY 1, 2, 3", "SELECT * FROM @parts ORDER BY 1, 2", "SELECT * FROM @texts ORDER BY 1, 2",
		"SELECT * FROM @notes ORDER BY 1, 2, 3, 4, 5", "SELECT partition, offsets::text FROM @position ORDER BY 1",
		"SELECT * FROM @source_mark ORDER BY 1, 2", "SELECT reference, verdict, reason FROM @parked ORDER BY 1",
		"SELECT aggregate_type, aggregate_id, order_id, verdict FROM @quarantine ORDER BY 1, 2, 3",
	} {
		for _, r := range s.query(q) {
			fmt.Fprintln(&b, r)
		}
	}
	return b.String()
}

var errDown = errors.New("down")

// feed hands records over in one batch or one by one.
func feed(s *subject, together bool, records []any) {
	s.t.Helper()
	var all []consumer.Record
	for _, r := range records {
		all = append(all, r.(consumer.Record))
	}
	if together {
		if len(all) > 0 {
			s.handle(all...)
		}
		return
	}
	for _, r := range all {
		s.handle(r)
	}
}

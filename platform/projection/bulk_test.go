package projection_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// scanned are records as a scan of logs that have nothing else reads them.
type scanned struct {
	records []consumer.Record
	scans   int
	before  func(scan int) error // called before each scan; may be nil
}

func (s *scanned) scan(_ context.Context, partition int32, logs map[string]consumer.Bounds, take func(map[string]string, []consumer.Record) error) error {
	s.scans++
	if s.before != nil {
		if err := s.before(s.scans); err != nil {
			return err
		}
	}
	for _, r := range s.records {
		if log := logs[r.Topic]; r.Partition != partition || r.Offset < log.Start || r.Offset >= log.End {
			continue
		}
		if err := take(topicIDs, []consumer.Record{r}); err != nil {
			return err
		}
	}
	return nil
}

// inBulk has a generation copy in bulk what the records are, with so many bytes
// for its states.
func inBulk(t *testing.T, s *scanned, memory int64, tweaks ...tweak) *subject {
	t.Helper()
	return open(t, testkit.UsedURL(t), append(tweaks, func(c *projection.Config, _ *fold.View[tally]) {
		c.Scan = s.scan
		c.Generations.BulkAbove, c.Generations.BulkMemory = 1, memory
	})...)
}

// bulk copies the first so many records in bulk, and the rest the ordinary way.
func (s *subject) bulk(log *scanned, first int) {
	s.t.Helper()
	s.barrier(log.records[:first])
	if err := s.Bulk(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.claim()
	s.handle(log.records...)
}

// barrier says that the logs end behind these records.
func (s *subject) barrier(records []consumer.Record) {
	ends := map[string]int64{kafka.TopicOrder: 0, kafka.TopicPayment: 0}
	for _, r := range records {
		ends[r.Topic] = r.Offset + 1
	}
	s.endsAre(0, ends)
}

// whole is everything that is stored, but for times of the clock, sums of nothing,
// and what comparing totals went through before they agreed.
func (s *subject) whole() map[string][]string {
	s.t.Helper()
	all := map[string][]string{}
	for table, sql := range map[string]string{
		"state":      "SELECT order_id, partition, state::text, applied::text FROM @state",
		"member":     "SELECT * FROM @member",
		"parts":      "SELECT order_id, part, amount, text, last, doc::text FROM @parts",
		"texts":      "SELECT * FROM @texts WHERE parts <> 0 OR amount <> 0",
		"notes":      "SELECT * FROM @notes",
		"mark":       "SELECT * FROM @source_mark",
		"parked":     "SELECT reference, partition, topic, topic_id, record_offset, order_id, aggregate_type, aggregate_id, epoch, version, event_id, verdict, reason, code_version FROM @parked",
		"quarantine": "SELECT aggregate_type, aggregate_id, order_id, partition, verdict, reason FROM @quarantine",
		"position":   "SELECT partition, topic_ids::text, skipped::text, (SELECT jsonb_object_agg(key, value) FROM jsonb_each(offsets) WHERE value <> '0')::text AS offsets FROM @position",
		"books":      "SELECT p.partition, key, (value - '{w,u,c,y,l,h,o,k,d}'::text[])::text AS book FROM @position p, jsonb_each(books->'s') WHERE value->'t' <> 'null'",
		"indexes":    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = '" + s.schema() + "' AND tablename NOT LIKE 'bulk%'",
		"constraint": "SELECT conname, pg_get_constraintdef(oid) AS def FROM pg_constraint WHERE connamespace = '" + s.schema() + "'::regnamespace",
		"bulk":       "SELECT partition FROM @bulk_part",
		"bulk index": "SELECT name FROM @bulk_index",
	} {
		rows := s.query(sql)
		all[table] = []string{}
		for _, r := range rows {
			text, err := json.Marshal(r)
			if err != nil {
				s.t.Fatal(err)
			}
			all[table] = append(all[table], string(text))
		}
		slices.Sort(all[table])
	}
	return all
}

// storyteller draws a log in which everything happens.
type storyteller struct {
	*rand.Rand
	l        *topics
	epoch    map[string]string
	versions map[string]int64
	held     []event.Fact // kept back, to come late
	told     []event.Fact
	marks    int64
}

func (d *storyteller) tell(n int) (records []consumer.Record) {
	for len(records) < n {
		records = append(records, d.next()...)
	}
	return records
}

func (d *storyteller) next() []consumer.Record {
	if len(d.told) > 0 {
		switch d.IntN(24) {
		case 0, 1: // again
			return d.l.facts(d.told[d.IntN(len(d.told))])
		case 2: // another fact in the place of one
			return d.l.facts(other(d.told[d.IntN(len(d.told))]))
		case 3: // nothing that can be read
			return []consumer.Record{d.l.put(kafka.TopicOrder, nil, []byte("o1"), []byte("?"))}
		case 4: // a fact whose body cannot be read
			f := d.fact()
			return []consumer.Record{d.l.put(kafka.EventsTopic(f.Source), f.Headers(), []byte(f.Key), []byte("not json"))}
		case 5, 6:
			return []consumer.Record{d.control()}
		case 7: // a source goes back
			source := []string{"order", "payment"}[d.IntN(2)]
			if d.epoch[source] == epoch1 && d.IntN(3) == 0 {
				d.epoch[source] = epoch2
				return append(append([]consumer.Record{}, d.controlOf(source)), d.again(source)...)
			}
		case 8: // kept back
			d.held = append(d.held, d.fact())
			return nil
		case 9, 10: // late
			if len(d.held) > 0 {
				f := d.held[0]
				d.held = d.held[1:]
				return d.l.facts(f)
			}
		}
	}
	return d.l.facts(d.fact())
}

// again states what was applied once more, under the newer epoch.
func (d *storyteller) again(source string) (records []consumer.Record) {
	seen := map[string]bool{}
	for _, f := range d.told {
		if f.Source == source && f.Epoch == epoch1 && !seen[f.ID] && d.IntN(3) > 0 {
			seen[f.ID] = true
			f.Epoch = epoch2
			records = append(records, d.l.facts(f)...)
		}
	}
	return records
}

func (d *storyteller) fact() event.Fact {
	order := fmt.Sprintf("o%d", d.IntN(9))
	aggregate := []string{"order/" + order, "payment/a" + order, "payment/b" + order}[d.IntN(3)]
	d.versions[aggregate]++
	n := &note{Add: d.Int64N(11) - 5, Text: []string{"", "held", "paid", "gone", "paid", "held"}[d.IntN(6)]}
	switch d.IntN(60) {
	case 0:
		n.Text = "burst"
	case 1:
		n.Text = "swell"
	case 2:
		n.Text = "a\x00b"
	}
	if d.IntN(8) == 0 {
		n = nil
	}
	f := fact(order, aggregate, d.versions[aggregate], n)
	f.Epoch = d.epoch[f.Source]
	d.told = append(d.told, f)
	return f
}

func (d *storyteller) control() consumer.Record {
	return d.controlOf([]string{"order", "payment"}[d.IntN(2)])
}

func (d *storyteller) controlOf(source string) consumer.Record {
	d.marks++
	c := control.ControlRecord{Source: source, Epoch: d.epoch[source], Term: 1, Number: d.marks, AsOf: minutes(int(d.marks)), DataEndOffset: -1}
	if c.Epoch == epoch2 {
		before := epoch1
		c.PredecessorEpoch = &before
	}
	return d.l.totals(c)
}

// Copying in bulk, in several passes, leaves what the ordinary way leaves.
func TestBulkLeavesWhatTheOrdinaryWayLeaves(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			d := &storyteller{Rand: rand.New(rand.NewPCG(seed, 7)), l: newTopics(), versions: map[string]int64{}, epoch: map[string]string{"order": epoch1, "payment": epoch1}}
			log := &scanned{records: d.tell(150)}
			ordinary := fresh(t)
			for rest := log.records; len(rest) > 0; {
				n := min(1+d.IntN(30), len(rest))
				ordinary.handle(rest[:n]...)
				rest = rest[n:]
			}
			s := inBulk(t, log, []int64{6_000, 12_000, 1 << 20}[seed%3])
			s.bulk(log, len(log.records)-d.IntN(40))
			if diff := cmp.Diff(ordinary.whole(), s.whole()); diff != "" {
				t.Fatalf("(-ordinary +bulk):\n%s", diff)
			}
			if parts := s.query("SELECT count(*) AS n FROM @parked")[0]["n"]; parts == int64(0) {
				t.Error("nothing was parked: the log is too tame")
			}
			if passes := log.scans; seed%3 < 2 && passes < 3 {
				t.Errorf("%d passes: everything was in memory at once", passes)
			}
		})
	}
}

// What the database refuses is nothing that bulk can set aside: all of it comes
// the ordinary way.
func TestWhatBulkCannotCopyComesTheOrdinaryWay(t *testing.T) {
	l := newTopics()
	log := &scanned{records: l.facts(append(about("o", 1, 3), fact("p", "order/p", 1, &note{Text: "bad json"}), fact("p", "order/p", 2, nil))...)}
	ordinary := fresh(t)
	ordinary.handle(log.records...)
	s := inBulk(t, log, 1<<20)
	s.bulk(log, len(log.records))
	if diff := cmp.Diff(ordinary.whole(), s.whole()); diff != "" {
		t.Fatalf("(-ordinary +bulk):\n%s", diff)
	}
	if log.scans == 0 {
		t.Error("copying in bulk was not tried")
	}
	if n := s.query("SELECT count(*) AS n FROM @parked")[0]["n"]; n != int64(2) {
		t.Errorf("%v facts parked, want the one that is refused and the one behind it", n)
	}
}

// A process that is killed in a pass, or behind it, between indexes, or before
// the end, leaves nothing that counts; the next one ends where one that was not
// killed ends.
func TestBulkIsKilled(t *testing.T) {
	l := newTopics()
	log := &scanned{}
	for i := range 40 {
		log.records = append(log.records, l.facts(about(fmt.Sprintf("o%d", i), 1, 4)...)...)
	}
	ordinary := fresh(t)
	ordinary.handle(log.records...)
	want := ordinary.whole()
	for _, place := range []string{"bulk pass", "bulk index", "bulk end"} {
		for _, after := range []int{1, 2, 3} {
			if place == "bulk end" && after > 1 {
				continue
			}
			t.Run(fmt.Sprintf("%s %d", place, after), func(t *testing.T) {
				t.Parallel()
				s := inBulk(t, &scanned{records: log.records}, 20_000)
				s.barrier(log.records)
				ctx, kill := context.WithCancel(t.Context())
				defer kill()
				n := 0
				s.Failing(func(at string) error {
					if at != place {
						return nil
					}
					if n++; n >= after {
						kill()
						return errors.New("killed")
					}
					return nil
				})
				if err := s.Bulk(ctx); !errors.Is(err, context.Canceled) {
					t.Fatalf("it was not killed: %v", err)
				}
				s.Failing(func(string) error { return nil })
				if got := s.query("SELECT count(*) AS n FROM @position WHERE offsets <> '{}'")[0]["n"]; got != int64(0) {
					t.Errorf("%v positions have moved", got)
				}
				again := &scanned{records: log.records}
				next := open(t, s.url, func(c *projection.Config, _ *fold.View[tally]) {
					c.Scan, c.Generations.BulkAbove, c.Generations.BulkMemory = again.scan, 1, 20_000
				})
				next.bulk(again, len(log.records))
				if diff := cmp.Diff(want, next.whole()); diff != "" {
					t.Fatalf("(-not killed +killed):\n%s", diff)
				}
			})
		}
	}
}

// A fact that the log lost is missed at the first control record behind what was
// copied in bulk, and healed.
func TestALossInBulkIsNoticed(t *testing.T) {
	journal := journalOf()
	l := newTopics()
	from := senderOf(l, journal, "order")
	log := &scanned{records: from.send(about("o", 1, 3)...)}
	from.lose(about("p", 1, 1)...)
	log.records = append(log.records, from.control())
	bulk := len(log.records)
	// The next record names only what was marked since: not what was lost.
	log.records = append(append(log.records, from.send(about("q", 1, 1)...)...), from.control())
	s := inBulk(t, log, 1<<20, withJournal(journal))
	s.bulk(log, bulk)
	books := s.query("SELECT books::text AS b FROM @position")[0]["b"].(string)
	if !strings.Contains(books, `"VIOLATED"`) {
		t.Fatalf("a loss was not noticed: %s", books)
	}
	s.barrier(log.records)
	if err := s.ProveDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.handle(from.control())
	if books := s.query("SELECT books::text AS b FROM @position")[0]["b"].(string); !strings.Contains(books, `"PROVEN"`) {
		t.Errorf("it was not healed: %s", books)
	}
}

// A generation that has something, or little to copy, is left to the ordinary way.
func TestBulkLeavesAlone(t *testing.T) {
	l := newTopics()
	log := &scanned{records: l.facts(about("o", 1, 3)...)}
	s := inBulk(t, log, 1<<20)
	s.claim()
	s.handle(log.records[0])
	s.barrier(log.records)
	if err := s.Bulk(t.Context()); err != nil || log.scans > 0 {
		t.Errorf("%v, %d scans of a generation that has something", err, log.scans)
	}
	few := inBulk(t, log, 1<<20, func(c *projection.Config, _ *fold.View[tally]) {})
	few.barrier(nil)
	if err := few.Bulk(t.Context()); err != nil || log.scans > 0 {
		t.Errorf("%v, %d scans of empty logs", err, log.scans)
	}
}

// A build that an operator pauses reads nothing, and goes on where it stood.
func TestBulkStandsStill(t *testing.T) {
	l := newTopics()
	log := &scanned{records: l.facts(about("o", 1, 3)...)}
	s := inBulk(t, log, 1<<20)
	s.barrier(log.records)
	s.Brake("an operator paused it")
	stood, done := make(chan struct{}), make(chan error, 1)
	log.before = func(int) error {
		if s.Braked() != "" {
			t.Error("it reads although it is paused")
		}
		return nil
	}
	s.Failing(func(at string) error {
		if at == "bulk stands" {
			close(stood)
		}
		return nil
	})
	go func() { done <- s.Bulk(t.Context()) }()
	<-stood
	s.Brake("")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := s.query("SELECT count(*) AS n FROM @notes")[0]["n"]; n != int64(3) {
		t.Errorf("%v facts were copied", n)
	}
	if at := s.claim()[kafka.TopicOrder]; at != 3 {
		t.Errorf("the ordinary way begins at offset %d, want the one behind what was copied", at)
	}
}

// Two processes copy in bulk together; from a broker, beside what goes on.
func TestBulkFromABroker(t *testing.T) {
	b := newBroker(t)
	facts := orders(400)
	b.publish(facts...)
	eager := func(c *projection.Config, _ *fold.View[tally]) { c.Generations.BulkAbove = 1 }
	first := open(t, testkit.UsedURL(t), b.reach, eager)
	second := open(t, first.url, b.reach, eager)
	var together errgroup.Group
	for _, s := range []*subject{first, second} {
		together.Go(func() error { return s.Bulk(t.Context()) })
	}
	if err := together.Wait(); err != nil {
		t.Fatal(err)
	}
	same(t, memory(t, facts...), first.viewRows())
	more := orders(450)[400:]
	b.publish(more...)
	first.start()
	second.start()
	first.until("all is copied", func() bool { return first.query("SELECT count(*) AS n FROM @state")[0]["n"] == int64(450) })
	same(t, memory(t, append(facts, more...)...), first.viewRows())
}

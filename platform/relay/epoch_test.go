package relay

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/journal"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
	"github.com/tidemark-dev/tidemark/schemas/control"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// backup keeps the state of the database, and restore brings it back: what a
// restored copy of the files would be, in the same cluster.
var restored = []string{"things", "journal", "outbox", "blocked", "idempotency", "source_epoch", "relay_shard", "relay_member",
	"control_totals", "source_stop", "source_topic", "voided"}

func (f *fixture) backup(name string) {
	f.Helper()
	f.exec(`CREATE SCHEMA ` + name)
	for _, table := range restored {
		f.exec(fmt.Sprintf(`CREATE TABLE %s.%s AS TABLE %s`, name, table, table))
	}
	f.exec(fmt.Sprintf(`CREATE TABLE %s.sequences AS SELECT (SELECT last_value FROM journal_sequence) AS journal, (SELECT last_value FROM relay_term) AS term`, name))
}

func (f *fixture) restore(name string) {
	f.Helper()
	tx := f.begin()
	for _, table := range restored {
		for _, sql := range []string{`DELETE FROM %[2]s`, `INSERT INTO %[2]s OVERRIDING SYSTEM VALUE SELECT * FROM %[1]s.%[2]s`} {
			if _, err := tx.Exec(context.Background(), fmt.Sprintf(sql, name, table)); err != nil {
				f.Fatal(err)
			}
		}
	}
	if _, err := tx.Exec(context.Background(), fmt.Sprintf(`SELECT setval('journal_sequence', journal), setval('relay_term', term) FROM %s.sequences`, name)); err != nil {
		f.Fatal(err)
	}
	if err := tx.Commit(context.Background()); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) admin() *journal.Admin {
	f.Helper()
	pager, err := rpc.NewPager([]byte("secret"))
	if err != nil {
		f.Fatal(err)
	}
	return journal.NewAdmin(f.journal, pager)
}

func (f *fixture) stateIs(want journalpb.SourceState) *journalpb.GetSourceResponse {
	f.Helper()
	var got *journalpb.GetSourceResponse
	f.eventually("the source is "+want.String(), func() bool {
		var err error
		if got, err = f.admin().GetSource(f.Context(), &journalpb.GetSourceRequest{}); err != nil {
			f.Fatal(err)
		}
		return got.GetState() == want
	})
	return got
}

func (f *fixture) newEpoch() string {
	f.Helper()
	r, err := f.admin().NewEpoch(f.Context(), &journalpb.NewEpochRequest{Reason: "restored", Actor: "operator:test"})
	if err != nil {
		f.Fatal(err)
	}
	return r.GetEpoch()
}

// try runs one command with a request id of the caller's choice.
func (f *fixture) try(requestID, id string) error {
	_, _, err := journal.Execute(context.Background(), f.journal, &things,
		journal.Request{ID: requestID, Method: "Hold", Message: &emptypb.Empty{}, AggregateID: id},
		func(*thing, time.Time) ([]journal.Fact, error) {
			return []journal.Fact{{Body: &facts.OrderHeld{OrderID: id, CustomerID: "c", Actor: "test", Reason: "why"}}}, nil
		}, func(*thing, journal.Head) *emptypb.Empty { return &emptypb.Empty{} })
	return err
}

// The database is set back while the relay idles: events lie in the topic that
// the journal lacks. The source stops, takes no commands and sends nothing until
// an operator begins an epoch, in which versions are used again; a second restore
// gets another epoch, newer than one that the database knows nothing of.
func TestADatabaseThatWentBackStopsTheSource(t *testing.T) {
	f := setup(t)
	f.start(f.relay())
	f.state("o-1", 2)
	f.drained()
	f.backup("before")
	lost := uuid.NewString()
	if err := f.try(lost, "o-1"); err != nil {
		t.Fatal(err)
	}
	f.state("gone", 1)
	f.drained()
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	first := query[string](f, `SELECT epoch FROM source_epoch`)
	epochs := []string{first}
	for range 2 {
		f.restore("before")
		// Nothing is committed: what runs notices when it next polls.
		f.stateIs(journalpb.SourceState_SOURCE_STATE_STOPPED_WENT_BACK)
		err := f.try(lost, "o-1")
		if fault.ReasonOf(err) != journal.ReasonSourceWentBack || !fault.Is(err, fault.KindUnavailable) {
			t.Fatalf("a command of a stopped source: %v", err)
		}
		epochs = append(epochs, f.newEpoch())
		f.stateIs(journalpb.SourceState_SOURCE_STATE_RUNNING)
		// The caller who never got an answer asks again; the command takes effect
		// once in this state of the database.
		for range 2 {
			if err := f.try(lost, "o-1"); err != nil {
				t.Fatal(err)
			}
		}
		f.drained()
		f.checkEpoch(epochs[len(epochs)-1], epochs[len(epochs)-2])
		if n := query[int](f, `SELECT count(*) FROM journal WHERE aggregate_id = 'o-1'`); n != 3 {
			t.Errorf("o-1 has %d events, want 3", n)
		}
	}
	if !(epochs[0] < epochs[1] && epochs[1] < epochs[2]) {
		t.Errorf("epochs %v do not rise", epochs)
	}
}

// checkEpoch waits until every partition has the opening record of the epoch,
// and checks that it precedes all else of the epoch and that totals start at zero.
func (f *fixture) checkEpoch(epoch, predecessor string) {
	f.Helper()
	f.eventually("all partitions are opened", func() bool {
		return query[int](f, `SELECT count(*) FROM control_totals WHERE epoch = $1 AND opened`, epoch) == partitions
	})
	opened, count := map[int32]bool{}, map[int32]int64{}
	for _, r := range f.read(kafka.TopicOrder) {
		if r.fact != nil && r.fact.Epoch == epoch {
			count[r.partition]++
			if !opened[r.partition] {
				f.Errorf("%s is of an epoch that is not opened", r.fact.Aggregate)
			}
		}
		if c := r.control; c != nil && c.Epoch == epoch {
			if c.Kind == control.ControlKindOpening {
				opened[r.partition] = true
				if c.Count != 0 || c.PredecessorEpoch == nil || *c.PredecessorEpoch != predecessor {
					f.Errorf("opening record %+v, want the predecessor %s", c, predecessor)
				}
			} else if c.Count != count[r.partition] {
				f.Errorf("announced %d of %d", c.Count, count[r.partition])
			}
		}
	}
	if len(opened) != partitions {
		f.Errorf("%d partitions were opened", len(opened))
	}
}

// A relay that starts on a database that went back notices before it sends.
func TestATakeoverReadsTheEndOfTheTopic(t *testing.T) {
	for name, given := range map[string]func(f *fixture){
		"an event that the journal lacks": func(f *fixture) {
			f.exec(`DELETE FROM journal WHERE aggregate_id = 'o-1' AND version = 3`)
		},
		"another event under the same version": func(f *fixture) {
			f.exec(`UPDATE journal SET event_id = gen_random_uuid() WHERE aggregate_id = 'o-1' AND version = 3`)
		},
		"a control record with a higher number": func(f *fixture) { f.exec(`UPDATE control_totals SET number = 1, control_offset = -1`) },
		"a control record with more events":     func(f *fixture) { f.exec(`UPDATE control_totals SET count = 0, control_offset = -1`) },
		"a newer epoch": func(f *fixture) {
			f.exec(`UPDATE source_epoch SET epoch = '20200101T000000.000Z-0000000000000000'`)
			f.exec(`UPDATE journal SET epoch = '20200101T000000.000Z-0000000000000000'`)
			f.exec(`UPDATE control_totals SET epoch = '20200101T000000.000Z-0000000000000000'`)
		},
		"another timeline": func(f *fixture) { f.exec(`UPDATE source_epoch SET timeline = timeline - 1`) },
		"another cluster":  func(f *fixture) { f.exec(`UPDATE source_epoch SET system_identifier = system_identifier + 1`) },
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t)
			stop := f.start(f.relay())
			f.state("o-1", 3)
			f.drained()
			f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
			stop()
			first := query[string](f, `SELECT epoch FROM source_epoch`)
			f.exec(`UPDATE control_totals SET control_offset = -1`)
			given(f)
			size := len(f.read(kafka.TopicOrder))
			f.state("o-2", 1)
			f.start(f.relay())
			got := f.stateIs(journalpb.SourceState_SOURCE_STATE_STOPPED_WENT_BACK)
			if f.unsent() != 1 || len(f.read(kafka.TopicOrder)) != size {
				t.Errorf("something was sent: %v", got)
			}
			epoch := f.newEpoch()
			f.drained()
			f.checkEpoch(epoch, max(got.GetEpoch(), first))
			if sent := f.sent(); !strings.Contains(strings.Join(sent, " "), "o-2/1") {
				t.Errorf("sent %v", sent)
			}
		})
	}
}

// A database that did not go back is not stopped, whatever its relay left
// behind: events that were sent and not marked, late records of an older epoch,
// a sequence that jumped.
func TestACrashIsNoRestore(t *testing.T) {
	f := setup(t)
	f.state("o-1", 3)
	crashes := 0
	f.start(f.relay(func(r *Relay) {
		r.hooks.produced = func(*owner) error {
			if crashes++; crashes < 4 {
				return errCrash
			}
			return nil
		}
	}))
	f.drained()
	f.exec(`SELECT setval('journal_sequence', nextval('journal_sequence') + 32)`)
	f.state("o-1", 1)
	f.drained()
	if _, err := f.admin().NewEpoch(t.Context(), &journalpb.NewEpochRequest{Reason: "r", Actor: "a"}); fault.ReasonOf(err) != "SOURCE_RUNNING" {
		t.Errorf("a new epoch of a running source: %v", err)
	}
	if _, err := f.admin().NewEpoch(t.Context(), &journalpb.NewEpochRequest{Reason: "r", Actor: "a", Force: true}); err != nil {
		t.Fatal(err)
	}
	f.state("o-1", 1)
	f.drained()
	f.stateIs(journalpb.SourceState_SOURCE_STATE_RUNNING)
}

// A command decides in one epoch, and before it writes another begins: it fails
// once inside and takes effect in the new one.
func TestACommandMeetsANewEpoch(t *testing.T) {
	f := setup(t)
	decided := 0
	_, _, err := journal.Execute(t.Context(), f.journal, &things,
		journal.Request{ID: uuid.NewString(), Method: "Hold", Message: &emptypb.Empty{}, AggregateID: "o-1"},
		func(*thing, time.Time) ([]journal.Fact, error) {
			if decided++; decided == 1 {
				if _, err := f.admin().NewEpoch(t.Context(), &journalpb.NewEpochRequest{Reason: "r", Actor: "a", Force: true}); err != nil {
					t.Error(err)
				}
			}
			return []journal.Fact{{Body: &facts.OrderHeld{OrderID: "o-1", CustomerID: "c", Actor: "test", Reason: "why"}}}, nil
		}, func(*thing, journal.Head) *emptypb.Empty { return &emptypb.Empty{} })
	if err != nil || decided != 2 {
		t.Errorf("decided %d times, %v", decided, err)
	}
	if stale := query[int](f, `SELECT count(*) FROM journal WHERE epoch <> (SELECT max(epoch) FROM source_epoch)`); stale != 0 {
		t.Errorf("%d events are of the epoch before", stale)
	}
}

// A command that has written in the old epoch and not committed yet is waited
// for, and its events are in the new epoch.
func TestANewEpochWaitsForWriters(t *testing.T) {
	f := setup(t)
	tx := f.begin()
	f.late(tx)
	done := make(chan error, 1)
	go func() {
		_, err := f.admin().NewEpoch(context.Background(), &journalpb.NewEpochRequest{Reason: "r", Actor: "a", Force: true})
		done <- err
	}()
	f.eventually("the new epoch waits, or is there", func() bool {
		return len(done) > 0 || query[bool](f, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`)
	})
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if stale := query[int](f, `SELECT count(*) FROM journal WHERE epoch <> (SELECT max(epoch) FROM source_epoch)`); stale != 0 {
		t.Errorf("%d events are of the epoch before", stale)
	}
}

// The topic is deleted and made again under a relay that has nothing to send. It
// notices by itself, without a take-over.
func TestARelayNoticesThatItsTopicWasReplaced(t *testing.T) {
	f := setup(t)
	f.state("o-1", 3)
	var polls atomic.Int64
	f.start(f.relay(func(r *Relay) { r.hooks.read = func(*owner) error { polls.Add(1); return nil } }))
	f.drained()
	f.currentAfter(query[time.Time](f, `SELECT clock_timestamp()`))
	terms, before := query[int64](f, `SELECT sum(term)::bigint FROM relay_shard`), polls.Load()
	f.eventually("many polls", func() bool { return polls.Load() > before+60 }) // all is said, and the topic stays what it was
	if now := query[int64](f, `SELECT sum(term)::bigint FROM relay_shard`); now != terms {
		t.Errorf("the relay started over, terms %d and %d", terms, now)
	}
	f.replaceTopic()
	f.stateIs(journalpb.SourceState_SOURCE_STATE_STOPPED_TOPIC_REPLACED)
}

// replaceTopic deletes the data topic and makes it again.
func (f *fixture) replaceTopic() {
	f.Helper()
	admin, err := kafka.NewAdmin(kafka.Config{Brokers: f.brokers}, "test")
	if err != nil {
		f.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.DeleteTopics(context.Background(), []string{kafka.TopicOrder}, ck.SetAdminOperationTimeout(10*time.Second)); err != nil {
		f.Fatal(err)
	}
	if err := kafka.CreateTopics(context.Background(), kafka.Config{Brokers: f.brokers, Partitions: partitions, Replication: 1}); err != nil {
		f.Fatal(err)
	}
}

// The topic is deleted and made again. Nothing is sent until the journal is
// published again: then all of it, in order, in a new epoch.
func TestAReplacedTopicIsRepublished(t *testing.T) {
	f := setup(t)
	f.state("o-1", 3)
	f.state("o-2", 1)
	stop := f.start(f.relay())
	f.drained()
	stop()
	f.replaceTopic()
	f.state("o-1", 1)
	f.start(f.relay())
	before := f.stateIs(journalpb.SourceState_SOURCE_STATE_STOPPED_TOPIC_REPLACED)
	f.state("o-2", 1) // commands go on
	if len(f.read(kafka.TopicOrder)) != 0 {
		t.Error("something was sent")
	}
	if _, err := f.admin().NewEpoch(t.Context(), &journalpb.NewEpochRequest{Reason: "r", Actor: "a"}); err == nil {
		t.Error("a new epoch would leave the topic without the past")
	}
	tried, err := f.admin().Republish(t.Context(), &journalpb.RepublishRequest{Reason: "r", Actor: "a", DryRun: true})
	if err != nil || tried.GetEvents() != 6 {
		t.Fatalf("dry run: %v, %v", tried, err)
	}
	done, err := f.admin().Republish(t.Context(), &journalpb.RepublishRequest{Reason: "r", Actor: "a"})
	if err != nil || done.GetEvents() != 6 {
		t.Fatalf("%v, %v", done, err)
	}
	f.drained()
	f.checkEpoch(done.GetEpoch(), before.GetEpoch())
	byOrder := map[string]string{}
	for _, s := range f.sent() {
		id, version, _ := strings.Cut(s, "/")
		byOrder[id] += version
	}
	if diff := cmp.Diff(map[string]string{"o-1": "1234", "o-2": "12"}, byOrder); diff != "" {
		t.Error(diff)
	}
	f.checkTotals()
}

package faults

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/projections/timeline"
	"github.com/tidemark-dev/tidemark/tests/integration/processes"
)

// readSide are the kinds of faults that meet read models in the middle of their work.
func readSide() []fault {
	return []fault{
		{"kill a read model in a batch", func(ctx context.Context, w *world) (bite, error) {
			part := w.view()
			defer w.Await(part)
			return w.inBatch(ctx, part, func(conn *pgx.Conn, release func()) error {
				w.Signal(part, syscall.SIGKILL)
				release()
				return nil
			})
		}},
		{"freeze a read model in a batch", freezeInBatch},
		{"cut a read model in a batch", func(ctx context.Context, w *world) (bite, error) {
			return w.inBatch(ctx, w.view(), func(conn *pgx.Conn, _ func()) error {
				_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE `+inBatches)
				return err
			})
		}},
		{"a second replica comes and goes", secondReplica},
		{"foreign records", foreignRecords},
	}
}

const (
	batchLock = 4712
	// inBatches are the transactions of a read model that have written a batch
	// and are held before their commit.
	inBatches = `locktype = 'advisory' AND NOT granted AND objid = 4712 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
)

// armViews makes batches of read models wait before their commit while somebody
// holds a lock.
func (w *world) armViews(ctx context.Context) {
	w.t.Helper()
	for _, part := range []string{"timeline", "operations"} {
		err := w.set(ctx, part, fmt.Sprintf(`
			CREATE FUNCTION public.fault_in_batch() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				PERFORM pg_advisory_xact_lock_shared(%d);
				RETURN NULL;
			END $$;
			CREATE CONSTRAINT TRIGGER fault_in_batch AFTER UPDATE ON %s.position
				DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.fault_in_batch()`, batchLock, w.tables(ctx, part)))
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// tables is the schema of a read model's generation.
func (w *world) tables(ctx context.Context, view string) (schema string) {
	w.t.Helper()
	w.Rows(ctx, view, `SELECT schemaname FROM pg_tables WHERE tablename = 'state'`, []any{&schema}, func() {})
	return schema
}

// inBatch strikes while a read model has written a batch and not committed it.
func (w *world) inBatch(ctx context.Context, part string, strike func(conn *pgx.Conn, release func()) error) (bite, error) {
	conn, err := w.Connect(ctx, part)
	if err != nil {
		return bite{}, err
	}
	released := false
	release := func() {
		if !released {
			released = true
			_ = conn.Close(context.WithoutCancel(ctx)) // lets go of the lock
		}
	}
	defer release()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", batchLock); err != nil {
		return bite{}, err
	}
	var met int64
	until(ctx, 5*time.Second, func() bool {
		err = conn.QueryRow(ctx, "SELECT count(*) FROM pg_locks WHERE "+inBatches).Scan(&met)
		return err != nil || met > 0
	})
	if err == nil {
		err = strike(conn, release)
	}
	return bite{met, "batches before their commit; " + part}, err
}

// freezeInBatch stops a read model whose commit is then carried out: it wakes up
// to an answer of which it does not know how old it is.
func freezeInBatch(ctx context.Context, w *world) (bite, error) {
	part := w.view()
	return w.inBatch(ctx, part, func(_ *pgx.Conn, release func()) error {
		w.Signal(part, syscall.SIGSTOP)
		release()
		until(ctx, 5*time.Second, func() bool {
			left, err := w.Count(ctx, part, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()")
			return err == nil && left == 0
		})
		w.Signal(part, syscall.SIGCONT)
		return nil
	})
}

// secondReplica runs another process of the timeline until it has taken over
// partitions, and stops it.
func secondReplica(ctx context.Context, w *world) (bite, error) {
	terms := func() (int64, error) {
		return w.Count(ctx, "timeline", "SELECT sum(term)::bigint FROM "+w.tables(ctx, "timeline")+".position")
	}
	before, err := terms()
	if err != nil {
		return bite{}, err
	}
	cfg, err := lifecycle.Defaults[timeline.Config]()
	if err != nil {
		return bite{}, err
	}
	cfg.Postgres.URL = fmt.Sprintf("postgres://tidemark@%s/tidemark_timeline?sslmode=disable", processes.Address(w.base+432))
	cfg.Kafka.Brokers, cfg.Kafka.Partitions, cfg.Kafka.RegistryURL = w.brokers, partitions, "http://"+processes.Address(w.base+81)
	cfg.Owners.Order, cfg.Owners.Payment, cfg.Owners.Shipment = processes.Address(w.base+101), processes.Address(w.base+102), processes.Address(w.base+103)
	cfg.RPC.Addr, cfg.RPC.HTTPAddr = "127.0.0.1:0", ""
	running, stop := context.WithCancel(lifecycle.WithLogger(ctx, slog.New(slog.DiscardHandler)))
	ended := make(chan error, 1)
	go func() { ended <- timeline.Run(running, cfg) }()
	var taken int64
	until(ctx, 90*time.Second, func() bool {
		after, err := terms()
		taken = after - before
		return err == nil && taken > 0 && w.inFlight(ctx) > 0
	})
	stop()
	return bite{taken, "partitions that were claimed; timeline"}, <-ended
}

// foreignRecords puts what no service wrote on the topics: a record without a
// value, one of a producer that knows nothing of us, and a fact of a source in the
// topic of another. Each parks by its place in both read models and counts
// nowhere; comparing proves that nothing else stood still.
func foreignRecords(ctx context.Context, w *world) (bite, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(w.brokers), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return bite{}, err
	}
	defer client.Close()
	misplaced := event.Envelope{
		ID: "00000000-0000-4000-8000-000000000001", Source: "order", Type: "OrderPlaced", SchemaVersion: 1,
		Aggregate: event.Aggregate{Type: "order", ID: "misplaced"}, Version: 1, Epoch: "20260301T000000.000Z-0000000000000001", Key: "misplaced",
		OccurredAt: time.Now(), RecordedAt: time.Now(),
	}
	var headers []kgo.RecordHeader
	for _, h := range misplaced.Headers() {
		headers = append(headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	number := int32(w.choice.IntN(partitions))
	records := []*kgo.Record{
		{Topic: kafka.TopicOrder, Partition: number, Key: []byte("someone")},
		{Topic: kafka.TopicPayment, Partition: number, Key: []byte("someone"), Value: []byte(`{"not":"ours"}`), Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("json")}}},
		{Topic: kafka.TopicShipment, Partition: number, Key: []byte("misplaced"), Value: []byte{0, 0, 0, 0, 1}, Headers: headers},
	}
	n := w.inFlight(ctx)
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return bite{}, fmt.Errorf("publish foreign records: %w", err)
	}
	for _, r := range records {
		w.foreign[place{r.Topic, r.Partition, r.Offset}] = true
	}
	var errs []error
	for _, view := range []string{"timeline", "operations"} {
		parked := int64(0)
		until(ctx, 90*time.Second, func() bool { // members that were killed while they joined keep the group waiting
			var err error
			parked, err = w.Count(ctx, view, "SELECT count(*) FROM "+w.tables(ctx, view)+".parked WHERE verdict = 'poison'")
			return err == nil && parked == int64(len(w.foreign))
		})
		if parked != int64(len(w.foreign)) {
			errs = append(errs, fmt.Errorf("%s parked %d of %d foreign records", view, parked, len(w.foreign)))
		}
	}
	return bite{n, "facts on their way beside 3 foreign records"}, errors.Join(errs...)
}

// place is where a record is.
type place struct {
	topic     string
	partition int32
	offset    int64
}

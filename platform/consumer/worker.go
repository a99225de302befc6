package consumer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/tidemark-dev/tidemark/platform/event"
)

const (
	pauseAbove  = 4000 // buffered records at which a partition number is paused
	resumeBelow = 1000
	stopGrace   = 5 * time.Second
	// gather is the longest rest after a batch. A worker rests as long as the
	// batch took, so that under load records come together and share a
	// transaction; a record that finds the worker idle waits for nothing. While
	// somebody waits for what is read, there is no rest.
	gather = 10 * time.Millisecond
)

// worker hands the records of one partition number to the handler, as many at
// once as came while it was busy: single records at low load, batches under
// pressure.
type worker struct {
	*session
	partition int32
	stop      chan struct{} // closed to stop between batches
	done      chan struct{}
	cancel    context.CancelFunc
	work      context.Context
	arrived   chan struct{} // holds one token while the buffer may have records
	reclaimed chan error

	mu     sync.Mutex
	buffer []Record
	paused bool
	from   map[string]int64 // records before these offsets are skipped
	epoch  int              // rises when the buffer is thrown away
}

func (s *session) newWorker(partition int32, from map[string]int64) *worker {
	work, cancel := context.WithCancel(context.WithoutCancel(s.ctx))
	return &worker{
		session: s, partition: partition, from: from, work: work, cancel: cancel,
		stop: make(chan struct{}), done: make(chan struct{}),
		arrived: make(chan struct{}, 1), reclaimed: make(chan error, 1),
	}
}

func recordOf(m *ck.Message) Record {
	r := Record{
		Topic: *m.TopicPartition.Topic, Partition: m.TopicPartition.Partition, Offset: int64(m.TopicPartition.Offset),
		Key: m.Key, Value: m.Value, Headers: make([]event.Header, 0, len(m.Headers)), message: m,
	}
	for _, h := range m.Headers {
		r.Headers = append(r.Headers, event.Header{Key: h.Key, Value: h.Value})
	}
	return r
}

// put buffers a record and reports whether the partition number must pause.
func (w *worker) put(r Record) (pause bool) {
	w.mu.Lock()
	if r.Offset >= w.from[r.Topic] {
		w.buffer = append(w.buffer, r)
	}
	if pause = !w.paused && len(w.buffer) > pauseAbove; pause {
		w.paused = true
	}
	w.mu.Unlock()
	select {
	case w.arrived <- struct{}{}:
	default:
	}
	return pause
}

// reset throws the buffer away, because reading goes on elsewhere. It reports
// whether the partition number was paused and must resume.
func (w *worker) reset(from map[string]int64) (resume bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	resume = w.paused
	w.buffer, w.from, w.paused = nil, from, false
	w.epoch++
	return resume
}

// peek returns the next records without taking them.
func (w *worker) peek() (records []Record, epoch int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(w.buffer), w.cfg.MaxBatch)
	return w.buffer[:n:n], w.epoch
}

// drop takes the records that were handled.
func (w *worker) drop(n, epoch int) {
	w.mu.Lock()
	if epoch == w.epoch {
		w.buffer = w.buffer[n:]
	}
	if len(w.buffer) == 0 {
		w.buffer = nil
	}
	resume := w.paused && len(w.buffer) < resumeBelow
	if resume {
		w.paused = false
	}
	w.mu.Unlock()
	if resume {
		w.ask(func() { w.session.resume(w) })
	}
}

// ask has the polling goroutine do something.
func (w *worker) ask(request func()) {
	select {
	case w.requests <- request:
	case <-w.stop:
	}
}

func (w *worker) run() {
	defer close(w.done)
	for {
		select {
		case <-w.stop:
			return
		case <-w.arrived:
		}
		for {
			records, epoch := w.peek()
			if len(records) == 0 || w.stopped() {
				break
			}
			started := time.Now()
			if !w.handle(records) {
				break
			}
			w.drop(len(records), epoch)
			if rest := w.cfg.rest(len(records), time.Since(started)); rest > 0 && !w.sleep(rest) {
				break
			}
		}
	}
}

// rest says how long to rest after a batch of so many records that took so long.
func (c *Config) rest(records int, took time.Duration) time.Duration {
	if records >= c.MaxBatch || c.Hurry != nil && c.Hurry() {
		return 0
	}
	return min(took, gather)
}

func (w *worker) stopped() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

// await waits for the batch in flight; one that hangs is cancelled. Its writes
// are fenced by the next owner's claim in any case.
func (w *worker) await() {
	defer w.cancel()
	timer := time.AfterFunc(stopGrace, w.cancel)
	defer timer.Stop()
	<-w.done
}

// handle tries until the batch is stored. It returns false if the batch must
// be given up: the worker stops, or reading goes on elsewhere.
func (w *worker) handle(records []Record) bool {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := w.attempt(records)
		if err == nil {
			w.note(func(s *Status) { s.Err = nil })
			w.store(records)
			return true
		}
		w.note(func(s *Status) { s.Err = err })
		w.cfg.Log.Warn("batch failed and is tried again", "group", w.cfg.Group, "partition", w.partition,
			"records", len(records), "error", err, "pause", pause)
		if !w.sleep(pause/2 + rand.N(pause)) {
			return false
		}
		if errors.Is(err, ErrFenced) {
			w.ask(func() { w.reclaim(w) })
			select {
			case <-w.stop:
				return false
			case err := <-w.reclaimed:
				if err == nil {
					return false
				}
			}
		}
	}
}

func (w *worker) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-w.stop:
		return false
	case <-timer.C:
		return true
	}
}

func (w *worker) attempt(records []Record) error {
	var messages []*ck.Message
	for _, r := range records {
		for _, h := range r.Headers {
			if h.Key == "traceparent" {
				messages = append(messages, r.message)
				break
			}
		}
	}
	ctx := w.work
	if len(messages) == 0 { // nothing anybody would look for in a trace
		return w.handler.Handle(ctx, w.partition, records)
	}
	ctx, processing := w.telemetry.Process(ctx, w.cfg.Group, w.cfg.Group, messages)
	err := w.handler.Handle(ctx, w.partition, records)
	processing.Done(ctx, err)
	return err
}

// store notes the offsets behind the records, to be committed to Kafka in the
// background.
func (w *worker) store(records []Record) {
	next := map[string]ck.Offset{}
	for _, r := range records {
		next[r.Topic] = ck.Offset(r.Offset + 1)
	}
	var all []ck.TopicPartition
	for topic, offset := range next {
		all = append(all, ck.TopicPartition{Topic: &topic, Partition: w.partition, Offset: offset})
	}
	if _, err := w.client.StoreOffsets(all); err != nil && !w.stopped() {
		// Only tools look at these offsets; the position is in the database.
		w.note(func(s *Status) { s.Err = fmt.Errorf("store offsets for tools: %w", err) })
	}
}

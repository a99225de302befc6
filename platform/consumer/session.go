package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-dev/tidemark/platform/kafka"
)

// pollMillis bounds how long a request of a worker waits for the polling
// goroutine. A record ends the poll at once.
const pollMillis = 25

// session is one membership in the group. Everything but the workers runs on
// one goroutine, rebalance callbacks included, so its fields need no lock.
type session struct {
	*Consumer
	ctx      context.Context
	client   *ck.Consumer
	ids      map[string]string
	workers  map[int32]*worker
	requests chan func()
	fatal    error
}

// session joins the group and reads until the context ends or something
// breaks that only a new membership can mend.
func (c *Consumer) session(ctx context.Context) (err error) {
	admin, err := kafka.NewAdmin(c.cfg.Kafka, c.cfg.Group)
	if err != nil {
		return err
	}
	defer admin.Close()
	ids, err := c.topicIDs(ctx, admin)
	if err != nil {
		return err
	}
	client, err := kafka.NewConsumer(c.cfg.Kafka, kafka.ConsumerOptions{
		Group: c.cfg.Group, ClientID: c.cfg.Group, InstanceID: c.cfg.InstanceID,
		// Offsets are stored after each batch and committed in the background.
		Overrides: map[string]any{"enable.auto.commit": true, "auto.commit.interval.ms": 1000},
	})
	if err != nil {
		return err
	}
	s := &session{Consumer: c, ctx: ctx, client: client, ids: ids, workers: map[int32]*worker{}, requests: make(chan func(), 64)}
	defer func() {
		s.stopWorkers()
		err = errors.Join(err, s.leave())
	}()
	watched, unwatch := context.WithCancel(ctx)
	var watch errgroup.Group
	watch.Go(func() error { s.watchTopics(watched, admin); return nil })
	defer func() {
		unwatch()
		_ = watch.Wait()
	}()
	if err := client.SubscribeTopics(c.cfg.Topics, s.rebalance); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	for ctx.Err() == nil {
		s.serveRequests()
		switch ev := client.Poll(pollMillis).(type) {
		case *ck.Message:
			err = s.deliver(ev)
		case ck.Error:
			err = s.judge(ev)
		case *ck.Stats:
			_ = s.telemetry.Statistics(ev.String()) // it only shows; nothing is wrong with the consumer
		}
		if err = errors.Join(err, s.fatal); err != nil {
			return err
		}
	}
	return nil
}

// leaveGrace is how long the end of the process waits for a group coordinator
// that may be gone. Its answer changes nothing here: positions are stored.
const leaveGrace = 2 * time.Second

// leave ends the membership.
func (s *session) leave() error {
	left := make(chan error, 1)
	go func() { left <- s.client.Close() }()
	select {
	case err := <-left:
		return err
	case <-s.ctx.Done():
	}
	timer := time.NewTimer(leaveGrace)
	defer timer.Stop()
	select {
	case err := <-left:
		return err
	case <-timer.C:
		return nil
	}
}

// lookAgain is how often a session looks whether its topics are still the same.
const lookAgain = 3 * time.Second

// ErrTopicChanged says that a topic was deleted, or made again under its name:
// positions in it mean nothing any more.
var ErrTopicChanged = errors.New("a topic is not the one that was read")

// watchTopics ends the membership when a topic is not the one it was. A log
// that was made again and has grown past our position would be read on as if
// nothing had happened.
func (s *session) watchTopics(ctx context.Context, admin *ck.AdminClient) {
	for wait(ctx, lookAgain) {
		ids, err := s.topicIDs(ctx, admin)
		if err != nil && !errors.Is(err, kafka.ErrTopicMissing) {
			continue // a broker that is away shows elsewhere
		}
		if err == nil && maps.Equal(ids, s.ids) {
			continue
		}
		select {
		case s.requests <- func() { s.fatal = errors.Join(ErrTopicChanged, err) }:
		case <-ctx.Done():
		}
		return
	}
}

func (s *session) serveRequests() {
	for {
		select {
		case request := <-s.requests:
			request()
		default:
			return
		}
	}
}

// judge decides whether an error of the client ends the membership. Most do
// not: the client retries by itself.
func (s *session) judge(err ck.Error) error {
	switch err.Code() {
	case ck.ErrAutoOffsetReset, ck.ErrOffsetOutOfRange:
		return fmt.Errorf("the stored position lies outside the log, which was cut or made anew: %w", err)
	case ck.ErrMaxPollExceeded:
		return fmt.Errorf("left the group: %w", err)
	}
	if err.IsFatal() {
		return fmt.Errorf("kafka client: %w", err)
	}
	s.note(func(st *Status) {
		if err.Code() == ck.ErrAllBrokersDown {
			st.Err = err
		}
	})
	return nil
}

func (s *session) deliver(m *ck.Message) error {
	if m.TopicPartition.Error != nil {
		var e ck.Error
		if errors.As(m.TopicPartition.Error, &e) {
			return s.judge(e)
		}
		return m.TopicPartition.Error
	}
	w := s.workers[m.TopicPartition.Partition]
	if w == nil {
		return nil // revoked meanwhile
	}
	if w.put(recordOf(m)) {
		if err := s.client.Pause(s.topicsOf(w.partition, nil)); err != nil {
			return fmt.Errorf("pause: %w", err)
		}
	}
	return nil
}

// topicsOf lists a partition number of every topic, with offsets if given.
func (s *session) topicsOf(partition int32, offsets map[string]int64) []ck.TopicPartition {
	var all []ck.TopicPartition
	for _, topic := range s.cfg.Topics {
		all = append(all, ck.TopicPartition{Topic: &topic, Partition: partition, Offset: ck.Offset(offsets[topic])})
	}
	return all
}

func (s *session) rebalance(_ *ck.Consumer, ev ck.Event) error {
	switch ev := ev.(type) {
	case ck.AssignedPartitions:
		s.assign(ev.Partitions)
	case ck.RevokedPartitions:
		s.stopWorkers()
		s.note(func(st *Status) { st.Assigned = nil })
		if err := s.client.Unassign(); err != nil {
			s.fatal = fmt.Errorf("unassign: %w", err)
		}
	}
	return nil
}

// assign claims every partition number and starts where its position says.
func (s *session) assign(partitions []ck.TopicPartition) {
	topics := map[int32]int{}
	for _, p := range partitions {
		topics[p.Partition]++
	}
	var numbers []int32
	for number, n := range topics {
		if n != len(s.cfg.Topics) {
			s.fatal = fmt.Errorf("partition number %d was assigned for %d of %d topics", number, n, len(s.cfg.Topics))
			return
		}
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	offsets := make([]map[string]int64, len(numbers))
	var group errgroup.Group
	for i, number := range numbers {
		group.Go(func() (err error) {
			offsets[i], err = s.claim(number)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		s.fatal = err
		return
	}
	var all []ck.TopicPartition
	for i, number := range numbers {
		all = append(all, s.topicsOf(number, offsets[i])...)
		s.workers[number] = s.newWorker(number, offsets[i])
	}
	if err := s.client.Assign(all); err != nil {
		s.fatal = fmt.Errorf("assign: %w", err)
		return
	}
	for _, w := range s.workers {
		go w.run()
	}
	s.note(func(st *Status) { st.Assigned, st.Err = numbers, nil })
}

// claimTime is how long the group is kept waiting for a handler's database: half
// of what it waits for any poll.
const claimTime = 15 * time.Second

// claim tries until the handler's database answers.
func (s *session) claim(partition int32) (map[string]int64, error) {
	deadline := time.Now().Add(claimTime)
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		offsets, err := s.handler.Claim(s.ctx, partition, s.ids)
		if err == nil {
			return offsets, nil
		}
		if s.note(func(st *Status) { st.Err = err }); time.Now().After(deadline) || !wait(s.ctx, pause) {
			return nil, fmt.Errorf("claim partition number %d: %w", partition, err)
		}
	}
}

// reclaim takes a partition number back after somebody else claimed it while
// the group still says it is ours, and moves the reading place to what is
// stored now.
func (s *session) reclaim(w *worker) {
	if s.workers[w.partition] != w {
		return
	}
	offsets, err := s.handler.Claim(s.ctx, w.partition, s.ids)
	if err == nil {
		if w.reset(offsets) {
			s.resume(w)
		}
		for _, tp := range s.topicsOf(w.partition, offsets) {
			if err := s.client.Seek(tp, 5000); err != nil {
				s.fatal = fmt.Errorf("seek after a new claim: %w", err)
				return
			}
		}
	}
	w.reclaimed <- err
}

func (s *session) resume(w *worker) {
	if s.workers[w.partition] != w {
		return
	}
	if err := s.client.Resume(s.topicsOf(w.partition, nil)); err != nil {
		s.fatal = fmt.Errorf("resume: %w", err)
	}
}

func (s *session) stopWorkers() {
	for _, w := range s.workers {
		close(w.stop)
	}
	for number, w := range s.workers {
		w.await()
		delete(s.workers, number)
	}
}

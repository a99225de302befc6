package kafkaotel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// statisticsFor is how long a client's last statistics count. They come every
// statistics.interval.ms, which should be well below; a client that is gone
// leaves the metrics this much later.
const statisticsFor = 2 * time.Minute

// statistics holds the newest statistics of each client of the process and
// shows them when metrics are collected.
type statistics struct {
	meter    metric.Meter
	register func() error // once, with the first statistics

	mu      sync.Mutex
	clients map[string]snapshot // by the library's name of the client
}

type snapshot struct {
	at time.Time
	report
}

// report is the part of librdkafka's statistics that is shown. Its document
// STATISTICS.md says what the fields mean.
type report struct {
	Name     string `json:"name"`
	ClientID string `json:"client_id"`
	Type     string `json:"type"` // "producer" or "consumer"
	Messages int64  `json:"msg_cnt"`
	Bytes    int64  `json:"msg_size"`
	Replies  int64  `json:"replyq"`
	Sent     int64  `json:"tx_bytes"`
	Received int64  `json:"rx_bytes"`
	Brokers  map[string]struct {
		Node        int64  `json:"nodeid"` // -1: a bootstrap address, or a role and not a broker
		State       string `json:"state"`
		Waiting     int64  `json:"waitresp_cnt"`
		SendErrors  int64  `json:"txerrs"`
		Retries     int64  `json:"txretries"`
		Timeouts    int64  `json:"req_timeouts"`
		ReadErrors  int64  `json:"rxerrs"`
		Disconnects int64  `json:"disconnects"`
		RTT         struct {
			Average int64 `json:"avg"` // microseconds
			P99     int64 `json:"p99"`
		} `json:"rtt"`
	} `json:"brokers"`
	Topics map[string]struct {
		Partitions map[string]struct {
			Lag     int64 `json:"consumer_lag"` // -1: not known
			Fetched int64 `json:"fetchq_cnt"`
		} `json:"partitions"`
	} `json:"topics"`
	Group *struct {
		Rebalances int64 `json:"rebalance_cnt"`
		Assigned   int64 `json:"assignment_size"`
	} `json:"cgrp"`
}

func newStatistics(meter metric.Meter) *statistics {
	s := &statistics{meter: meter, clients: map[string]snapshot{}}
	s.register = sync.OnceValue(s.instruments)
	return s
}

// Statistics takes one statistics document of a client: the text of a
// *kafka.Stats event, which comes from Poll or Events() when the client is
// configured with statistics.interval.ms. What it says is shown with every
// collection of metrics until the next one comes, for two minutes at most.
func (t *Telemetry) Statistics(text string) error {
	var r report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return fmt.Errorf("kafka client statistics: %w", err)
	}
	if r.Name == "" {
		return errors.New("kafka client statistics: no name")
	}
	if err := t.stats.register(); err != nil {
		return fmt.Errorf("kafka client statistics: %w", err)
	}
	t.stats.mu.Lock()
	defer t.stats.mu.Unlock()
	t.stats.clients[r.Name] = snapshot{time.Now(), r}
	return nil
}

// instruments makes the instruments and their one callback.
func (s *statistics) instruments() error {
	var all []metric.Observable
	var errs []error
	gauge := func(name, unit, help string) metric.Int64ObservableGauge {
		i, err := s.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(help))
		all, errs = append(all, i), append(errs, err)
		return i
	}
	counter := func(name, unit, help string) metric.Int64ObservableCounter {
		i, err := s.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(help))
		all, errs = append(all, i), append(errs, err)
		return i
	}
	rtt, err := s.meter.Float64ObservableGauge("kafka.client.broker.rtt", metric.WithUnit("s"),
		metric.WithDescription("Round trip of requests to a broker over the last interval, by quantile."))
	all, errs = append(all, rtt), append(errs, err)
	queued := gauge("kafka.client.queue.messages", "{message}", "Messages that wait in the client: to be sent, or for their delivery report.")
	bytes := gauge("kafka.client.queue.size", "By", "Bytes of the messages that wait in the client.")
	events := gauge("kafka.client.queue.events", "{event}", "Events that wait for the application to poll them.")
	io := counter("kafka.client.io", "By", "Bytes exchanged with the brokers.")
	up := gauge("kafka.client.broker.up", "1", "1 while the connection to a broker is up, else 0.")
	waiting := gauge("kafka.client.broker.requests", "{request}", "Requests to a broker that wait for their response.")
	failures := counter("kafka.client.broker.failures", "{failure}", "What went wrong with a broker, by kind.")
	lag := gauge("kafka.client.consumer.lag", "{message}", "Messages of a partition that are not stored as processed.")
	fetched := gauge("kafka.client.consumer.fetched", "{message}", "Messages of a partition that wait in the client for the application.")
	rebalances := counter("kafka.client.consumer.rebalances", "{rebalance}", "Rebalances of the consumer group that this client saw.")
	assigned := gauge("kafka.client.consumer.partitions", "{partition}", "Partitions assigned to this client.")
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err = s.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, c := range s.current() {
			base := []attribute.KeyValue{semconv.MessagingSystemKafka, semconv.MessagingClientID(c.ClientID)}
			with := func(more ...attribute.KeyValue) metric.MeasurementOption {
				return metric.WithAttributeSet(attribute.NewSet(append(more, base...)...))
			}
			client := with()
			o.ObserveInt64(queued, c.Messages, client)
			o.ObserveInt64(bytes, c.Bytes, client)
			o.ObserveInt64(events, c.Replies, client)
			o.ObserveInt64(io, c.Sent, with(semconv.NetworkIODirectionTransmit))
			o.ObserveInt64(io, c.Received, with(semconv.NetworkIODirectionReceive))
			for _, b := range c.Brokers {
				if b.Node < 0 {
					continue
				}
				node := attribute.String("kafka.broker.id", strconv.FormatInt(b.Node, 10))
				o.ObserveInt64(up, map[bool]int64{true: 1}[b.State == "UP"], with(node))
				o.ObserveInt64(waiting, b.Waiting, with(node))
				o.ObserveFloat64(rtt, float64(b.RTT.Average)/1e6, with(node, attribute.String("quantile", "avg")))
				o.ObserveFloat64(rtt, float64(b.RTT.P99)/1e6, with(node, attribute.String("quantile", "0.99")))
				for kind, n := range map[string]int64{
					"send": b.SendErrors, "receive": b.ReadErrors, "retry": b.Retries, "timeout": b.Timeouts, "disconnect": b.Disconnects,
				} {
					o.ObserveInt64(failures, n, with(node, attribute.String("kind", kind)))
				}
			}
			if c.Group == nil {
				continue
			}
			o.ObserveInt64(rebalances, c.Group.Rebalances, client)
			o.ObserveInt64(assigned, c.Group.Assigned, client)
			for topic, t := range c.Topics {
				for id, p := range t.Partitions {
					if id == "-1" || p.Lag < 0 {
						continue // not a partition, or not one of ours
					}
					place := with(semconv.MessagingDestinationName(topic), semconv.MessagingDestinationPartitionID(id))
					o.ObserveInt64(lag, p.Lag, place)
					o.ObserveInt64(fetched, p.Fetched, place)
				}
			}
		}
		return nil
	}, all...)
	return err
}

// current returns the newest report of each client that still sends them.
func (s *statistics) current() []snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []snapshot
	for name, c := range s.clients {
		if time.Since(c.at) > statisticsFor {
			delete(s.clients, name)
			continue
		}
		all = append(all, c)
	}
	return all
}

// Package embedded runs the fleet's servers inside one process: a broker that
// speaks the Kafka protocol and a schema registry, both with a data directory.
// They carry the embedded run and most tests. They are one node without
// replication, and no replacement for the real ones.
package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/tidemark-dev/tidemark/platform/kafka"
)

// BrokerConfig describes an embedded broker.
type BrokerConfig struct {
	// Dir keeps the topics. Empty means memory only.
	Dir string
	// Port is the TCP port on 127.0.0.1; 0 takes a free one.
	Port int
	// Partitions of every topic; 0 means kafka.DefaultPartitions. It has an
	// effect only when the topics are made, at the first start on Dir.
	Partitions int32
	// Log gets the broker's warnings. Nil discards them.
	Log *slog.Logger
}

// Broker is a running embedded broker. Acknowledged records survive a kill of
// the process; a Close also saves what the broker knows about its producers.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
}

// StartBroker starts a broker, makes Tidemark's topics where they are missing,
// and returns when it serves.
func StartBroker(ctx context.Context, config BrokerConfig) (*Broker, error) {
	options := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.Ports(config.Port),
		kfake.ClusterID("tidemark-embedded"),
		// Restarted consumers come back in a second; real Kafka's floor of six
		// seconds would only make tests and kills slower.
		kfake.GroupMinSessionTimeout(time.Second),
		kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}),
	}
	if config.Dir != "" {
		if err := os.MkdirAll(config.Dir, 0o755); err != nil {
			return nil, fmt.Errorf("make the broker's directory: %w", err)
		}
		options = append(options, kfake.DataDir(config.Dir))
	}
	if config.Log != nil {
		options = append(options, kfake.WithLogger(brokerLog{config.Log}))
	}
	if config.Port != 0 {
		if err := portIsFree(config.Port); err != nil {
			return nil, fmt.Errorf("broker port %d: %w", config.Port, err)
		}
	}
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		return nil, fmt.Errorf("start the embedded broker: %w", err)
	}
	b := &Broker{cluster: cluster, addr: cluster.ListenAddrs()[0]}
	if err := kafka.CreateTopics(ctx, kafka.Config{Brokers: b.addr, Partitions: config.Partitions, Replication: 1}); err != nil {
		b.Close()
		return nil, fmt.Errorf("make the topics: %w", err)
	}
	return b, nil
}

// Addr returns host:port, as a bootstrap server list.
func (b *Broker) Addr() string { return b.addr }

// Cluster returns the broker itself, for tests: it injects faults (Fault,
// ControlKey), moves partitions, compacts, and tells about topics and groups.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Close stops serving and writes everything out. It may be called twice.
func (b *Broker) Close() { b.cluster.Close() }

func portIsFree(port int) error {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return listener.Close()
}

// brokerLog passes the broker's warnings and errors on.
type brokerLog struct{ log *slog.Logger }

func (l brokerLog) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.log.Error("embedded broker", "message", fmt.Sprintf(format, args...))
	case kfake.LogLevelWarn:
		l.log.Warn("embedded broker", "message", fmt.Sprintf(format, args...))
	default: // the rest is about every request
	}
}

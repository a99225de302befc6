// Package kafka is the one place that configures a confluent-kafka-go client.
// What it hands out are the library's own clients, so nothing is hidden; what
// it takes away is the freedom to configure them differently in two places.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// Topics of Tidemark. Every context has one topic for its events; the control
// topic is compacted and carries what is said while nothing happens.
const (
	TopicOrder    = "tidemark.order.events"
	TopicPayment  = "tidemark.payment.events"
	TopicShipment = "tidemark.shipment.events"
	TopicControl  = "tidemark.control"
)

// EventsTopic returns the topic of a source ("order", "payment", "shipment").
func EventsTopic(source string) string { return "tidemark." + source + ".events" }

// Topics returns every topic of the deployment.
func Topics() []string { return []string{TopicOrder, TopicPayment, TopicShipment, TopicControl} }

// MaxMessageBytes is the largest message that is ever produced. A command whose
// event would be larger is refused, so the limit is met at command time.
const MaxMessageBytes = 512 << 10

// DefaultPartitions is the partition count of every topic unless configured.
const DefaultPartitions = 8

// Config says where the broker is. It is shared by everything that talks to Kafka.
type Config struct {
	Brokers     string `help:"Kafka bootstrap servers, comma separated." default:"127.0.0.1:7092"`
	RegistryURL string `help:"Schema registry URL." default:"http://127.0.0.1:7081" name:"registry-url"`
	// SchemaIDs says whose schema ids frames carry; see avro.Numbering.
	SchemaIDs  string `help:"Schema ids in frames: lock (ours, works without the registry) or registry (the registry's own)." default:"lock" enum:"lock,registry" name:"schema-ids"`
	Partitions int32  `help:"Partitions of every topic; fixed for ever in a deployment." default:"8"`
	// Replication is used only when topics are created by CreateTopics.
	Replication int `help:"Replication factor of topics that are created." default:"1"`
	// Extra are librdkafka properties "name=value" for security settings.
	Extra []string `help:"Further librdkafka properties (security.protocol=…)." name:"property" sep:";"`
}

// PartitionCount returns the configured number of partitions, or the default.
func (c Config) PartitionCount() int32 {
	if c.Partitions > 0 {
		return c.Partitions
	}
	return DefaultPartitions
}

func (c Config) base(clientID string) (ck.ConfigMap, error) {
	m := ck.ConfigMap{
		"bootstrap.servers":        c.Brokers,
		"client.id":                clientID,
		"enable.metrics.push":      false,
		"reconnect.backoff.ms":     20,
		"reconnect.backoff.max.ms": 1000,
		"socket.keepalive.enable":  true,
		"socket.nagle.disable":     true,
		"log.connection.close":     false,
		"log_level":                0, // errors come as events; stderr is not ours to write to
	}
	for _, kv := range c.Extra {
		name, value, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, fmt.Errorf("kafka property %q is not name=value", kv)
		}
		m[name] = value
	}
	return m, nil
}

// statisticsMillis is how often clients report about themselves, as events that
// whoever polls them hands to kafkaotel.
const statisticsMillis = 15_000

// NewProducer returns an idempotent producer that never gives up on a message:
// acks=all, no message timeout. An in-flight message is therefore never
// cancelled; only a fatal error ends it, and then the producer must be replaced.
// The caller must drain Events().
func NewProducer(c Config, clientID string) (*ck.Producer, error) {
	m, err := c.base(clientID)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]ck.ConfigValue{
		"enable.idempotence":           true,
		"statistics.interval.ms":       statisticsMillis,
		"acks":                         "all",
		"message.timeout.ms":           0,
		"linger.ms":                    0, // half a millisecond becomes more than one: the client sleeps in whole ones
		"max.in.flight":                5,
		"retry.backoff.ms":             50,
		"retry.backoff.max.ms":         1000,
		"message.max.bytes":            MaxMessageBytes + 64<<10,
		"compression.type":             "lz4",
		"queue.buffering.max.messages": 100_000,
		"queue.buffering.max.kbytes":   256 << 10,
		"go.produce.channel.size":      0,
		"go.delivery.report.fields":    "none", // reports say where a message went, not what it was
		"go.events.channel.size":       10_000,
	} {
		m[name] = value
	}
	p, err := ck.NewProducer(&m)
	if err != nil {
		return nil, fmt.Errorf("new kafka producer for %s: %w", c.Brokers, err)
	}
	return p, nil
}

// ConsumerOptions are the few things in which consumers differ.
type ConsumerOptions struct {
	// Group is the consumer group. It is required even when partitions are
	// assigned by hand.
	Group    string
	ClientID string
	// InstanceID makes the member static, so that a quick restart does not rebalance.
	InstanceID string
	// Overrides are librdkafka properties for this consumer alone.
	Overrides map[string]any
}

// NewConsumer returns a consumer that never decides where to start
// (auto.offset.reset=error), never commits by itself, and keeps the same
// partition number of all topics together: range assignment in the classic
// protocol is the only one that does.
func NewConsumer(c Config, o ConsumerOptions) (*ck.Consumer, error) {
	m, err := c.base(o.ClientID)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]ck.ConfigValue{
		"group.id":                      o.Group,
		"statistics.interval.ms":        statisticsMillis,
		"group.protocol":                "classic",
		"partition.assignment.strategy": "range",
		"auto.offset.reset":             "error",
		"enable.auto.commit":            false,
		"enable.auto.offset.store":      false,
		"enable.partition.eof":          false,
		"fetch.wait.max.ms":             100,
		"fetch.min.bytes":               1,
		"fetch.error.backoff.ms":        50,
		"fetch.queue.backoff.ms":        10,
		"queued.min.messages":           2_000,
		"queued.max.messages.kbytes":    16 << 10,
		"session.timeout.ms":            10_000,
		"heartbeat.interval.ms":         1_000,
		"max.poll.interval.ms":          30_000, // also how long the group waits for a member that died while it joined
		"isolation.level":               "read_committed",
		"allow.auto.create.topics":      false,
	} {
		m[name] = value
	}
	if o.InstanceID != "" {
		m["group.instance.id"] = o.InstanceID
	}
	for name, value := range o.Overrides {
		m[name] = value
	}
	consumer, err := ck.NewConsumer(&m)
	if err != nil {
		return nil, fmt.Errorf("new kafka consumer %s for %s: %w", o.Group, c.Brokers, err)
	}
	return consumer, nil
}

// NewAdmin returns an admin client. Never call it with a nil context: the
// library dereferences it.
func NewAdmin(c Config, clientID string) (*ck.AdminClient, error) {
	m, err := c.base(clientID)
	if err != nil {
		return nil, err
	}
	a, err := ck.NewAdminClient(&m)
	if err != nil {
		return nil, fmt.Errorf("new kafka admin client for %s: %w", c.Brokers, err)
	}
	return a, nil
}

// CreateTopics creates the topics that do not exist yet, for embedded runs and
// tests; a real deployment creates them by its own means. Event topics keep
// everything; the control topic is compacted.
func CreateTopics(ctx context.Context, c Config) error {
	admin, err := NewAdmin(c, "tidemark-topics")
	if err != nil {
		return err
	}
	defer admin.Close()
	specs := make([]ck.TopicSpecification, 0, len(Topics()))
	for _, topic := range Topics() {
		config := map[string]string{
			"cleanup.policy":    "delete",
			"retention.ms":      "-1",
			"retention.bytes":   "-1",
			"max.message.bytes": fmt.Sprint(MaxMessageBytes + 64<<10),
		}
		if topic == TopicControl {
			config["cleanup.policy"] = "compact"
		}
		specs = append(specs, ck.TopicSpecification{
			Topic: topic, NumPartitions: int(c.PartitionCount()), ReplicationFactor: max(1, c.Replication), Config: config,
		})
	}
	results, err := admin.CreateTopics(ctx, specs, ck.SetAdminOperationTimeout(20*time.Second))
	if err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	for _, r := range results {
		if code := r.Error.Code(); code != ck.ErrNoError && code != ck.ErrTopicAlreadyExists {
			return fmt.Errorf("create topic %s: %w", r.Topic, r.Error)
		}
	}
	return nil
}

// Topic is what identifies one topic of one cluster. A topic that was deleted
// and created again has another ID.
type Topic struct {
	Name       string
	ID         string
	Partitions int32
}

// ErrTopicMissing says that a topic does not exist (yet).
var ErrTopicMissing = errors.New("topic does not exist")

// DescribeTopic returns the identity and partition count of one topic.
func DescribeTopic(ctx context.Context, admin *ck.AdminClient, name string) (Topic, error) {
	res, err := admin.DescribeTopics(ctx, ck.NewTopicCollectionOfTopicNames([]string{name}), ck.SetAdminRequestTimeout(10*time.Second))
	if err != nil {
		return Topic{}, fmt.Errorf("describe topic %s: %w", name, err)
	}
	if len(res.TopicDescriptions) != 1 {
		return Topic{}, fmt.Errorf("describe topic %s: %d answers", name, len(res.TopicDescriptions))
	}
	d := res.TopicDescriptions[0]
	switch d.Error.Code() {
	case ck.ErrNoError:
	case ck.ErrUnknownTopicOrPart, ck.ErrUnknownTopic:
		return Topic{}, fmt.Errorf("topic %s: %w", name, ErrTopicMissing)
	default:
		return Topic{}, fmt.Errorf("describe topic %s: %w", name, d.Error)
	}
	return Topic{Name: name, ID: d.TopicID.String(), Partitions: int32(len(d.Partitions))}, nil
}

// CheckTopic describes a topic and refuses another partition count than the
// configured one: events carry the partition that was computed from it.
func CheckTopic(ctx context.Context, c Config, admin *ck.AdminClient, name string) (Topic, error) {
	t, err := DescribeTopic(ctx, admin, name)
	if err != nil {
		return Topic{}, err
	}
	if t.Partitions != c.PartitionCount() {
		return Topic{}, fmt.Errorf("topic %s has %d partitions, configured are %d: the count is fixed for ever", name, t.Partitions, c.PartitionCount())
	}
	return t, nil
}

// ClusterID returns the id of the cluster behind the admin client.
func ClusterID(ctx context.Context, admin *ck.AdminClient) (string, error) {
	id, err := admin.ClusterID(ctx)
	if err != nil {
		return "", fmt.Errorf("ask for the cluster id: %w", err)
	}
	return id, nil
}

package kafka_test

import (
	"fmt"
	"testing"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"

	platformkafka "github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/tests/integration/kafka"
)

// TestRealKafkaKeepsWhatItAcknowledged proves the starter: what the product's
// own clients produce comes back, also after a kill.
func TestRealKafkaKeepsWhatItAcknowledged(t *testing.T) {
	server := kafka.Start(t)
	config := platformkafka.Config{Brokers: server.Addr()}
	const records = 100
	produce(t, config, records)
	consume(t, config, records)

	server.Kill()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	consume(t, config, records)
}

func produce(t *testing.T, config platformkafka.Config, n int) {
	t.Helper()
	producer, err := platformkafka.NewProducer(config, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	topic := platformkafka.TopicOrder
	acknowledged := make(chan ck.Event, n)
	for i := range n {
		err := producer.Produce(&ck.Message{
			TopicPartition: ck.TopicPartition{Topic: &topic, Partition: int32(i % platformkafka.DefaultPartitions)},
			Value:          []byte(fmt.Sprint(i)),
		}, acknowledged)
		if err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		message, ok := (<-acknowledged).(*ck.Message)
		if !ok || message.TopicPartition.Error != nil {
			t.Fatalf("not acknowledged: %v", message)
		}
	}
}

func consume(t *testing.T, config platformkafka.Config, n int) {
	t.Helper()
	consumer, err := platformkafka.NewConsumer(config, platformkafka.ConsumerOptions{Group: "test", ClientID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	topic := platformkafka.TopicOrder
	var all []ck.TopicPartition
	for p := range int32(platformkafka.DefaultPartitions) {
		all = append(all, ck.TopicPartition{Topic: &topic, Partition: p, Offset: 0})
	}
	if err := consumer.Assign(all); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for deadline := time.Now().Add(30 * time.Second); len(seen) < n; {
		if time.Now().After(deadline) {
			t.Fatalf("got %d of %d records", len(seen), n)
		}
		if message, err := consumer.ReadMessage(100 * time.Millisecond); err == nil {
			seen[string(message.Value)] = true
		}
	}
}

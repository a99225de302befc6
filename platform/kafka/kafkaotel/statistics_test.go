package kafkaotel_test

import (
	"testing"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// points returns the data of a metric by its attributes, whole numbers only.
func (r recorded) points(t *testing.T, name string) map[attribute.Set]int64 {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := r.metrics.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	all := map[attribute.Set]int64{}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			var points []metricdata.DataPoint[int64]
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				points = d.DataPoints
			case metricdata.Gauge[int64]:
				points = d.DataPoints
			}
			for _, p := range points {
				all[p.Attributes] = p.Value
			}
		}
	}
	return all
}

// The statistics of a real client become metrics under today's attributes, and
// the newest ones count.
func TestClientStatistics(t *testing.T) {
	topic := "orders"
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	brokers := broker.ListenAddrs()[0]
	r := record(t)
	producer, err := ck.NewProducer(&ck.ConfigMap{"bootstrap.servers": brokers, "client.id": "writer", "statistics.interval.ms": 50, "enable.metrics.push": false})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	for range 3 {
		if err := producer.Produce(&ck.Message{TopicPartition: ck.TopicPartition{Topic: &topic}, Value: []byte("x")}, nil); err != nil {
			t.Fatal(err)
		}
	}
	writer := []attribute.KeyValue{attribute.String("messaging.system", "kafka"), attribute.String("messaging.client.id", "writer")}
	sent := attribute.NewSet(append(writer, attribute.String("network.io.direction", "transmit"))...)
	deadline := time.After(20 * time.Second)
	for acknowledged := 0; acknowledged < 3 || r.points(t, "kafka.client.io")[sent] == 0; {
		select {
		case e := <-producer.Events():
			switch e := e.(type) {
			case *ck.Message:
				acknowledged++
			case *ck.Stats:
				if err := r.Statistics(e.String()); err != nil {
					t.Fatal(err)
				}
			}
		case <-deadline:
			t.Fatal("no statistics")
		}
	}
	consumer, err := ck.NewConsumer(&ck.ConfigMap{
		"bootstrap.servers": brokers, "client.id": "reader", "enable.metrics.push": false, "group.id": "g", "auto.offset.reset": "earliest",
		"statistics.interval.ms": 50, "enable.auto.offset.store": false,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = consumer.Close() }()
	if err := consumer.Subscribe(topic, nil); err != nil {
		t.Fatal(err)
	}
	reader := []attribute.KeyValue{attribute.String("messaging.system", "kafka"), attribute.String("messaging.client.id", "reader")}
	lag := attribute.NewSet(append(reader, attribute.String("messaging.destination.name", topic), attribute.String("messaging.destination.partition.id", "0"))...)
	stop := time.Now().Add(30 * time.Second)
	for read := 0; read < 3 || r.points(t, "kafka.client.consumer.lag")[lag] == 0; {
		switch e := consumer.Poll(100).(type) {
		case *ck.Message:
			if read++; read == 2 { // one of three is left: the lag
				if _, err := consumer.StoreMessage(e); err != nil {
					t.Fatal(err)
				}
			}
		case *ck.Stats:
			if err := r.Statistics(e.String()); err != nil {
				t.Fatal(err)
			}
		}
		if time.Now().After(stop) {
			t.Fatalf("no lag after %d messages: %v", read, r.points(t, "kafka.client.consumer.lag"))
		}
	}
	up := 0
	for set, value := range r.points(t, "kafka.client.broker.up") {
		if id, ok := set.Value("kafka.broker.id"); !ok || id.AsString() == "-1" {
			t.Errorf("a broker that is none: %v", set.ToSlice())
		}
		up += int(value)
	}
	if up < 2 {
		t.Errorf("%d connections are up", up)
	}
	if assigned := r.points(t, "kafka.client.consumer.partitions"); assigned[attribute.NewSet(reader...)] != 1 || len(assigned) != 1 {
		t.Errorf("assigned %v", assigned)
	}
	for _, text := range []string{"", "{}", "[]", `{"name":1}`} {
		if r.Statistics(text) == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

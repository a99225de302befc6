package kafkaotel_test

import (
	"context"
	"fmt"
	"log"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/twmb/franz-go/pkg/kfake"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/tidemark-dev/tidemark/platform/kafka/kafkaotel"
)

// A producer and a consumer of one topic. The message is caused by a request,
// travels with its trace, and is processed in a batch of which the request's
// span is a link.
func Example() {
	ctx := context.Background()
	spans := tracetest.NewInMemoryExporter() // in earnest: an OTLP exporter
	tracing := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	telemetry, err := kafkaotel.New(tracing, sdkmetric.NewMeterProvider())
	if err != nil {
		log.Fatal(err)
	}
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders")) // in earnest: Apache Kafka
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Close()
	brokers := broker.ListenAddrs()[0]

	producer, err := ck.NewProducer(&ck.ConfigMap{
		"bootstrap.servers": brokers, "client.id": "shop", "statistics.interval.ms": 15_000, "enable.metrics.push": false,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer producer.Close()
	request, span := tracing.Tracer("shop").Start(ctx, "POST /orders")
	topic := "orders"
	message := &ck.Message{TopicPartition: ck.TopicPartition{Topic: &topic, Partition: ck.PartitionAny}, Value: []byte("one order")}
	kafkaotel.Inject(request, message)
	message.Opaque = telemetry.Send(request, message)
	if err := producer.Produce(message, nil); err != nil {
		message.Opaque.(kafkaotel.Sending).Done(ctx, nil, err)
		log.Fatal(err)
	}
	span.End()
	for sent := false; !sent; {
		switch e := (<-producer.Events()).(type) {
		case *ck.Message: // the delivery report
			e.Opaque.(kafkaotel.Sending).Done(ctx, e, e.TopicPartition.Error)
			sent = true
		case *ck.Stats:
			_ = telemetry.Statistics(e.String())
		}
	}

	consumer, err := ck.NewConsumer(&ck.ConfigMap{
		"bootstrap.servers": brokers, "client.id": "mailer", "statistics.interval.ms": 15_000, "enable.metrics.push": false,
		"group.id": "mailer", "auto.offset.reset": "earliest",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = consumer.Close() }()
	if err := consumer.Subscribe(topic, nil); err != nil {
		log.Fatal(err)
	}
	var batch []*ck.Message
	for deadline := time.Now().Add(30 * time.Second); len(batch) == 0 && time.Now().Before(deadline); {
		switch e := consumer.Poll(100).(type) {
		case *ck.Message:
			batch = append(batch, e)
		case *ck.Stats:
			_ = telemetry.Statistics(e.String())
		}
	}
	work, processing := telemetry.Process(ctx, "orders", "mailer", batch)
	_ = work // goes to whatever is called for the batch
	processing.Done(ctx, nil)

	for _, s := range spans.GetSpans() {
		fmt.Printf("%s %s, child of the request: %v, links: %d\n", s.SpanKind, s.Name,
			s.Parent.SpanID() == span.SpanContext().SpanID(), len(s.Links))
	}
	// Output:
	// internal POST /orders, child of the request: false, links: 0
	// producer send orders, child of the request: true, links: 0
	// consumer process orders, child of the request: false, links: 1
}

package shipment

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	shipmentpb "github.com/tidemark-dev/tidemark/proto/shipment/v1"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// collector decodes the facts it is handed, with no registry.
type collector struct {
	codec *avro.Codec
	facts chan event.Fact
}

func (c collector) Claim(context.Context, int32, map[string]string) (map[string]int64, error) {
	return nil, nil
}

func (c collector) Handle(ctx context.Context, _ int32, records []consumer.Record) error {
	for _, r := range records {
		if event.IsControl(r.Headers) {
			continue
		}
		fact, err := c.codec.DecodeRecord(r.Headers, r.Key, r.Value)
		if err != nil {
			return err
		}
		select {
		case c.facts <- fact:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// The service starts, decides and publishes, in today's versions, while nobody
// answers at the registry's address; and readers decode without it.
func TestARegistryThatIsDownStopsNoFact(t *testing.T) {
	var brokers string
	conn := start(t, func(cfg *Config) {
		cfg.Kafka.RegistryURL = "http://127.0.0.1:1"
		brokers = cfg.Kafka.Brokers
	})
	s := shipmentpb.NewShipmentServiceClient(conn)
	planned, err := s.PlanShipment(t.Context(), planning("o-1"))
	if err != nil {
		t.Fatal(err)
	}
	id := planned.GetShipment().GetShipmentId()
	if _, err = s.DispatchShipment(t.Context(), &shipmentpb.DispatchShipmentRequest{RequestId: uuid.NewString(), ShipmentId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err = s.RecordScan(t.Context(), &shipmentpb.RecordScanRequest{RequestId: uuid.NewString(), ShipmentId: id, Location: "Depot 3, Leipzig"}); err != nil {
		t.Fatal(err)
	}
	last, err := s.ReportDelay(t.Context(), &shipmentpb.ReportDelayRequest{RequestId: uuid.NewString(), ShipmentId: id})
	if err != nil {
		t.Fatal(err)
	}
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	reader := collector{codec, make(chan event.Fact)}
	c, err := consumer.New(consumer.Config{
		Kafka: kafka.Config{Brokers: brokers}, Group: "reader", Topics: []string{kafka.TopicShipment}, Telemetry: telemetry.Off(), Log: slog.New(slog.DiscardHandler),
	}, reader)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() {
		cancel()
		<-done
	}()
	for _, want := range []string{"ShipmentPlanned/1", "ShipmentDispatched/1", "ShipmentScanned/2", "ShipmentStalled/1"} {
		select {
		case fact := <-reader.facts:
			got := schemas.Key{Name: fact.Type, Version: fact.SchemaVersion}.String()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if f, ok := fact.Body.(*facts.ShipmentScanned); ok && (f.Location != "Depot 3, Leipzig" || f.Facility != "Depot 3" || f.Area != "Leipzig") {
				t.Errorf("%+v", f)
			}
			if want == "ShipmentStalled/1" && fact.ID != last.GetToken().GetEventId() {
				t.Errorf("event %s, the token says %s", fact.ID, last.GetToken().GetEventId())
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no %s", want)
		}
	}
}

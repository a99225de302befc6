package avro_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/facts"
)

func newCodec(t testing.TB, set *schemas.Set) *avro.Codec {
	t.Helper()
	codec, err := avro.NewCodec(set)
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

func money(amount int64) facts.Money { return facts.Money{Amount: amount, Currency: "BRL"} }

func placed() *facts.OrderPlaced {
	return &facts.OrderPlaced{
		OrderID: "o-1", CustomerID: "c-1", Actor: "customer", Fulfilment: facts.FulfilmentManaged, Channel: "web",
		Lines:       []facts.OrderLine{{LineID: "1", SKU: "tea", Quantity: 2, UnitPrice: money(450), Warehouse: "north"}},
		ShippingFee: money(100), Total: money(1000),
		PaymentPlan: []facts.PlannedPayment{{Method: facts.PaymentMethodCard, Amount: money(1000), Reference: "tok"}},
	}
}

// record returns a fact as it lies in Kafka.
func record(t testing.TB, codec *avro.Codec) (headers []event.Header, key, value []byte) {
	t.Helper()
	name, version, bare, err := codec.Encode(placed())
	if err != nil {
		t.Fatal(err)
	}
	id, _ := codec.ID(name, version)
	return envelope().Headers(), []byte("o-1"), avro.Frame(id, bare)
}

func envelope() event.Envelope {
	now := time.Date(2026, 11, 30, 10, 15, 2, 123456000, time.UTC)
	return event.Envelope{
		ID: "e-1", Source: "order", Type: "OrderPlaced", SchemaVersion: 1,
		Aggregate: event.Aggregate{Type: "order", ID: "o-1"}, Version: 1, Epoch: "ep", Key: "o-1", OccurredAt: now, RecordedAt: now,
	}
}

type goldenCase struct {
	schemas.Key
	Case string
	Bare []byte
}

// goldens returns the released bytes that the schemas module keeps.
func goldens(t testing.TB) []goldenCase {
	t.Helper()
	var all []goldenCase
	for _, schema := range schemas.Catalog().All() {
		path := filepath.Join("..", "..", "schemas", "testdata", "golden", fmt.Sprintf("%s.v%d.json", schema.Name, schema.Version))
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var cases []struct{ Case, Hex string }
		if err := json.Unmarshal(text, &cases); err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			bare, err := hex.DecodeString(c.Hex)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, goldenCase{schema.Key, c.Case, bare})
		}
	}
	return all
}

// made is an event of a made-up schema.
type made struct {
	name    string
	version int
	Value   map[string]any
}

func (m *made) FactName() string                  { return m.name }
func (m *made) AvroSchemaVersion() int            { return m.version }
func (m *made) ToNative() (map[string]any, error) { return m.Value, nil }
func (m *made) FromNative(value any) error {
	fields, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("is a %T", value)
	}
	m.Value = fields
	return nil
}

// makeSet makes a set of one event with the given versions, each the JSON of a
// record's fields.
func makeSet(t testing.TB, name string, upcasters map[schemas.Key]schemas.Upcaster, versions ...string) *schemas.Set {
	t.Helper()
	files := fstest.MapFS{}
	var lock strings.Builder
	for i, fields := range versions {
		text := fmt.Sprintf(`{"type":"record","name":%q,"namespace":"tidemark.order","doc":"Made up.","fields":[%s]}`, name, fields)
		files[fmt.Sprintf("avro/%s/v%d.avsc", name, i+1)] = &fstest.MapFile{Data: []byte(text)}
		fmt.Fprintf(&lock, "%d %s %d %x\n", i+1, name, i+1, sha256.Sum256([]byte(text)))
	}
	files["ids.lock"] = &fstest.MapFile{Data: []byte(lock.String())}
	set, err := schemas.NewSet(files, func(string) schemas.Record { return &made{name: name, version: len(versions)} }, upcasters)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

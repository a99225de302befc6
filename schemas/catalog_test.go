package schemas_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	tavro "github.com/twmb/avro"

	"github.com/tidemark-dev/tidemark/schemas"
)

// Ids are in stored bytes. This list may only grow.
func TestIDsNeverShift(t *testing.T) {
	released := []string{
		"ControlRecord/1", "OrderAmended/1", "OrderCancelled/1", "OrderCompleted/1", "OrderConfirmed/1", "OrderHeld/1",
		"OrderPlaced/1", "OrderReleased/1", "PaymentAuthorized/1", "PaymentCaptured/1", "PaymentCorrected/1",
		"PaymentDeclined/1", "PaymentRefunded/1", "PaymentRequested/1", "PaymentVoided/1", "ShipmentCancelled/1",
		"ShipmentDelayed/1", "ShipmentDelivered/1", "ShipmentDispatched/1", "ShipmentLost/1", "ShipmentPlanned/1",
		"ShipmentReturned/1", "ShipmentScanned/1", "FactVoided/1",
		"PaymentDeclined/2", "ShipmentScanned/2", "ShipmentStalled/1",
		"OrderAttentionSettled/1", "OrderNeedsAttention/1",
	}
	all := schemas.Catalog().All()
	for i, key := range released {
		if i >= len(all) || all[i].ID != i+1 || all[i].Key.String() != key {
			t.Fatalf("id %d is no longer %s", i+1, key)
		}
	}
}

func TestSubjects(t *testing.T) {
	set := schemas.Catalog()
	placed, _ := set.Lookup(schemas.Key{Name: "PaymentVoided", Version: 1})
	if diff := cmp.Diff([]string{"tidemark.payment.events-tidemark.payment.PaymentVoided"}, placed.Subjects()); diff != "" {
		t.Error(diff)
	}
	record, _ := set.Lookup(schemas.Key{Name: "ControlRecord", Version: 1})
	if got := record.Subjects(); len(got) != 4 || !slices.Contains(got, "tidemark.control-tidemark.control.ControlRecord") {
		t.Error(got)
	}
	void, _ := set.Lookup(schemas.Key{Name: "FactVoided", Version: 1})
	want := []string{
		"tidemark.order.events-tidemark.control.FactVoided", "tidemark.payment.events-tidemark.control.FactVoided",
		"tidemark.shipment.events-tidemark.control.FactVoided",
	}
	if diff := cmp.Diff(want, void.Subjects()); diff != "" {
		t.Error(diff)
	}
}

// What a registry under FULL_TRANSITIVE would refuse is refused here first:
// any version reads what any other version wrote.
func TestVersionsAreFullyCompatible(t *testing.T) {
	byName := map[string][]string{}
	for _, schema := range schemas.Catalog().All() {
		byName[schema.Name] = append(byName[schema.Name], schema.Text)
	}
	for name, texts := range byName {
		if err := fullyCompatible(texts); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIncompatibleVersionsAreNoticed(t *testing.T) {
	with := func(fields string) string { return `{"type":"record","name":"X","fields":[` + fields + `]}` }
	a := `{"name":"a","type":"string"}`
	for name, texts := range map[string][]string{
		"new field without default":  {with(a), with(a + `,{"name":"b","type":"string"}`)},
		"field without default gone": {with(a + `,{"name":"b","type":"string"}`), with(a)},
		"type changed":               {with(a), with(`{"name":"a","type":"int"}`)},
		"first and third":            {with(a + `,{"name":"b","type":"int","default":0}`), with(a), with(a + `,{"name":"b","type":"string","default":""}`)},
	} {
		if fullyCompatible(texts) == nil {
			t.Errorf("%s: passes", name)
		}
	}
	if err := fullyCompatible([]string{with(a), with(a + `,{"name":"b","type":"string","default":""}`)}); err != nil {
		t.Error("new field with default:", err)
	}
}

func fullyCompatible(texts []string) error {
	var versions []*tavro.Schema
	for _, text := range texts {
		schema, err := tavro.Parse(text)
		if err != nil {
			return err
		}
		versions = append(versions, schema)
	}
	for _, writer := range versions {
		for _, reader := range versions {
			if err := tavro.CheckCompatibility(writer, reader); err != nil {
				return err
			}
		}
	}
	return nil
}

// Personal data has two homes, and both are marked.
func TestPersonalDataLivesInContactAndAddressOnly(t *testing.T) {
	personal := []string{"name", "email", "phone", "recipient", "line1", "line2", "postal_code", "street", "city", "region", "birth", "tax", "signature", "signed_by"}
	marked := map[string]bool{}
	var walk func(path string, node *tavro.SchemaNode)
	walk = func(path string, node *tavro.SchemaNode) {
		home := node.Name == "Contact" || node.Name == "Address"
		if mark, _ := node.Props["pii"].(bool); mark != home {
			t.Errorf("%s: record %s: pii is %v", path, node.Name, mark)
		}
		marked[node.Name] = home
		for i := range node.Fields {
			field := &node.Fields[i]
			if !home && slices.Contains(personal, field.Name) {
				t.Errorf("%s.%s: personal data outside Contact and Address", path, field.Name)
			}
			walk(path+"."+field.Name, &field.Type)
		}
		if node.Items != nil {
			walk(path, node.Items)
		}
		for i := range node.Branches {
			walk(path, &node.Branches[i])
		}
	}
	for _, schema := range schemas.Catalog().All() {
		walk(schema.Key.String(), schema.Root)
	}
	if !marked["Contact"] || !marked["Address"] {
		t.Error("the homes of personal data are gone")
	}
}

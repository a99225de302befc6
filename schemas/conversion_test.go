package schemas_test

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/linkedin/goavro/v2"
	tavro "github.com/twmb/avro"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/schemas"
	"github.com/tidemark-dev/tidemark/schemas/control"
	"github.com/tidemark-dev/tidemark/schemas/facts"
	"github.com/tidemark-dev/tidemark/schemas/internal/native"
)

// Native values become structs, structs native values, these bytes, and back,
// and nothing is lost on the way.
func TestRoundTrip(t *testing.T) {
	eachToday(t, func(t *testing.T, schema schemas.Schema, codec *goavro.Codec, fresh func() schemas.Record) {
		rapid.Check(t, func(t *rapid.T) {
			want := drawn(t).value(schema.Root, "", nil).(map[string]any)
			first := fresh()
			if err := first.FromNative(want); err != nil {
				t.Fatal(err)
			}
			written, err := first.ToNative()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, written); diff != "" {
				t.Fatal("native to struct and back:", diff)
			}
			bare, err := codec.BinaryFromNative(nil, written)
			if err != nil {
				t.Fatal(err)
			}
			read, rest, err := codec.NativeFromBinary(bare)
			if err != nil || len(rest) > 0 {
				t.Fatal(err, len(rest))
			}
			second := fresh()
			if err := second.FromNative(read); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(first, second); diff != "" {
				t.Fatal("struct to bytes and back:", diff)
			}
		})
	})
}

// Everything optional may be absent, and stays absent.
func TestAllOptionalAbsent(t *testing.T) {
	eachToday(t, func(t *testing.T, schema schemas.Schema, codec *goavro.Codec, fresh func() schemas.Record) {
		record := fresh()
		if err := record.FromNative(least().value(schema.Root, "", nil)); err != nil {
			t.Fatal(err)
		}
		v := reflect.ValueOf(record).Elem()
		for i := range v.NumField() {
			if f := v.Field(i); (f.Kind() == reflect.Pointer || f.Kind() == reflect.Slice) && !f.IsNil() {
				t.Errorf("%s is set", v.Type().Field(i).Name)
			}
		}
		written, err := record.ToNative()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := codec.BinaryFromNative(nil, written); err != nil {
			t.Fatal(err)
		}
	})
}

// goavro ignores a misspelled key and defaults a missing one. The conversions
// refuse both, and every wrong type, in every record at every depth, and leave
// the struct alone.
func TestConversionRefusesWhatGoavroLetsPass(t *testing.T) {
	eachToday(t, func(t *testing.T, schema schemas.Schema, _ *goavro.Codec, fresh func() schemas.Record) {
		good := full().value(schema.Root, "", nil).(map[string]any)
		refused := 0
		spoil(schema.Root, good, func(what string, wrong any) {
			record := fresh()
			err := record.FromNative(wrong)
			var field *native.FieldError
			if !errors.As(err, &field) || !strings.HasPrefix(field.Path, schema.Name) {
				t.Errorf("%s: got error %v", what, err)
			}
			if !reflect.ValueOf(record).Elem().IsZero() {
				t.Errorf("%s: half of it was taken over", what)
			}
			refused++
		})
		if refused < 3*len(schema.Root.Fields) {
			t.Errorf("only %d wrong forms were tried", refused)
		}
	})
}

// spoil calls try with every copy of the value in which one thing is wrong.
func spoil(node *tavro.SchemaNode, value any, try func(what string, wrong any)) {
	try("another type", struct{}{})
	switch node.Type {
	case "record":
		record := value.(map[string]any)
		with := func(key string, v any) map[string]any { c := maps.Clone(record); c[key] = v; return c }
		try("unknown key", with("surplus", "x"))
		for i := range node.Fields {
			field := &node.Fields[i]
			without := maps.Clone(record)
			delete(without, field.Name)
			try("no "+field.Name, without)
			without["x_"+field.Name] = record[field.Name]
			try("misspelled "+field.Name, without)
			spoil(&field.Type, record[field.Name], func(what string, wrong any) { try(field.Name+": "+what, with(field.Name, wrong)) })
		}
		try("null", nil)
	case "array":
		items := value.([]any)
		spoil(node.Items, items[0], func(what string, wrong any) { try("item: "+what, []any{wrong, items[1]}) })
		too := make([]any, 1001)
		for i := range too {
			too[i] = items[0]
		}
		try("too many items", too)
		try("null", nil)
	case "union":
		branch := &node.Branches[1]
		inner := value.(map[string]any)[unionName(branch)]
		try("bare value", inner)
		try("unknown branch", map[string]any{"bytes": inner})
		try("two branches", map[string]any{unionName(branch): inner, "bytes": inner})
		spoil(branch, inner, func(what string, wrong any) { try(what, map[string]any{unionName(branch): wrong}) })
	case "enum":
		try("unknown symbol", "NO_SUCH_SYMBOL")
	case "string":
		try("no UTF-8", "\xff")
		try("NUL", "a\x00b")
		if value == "BRL" {
			for _, code := range []string{"", "brl", "BR", "BRLX", "BRL\n", "B1L"} {
				try(fmt.Sprintf("currency %q", code), code)
			}
		}
	case "int":
		try("long", int64(1))
	case "long":
		if node.LogicalType == "timestamp-micros" {
			try("zero time", time.Time{})
			try("year 10000", time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))
			try("year 0", time.Date(0, 12, 31, 0, 0, 0, 0, time.UTC))
			try("micros", int64(0))
		} else {
			try("int", int32(1))
			try("float", 1.0)
		}
	case "fixed":
		try("short", value.([]byte)[1:])
		try("long", append([]byte{0}, value.([]byte)...))
	}
}

// A struct that no reader would accept is refused when it is written, by the
// path of the field and without its value.
func TestWriterRefuses(t *testing.T) {
	money := facts.Money{Amount: 1, Currency: "EUR"}
	bad := "secret\xff"
	far := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	good := func() *facts.OrderPlaced {
		return &facts.OrderPlaced{OrderID: "o", Fulfilment: facts.FulfilmentManaged, ShippingFee: money, Total: money,
			Lines: []facts.OrderLine{{LineID: "1", Quantity: 1, UnitPrice: money}}}
	}
	for path, spoil := range map[string]func(*facts.OrderPlaced){
		"OrderPlaced.customer_id":                  func(f *facts.OrderPlaced) { f.CustomerID = bad },
		"OrderPlaced.channel":                      func(f *facts.OrderPlaced) { f.Channel = "a\x00" },
		"OrderPlaced.fulfilment":                   func(f *facts.OrderPlaced) { f.Fulfilment = "" },
		"OrderPlaced.total.currency":               func(f *facts.OrderPlaced) { f.Total.Currency = "" },
		"OrderPlaced.lines[0].unit_price.currency": func(f *facts.OrderPlaced) { f.Lines[0].UnitPrice.Currency = "secret" },
		"OrderPlaced.contact.email":                func(f *facts.OrderPlaced) { f.Contact = &facts.Contact{Email: &bad} },
		"OrderPlaced.promised_at":                  func(f *facts.OrderPlaced) { f.PromisedAt = &far },
		"OrderPlaced.payment_plan[1].method": func(f *facts.OrderPlaced) {
			f.PaymentPlan = []facts.PlannedPayment{{Method: facts.PaymentMethodCard, Amount: money}, {Method: "secret", Amount: money}}
		},
		"OrderPlaced.lines": func(f *facts.OrderPlaced) {
			f.Lines = make([]facts.OrderLine, 1001)
			for i := range f.Lines {
				f.Lines[i].UnitPrice = money
			}
		},
	} {
		fact := good()
		spoil(fact)
		_, err := fact.ToNative()
		var field *native.FieldError
		if !errors.As(err, &field) || field.Path != path || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", path, err)
		}
	}
	if _, err := good().ToNative(); err != nil {
		t.Error(err)
	}
	if _, err := (&facts.PaymentCorrected{Method: facts.PaymentMethodCard, PreviousCaptured: money, CorrectedCaptured: money}).ToNative(); err == nil {
		t.Error("a time that was never set was written")
	}
	record := &control.ControlRecord{Kind: control.ControlKindTotals, AsOf: time.Now(), Blocked: make([]string, 33)}
	if _, err := record.ToNative(); err == nil {
		t.Error("33 blocked names were written")
	}
}

// A time is cut to microseconds in UTC, whatever zone it came in.
func TestTimesAreUTCMicroseconds(t *testing.T) {
	when := time.Date(1900, 1, 1, 0, 0, 0, 123456789, time.FixedZone("", -3*3600))
	fact := &facts.ShipmentDelayed{ExpectedAt: when}
	value, err := fact.ToNative()
	if err != nil {
		t.Fatal(err)
	}
	var got facts.ShipmentDelayed
	if err := got.FromNative(value); err != nil {
		t.Fatal(err)
	}
	if want := time.Date(1900, 1, 1, 3, 0, 0, 123456000, time.UTC); got.ExpectedAt != want {
		t.Errorf("got %v, want %v", got.ExpectedAt, want)
	}
}

// Null and empty are two answers for a nullable list: unchanged, and no lines.
func TestNullListIsNotEmptyList(t *testing.T) {
	for _, lines := range [][]facts.OrderLine{nil, {}} {
		fact := &facts.OrderAmended{Lines: lines, Total: facts.Money{Currency: "EUR"}}
		value, err := fact.ToNative()
		if err != nil {
			t.Fatal(err)
		}
		var got facts.OrderAmended
		if err := got.FromNative(value); err != nil || (got.Lines == nil) != (lines == nil) {
			t.Errorf("%#v came back as %#v, %v", lines, got.Lines, err)
		}
	}
}

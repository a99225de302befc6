package timeline

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Every field of a document is read without reflection as it is with it.
func TestDocumentsAreScannedAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want Document
		fill(t, reflect.ValueOf(&want).Elem())
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var plain Document
		if err := json.Unmarshal(text, &plain); err != nil {
			t.Fatal(err)
		}
		got, ok := scanDocument(string(text))
		if !ok {
			t.Fatalf("%s is left to encoding/json", text)
		}
		if diff := cmp.Diff(&plain, got); diff != "" {
			t.Fatalf("%s (-json +scanned):\n%s", text, diff)
		}
	})
}

// What a later version might have written is read by the slow way, or refused.
func TestOtherDocumentsAreLeftToJSON(t *testing.T) {
	d, err := openDocument(`{ "order_id": "o", "later": {"x": 1.5} }`)
	if err != nil || d.OrderID != "o" {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := openDocument(`{"order_id":"o"`); err == nil {
		t.Error("half a document is taken for one")
	}
}

// fill draws a value for every field, whatever fields there are.
func fill(t *rapid.T, v reflect.Value) {
	if at, ok := v.Addr().Interface().(*time.Time); ok {
		*at = time.UnixMicro(rapid.Int64Range(0, 1<<52).Draw(t, "at")).UTC()
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i))
		}
	case reflect.Pointer:
		if rapid.Bool().Draw(t, "set") {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem())
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), rapid.IntRange(0, 2).Draw(t, "length"), 2))
		for i := range v.Len() {
			fill(t, v.Index(i))
		}
	case reflect.String:
		v.SetString(rapid.StringOf(rapid.RuneFrom([]rune("ab é\"\\<{}[],:"))).Draw(t, "text"))
	case reflect.Int64:
		v.SetInt(rapid.Int64().Draw(t, "number"))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "flag"))
	default:
		t.Fatalf("a document has a %s now: draw one here", v.Type())
	}
}

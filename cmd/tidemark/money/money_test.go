package money

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		text, currency string
		want           int64
		ok             bool
	}{
		{"0", "BRL", 0, true},
		{"0.0", "BRL", 0, true},
		{"128.45", "BRL", 12845, true},
		{"128.4", "BRL", 12840, true},
		{"128", "BRL", 12800, true},
		{"0.29", "BRL", 29, true}, // 0.29*100 is 28.999… in floating point
		{"4099.99", "BRL", 409999, true},
		{"128", "JPY", 128, true},
		{"1.234", "KWD", 1234, true},
		{"10000000000.00", "BRL", Max, true},
		{"10000000000.01", "BRL", 0, false},
		{"99999999999999999999999999", "BRL", 0, false},
		{"128.4", "JPY", 0, false},
		{"1.234", "BRL", 0, false},
		{"-1", "BRL", 0, false},
		{"+1", "BRL", 0, false},
		{"1e3", "BRL", 0, false},
		{"1,000.00", "BRL", 0, false},
		{"NaN", "BRL", 0, false},
		{"", "BRL", 0, false},
		{".5", "BRL", 0, false},
		{"5.", "BRL", 0, false},
		{" 5", "BRL", 0, false},
		{"٣", "BRL", 0, false},
	} {
		got, err := Parse(tc.text, tc.currency)
		if (err == nil) != tc.ok || got != tc.want {
			t.Errorf("Parse(%q, %s) = %d, %v; want %d, ok %v", tc.text, tc.currency, got, err, tc.want, tc.ok)
		}
	}
}

func TestFormat(t *testing.T) {
	for _, tc := range []struct {
		amount   int64
		currency string
		want     string
	}{
		{0, "EUR", "EUR 0.00"},
		{5, "EUR", "EUR 0.05"},
		{-5, "EUR", "EUR -0.05"},
		{12845, "", "128.45"},
		{128, "JPY", "JPY 128"},
		{-1 << 63, "EUR", "EUR -92233720368547758.08"},
	} {
		if got := Format(tc.amount, tc.currency); got != tc.want {
			t.Errorf("Format(%d, %q) = %q, want %q", tc.amount, tc.currency, got, tc.want)
		}
	}
}

func TestParseReadsWhatFormatWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Int64Range(0, Max).Draw(t, "amount")
		currency := rapid.SampledFrom([]string{"EUR", "JPY", "KWD"}).Draw(t, "currency")
		text := Format(amount, currency)[len(currency)+1:]
		got, err := Parse(text, currency)
		if err != nil || got != amount {
			t.Fatal(fmt.Sprintf("Parse(%q) = %d, %v; want %d", text, got, err, amount))
		}
	})
}

// Package money turns what people and files write ("128.45") into minor units
// and back, exactly: no floating point, no rounding.
package money

import (
	"fmt"
	"strconv"
	"strings"
)

// Max is the largest amount, in minor units, that Parse accepts; it is the
// bound of the RPC contracts.
const Max = 1_000_000_000_000

// zeroDecimals and threeDecimals are the ISO 4217 currencies in common use
// whose minor unit is not a hundredth.
const (
	zeroDecimals  = "CLP ISK JPY KRW PYG UGX VND XAF XOF XPF"
	threeDecimals = "BHD IQD JOD KWD LYD OMR TND"
)

// Decimals returns how many decimals an amount of the currency has.
func Decimals(currency string) int {
	switch {
	case len(currency) == 3 && strings.Contains(zeroDecimals, currency):
		return 0
	case len(currency) == 3 && strings.Contains(threeDecimals, currency):
		return 3
	default:
		return 2
	}
}

// Parse reads an amount such as "128.45", "128.4" or "128" as minor units of
// the currency. It refuses signs, exponents, separators of thousands, decimals
// beyond the currency's own, and amounts above Max.
func Parse(text, currency string) (int64, error) {
	decimals := Decimals(currency)
	whole, fraction, dotted := strings.Cut(text, ".")
	if !digits(whole) || dotted && !digits(fraction) {
		return 0, fmt.Errorf("%q is not an amount like 128.45", clip(text))
	}
	if len(fraction) > decimals {
		return 0, fmt.Errorf("%q has more than %d decimals", clip(text), decimals)
	}
	fraction += strings.Repeat("0", decimals-len(fraction))
	all := strings.TrimLeft(whole+fraction, "0")
	if len(all) > len(strconv.Itoa(Max)) {
		return 0, fmt.Errorf("%q is absurdly large", clip(text))
	}
	if all == "" {
		return 0, nil
	}
	amount, err := strconv.ParseInt(all, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not an amount: %w", clip(text), err)
	}
	if amount > Max {
		return 0, fmt.Errorf("%q is absurdly large", clip(text))
	}
	return amount, nil
}

// Format writes minor units as people read them: "EUR 128.45". The currency
// may be empty.
func Format(amount int64, currency string) string {
	sign := ""
	magnitude := uint64(amount)
	if amount < 0 {
		sign, magnitude = "-", -magnitude
	}
	decimals := Decimals(currency)
	text := strconv.FormatUint(magnitude, 10)
	if decimals > 0 {
		if short := decimals + 1 - len(text); short > 0 {
			text = strings.Repeat("0", short) + text
		}
		text = text[:len(text)-decimals] + "." + text[len(text)-decimals:]
	}
	if currency == "" {
		return sign + text
	}
	return currency + " " + sign + text
}

func digits(s string) bool {
	for _, r := range s {
		if r < '0' || r > '9' {
			return false
		}
	}
	return s != ""
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

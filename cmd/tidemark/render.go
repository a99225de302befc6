package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/money"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
)

// printJSON writes one message as JSON with the field names of the contract:
// indented, or as one line for streams.
func (a *app) printJSON(m proto.Message, oneLine bool) error {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("write json: %w", err)
	}
	// protojson varies its white space on purpose; programs get one form.
	var b bytes.Buffer
	if oneLine {
		err = json.Compact(&b, raw)
	} else {
		err = json.Indent(&b, raw, "", "  ")
	}
	if err != nil {
		return fmt.Errorf("write json: %w", err)
	}
	b.WriteByte('\n')
	_, err = a.out.Write(b.Bytes())
	return err
}

// table writes rows in aligned columns; the first row is the head.
func table(w io.Writer, rows ...[]string) error {
	if len(rows) == 1 {
		rows = append(rows, []string{"(none)"})
	}
	return align(w, rows)
}

func align(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	return t.Flush()
}

// pairs writes names and values below each other and leaves empty ones out.
func pairs(w io.Writer, namesAndValues ...string) error {
	var rows [][]string
	for i := 0; i+1 < len(namesAndValues); i += 2 {
		if namesAndValues[i+1] != "" {
			rows = append(rows, []string{namesAndValues[i], namesAndValues[i+1]})
		}
	}
	return align(w, rows)
}

// word turns an enum name into a word: ORDER_STATE_PLACED → placed.
func word(enum fmt.Stringer, prefix string) string {
	text := strings.TrimPrefix(enum.String(), prefix)
	if text == "UNSPECIFIED" {
		return ""
	}
	return strings.ReplaceAll(strings.ToLower(text), "_", " ")
}

func moneyText(m *commercev1.Money) string {
	if m == nil {
		return ""
	}
	return money.Format(m.GetAmount(), m.GetCurrency())
}

func timeText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format("2006-01-02 15:04:05")
}

func dateText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.DateOnly)
}

func yes(b bool, text string) string {
	if b {
		return text
	}
	return ""
}

// without says of a row that some facts of its order were given up.
func without(skipped int64) string {
	return yes(skipped > 0, fmt.Sprintf(" (WITHOUT %d facts)", skipped))
}

// clean makes text from a server safe for a terminal: control characters, which
// could move the cursor or colour a lie, become spaces.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// freshness writes the line under every answer of a read model.
func (a *app) freshness(f *freshnessv1.Freshness) error {
	if f == nil {
		return nil
	}
	parts := make([]string, 0, len(f.GetSources()))
	for _, s := range f.GetSources() {
		age := "unknown"
		if s.GetStaleness() != nil {
			age = short(s.GetStaleness().AsDuration()) + " ago"
		}
		completeness := strings.ToLower(strings.TrimPrefix(s.GetCompleteness().String(), "COMPLETENESS_"))
		parts = append(parts, fmt.Sprintf("%s %s (%s)", s.GetSource(), age, completeness))
	}
	line := "as of: " + strings.Join(parts, ", ")
	if f.GetGeneration() != "" {
		line += " · " + f.GetGeneration()
	}
	if f.GetEntityStatus() > freshnessv1.EntityStatus_ENTITY_STATUS_CURRENT {
		line += " · " + strings.ToUpper(word(f.GetEntityStatus(), "ENTITY_STATUS_"))
	}
	if skipped := f.GetSkipped(); skipped > 0 {
		line += fmt.Sprintf(" · WITHOUT %d facts that were given up", skipped)
	}
	if !f.GetDemandMet() {
		line += " · STALE: the demand was not met"
	}
	_, err := fmt.Fprintln(a.out, line)
	return err
}

// short writes a duration with the precision that people read.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + short(-d)
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func itoa(n int32) string { return strconv.FormatInt(int64(n), 10) }

func count(n int64) string { return strconv.FormatInt(n, 10) }

// enums turns words ("partially-captured") into values of a contract's enum.
// The words were checked by the flag parser.
func enums[E ~int32](values map[string]int32, prefix string, words []string) []E {
	var list []E
	for _, w := range words {
		list = append(list, E(values[prefix+strings.ToUpper(strings.ReplaceAll(w, "-", "_"))]))
	}
	return list
}

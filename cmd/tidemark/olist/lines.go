package olist

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/money"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// named is how many rows and orders are named per group.
const named = 10

// groups counts refusals by reason and names the first of each.
func groups(refusals []Refusal) []Group {
	list := []Group{}
	for _, r := range refusals {
		i := slices.IndexFunc(list, func(g Group) bool { return g.Reason == r.Reason })
		if i < 0 {
			i = len(list)
			list = append(list, Group{Reason: r.Reason})
		}
		list[i].Count++
		if list[i].Count <= named {
			list[i].First = append(list[i].First, fmt.Sprintf("%s:%d: %s", r.File, r.Line, r.Detail))
		}
	}
	return list
}

// fill writes the lines of the report and decides whether it balances.
func (r *Report) fill(files, timeline *tally, totals *operationsv1.GetTotalsResponse) {
	r.States, r.Money, r.Balances = nil, nil, len(r.Mismatches) == 0
	if r.Sent != nil && len(r.Sent.Failed) > 0 {
		r.Balances = false
	}
	counted := map[string]int64{}
	for _, s := range totals.GetOrders() {
		counted[s.GetStatus()] += s.GetOrders()
	}
	for number := range int32(len(timelinev1.OrderStatus_name)) {
		state := timelinev1.OrderStatus(number)
		word := strings.ToLower(strings.TrimPrefix(state.String(), "ORDER_STATUS_"))
		line := StateLine{State: word, Files: files.states[state], Timeline: timeline.states[state], Operations: counted[word]}
		delete(counted, word)
		if line.Files+line.Timeline+line.Operations == 0 {
			continue
		}
		r.States = append(r.States, line)
		r.Balances = r.Balances && line.Files == line.Timeline && line.Files == line.Operations
	}
	for _, word := range slices.Sorted(maps.Keys(counted)) { // a word nobody knows
		r.States = append(r.States, StateLine{State: word, Operations: counted[word]})
		r.Balances = false
	}
	operations := map[string]map[string]Sums{}
	for _, m := range totals.GetMoney() {
		if operations[m.GetCurrency()] == nil {
			operations[m.GetCurrency()] = map[string]Sums{}
		}
		operations[m.GetCurrency()][m.GetMethod().String()] = Sums{Payments: m.GetPayments(), Requested: m.GetRequested(), Captured: m.GetCaptured()}
	}
	for number := range int32(len(commercev1.PaymentMethod_name)) {
		method := commercev1.PaymentMethod(number)
		line := MoneyLine{
			Method: strings.TrimPrefix(method.String(), "PAYMENT_METHOD_"), Currency: Currency,
			Files: *files.method(method), Timeline: *timeline.method(method), Operations: operations[Currency][method.String()],
		}
		if line.Files == (Sums{}) && line.Timeline == (Sums{}) && line.Operations == (Sums{}) {
			continue
		}
		r.Money = append(r.Money, line)
		r.Balances = r.Balances && line.Files == line.Timeline && line.Files == line.Operations
	}
	delete(operations, Currency)
	for _, currency := range slices.Sorted(maps.Keys(operations)) { // money that is not the dataset's
		for _, method := range slices.Sorted(maps.Keys(operations[currency])) {
			r.Money = append(r.Money, MoneyLine{
				Method: strings.TrimPrefix(method, "PAYMENT_METHOD_"), Currency: currency, Operations: operations[currency][method],
			})
			r.Balances = false
		}
	}
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "olist %s, channel %s\n", r.Dir, r.Channel)
	rows := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, name := range slices.Sorted(maps.Keys(r.Rows)) {
		fmt.Fprintf(rows, "  %s\t%d rows\n", name, r.Rows[name])
	}
	rows.Flush()
	if s := r.Sent; s != nil {
		seconds := max(s.Elapsed.Seconds(), 0.001)
		fmt.Fprintf(&b, "sent %d of %d orders with %d commands (%d in effect before) in %s: %.0f orders/s, %.0f commands/s\n",
			s.Orders, r.Orders, s.Commands, s.Replayed, s.Elapsed.Round(time.Millisecond), float64(s.Orders)/seconds, float64(s.Commands)/seconds)
		for i, f := range s.Failed {
			if i == named {
				fmt.Fprintf(&b, "  … and %d more\n", len(s.Failed)-named)
				break
			}
			fmt.Fprintf(&b, "  failed %s at %s: %s\n", f.OrderID, f.Step, f.Reason)
		}
	}
	b.WriteString("\n")
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "ORDERS\tfiles\ttimeline\toperations\t\n")
	var files, seen, counted int64
	for _, l := range r.States {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\n", l.State, l.Files, l.Timeline, l.Operations, mark(l.Files == l.Timeline && l.Files == l.Operations))
		files, seen, counted = files+l.Files, seen+l.Timeline, counted+l.Operations
	}
	fmt.Fprintf(t, "all\t%d\t%d\t%d\t%s\n", files, seen, counted, mark(files == seen && files == counted))
	t.Flush()
	b.WriteString("\n")
	t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "MONEY\tfiles\ttimeline\toperations\t\n")
	for _, l := range r.Money {
		name := strings.ToLower(strings.ReplaceAll(l.Method, "_", " "))
		for _, sum := range []struct {
			what  string
			value func(Sums) string
		}{
			{"payments", func(s Sums) string { return strconv.FormatInt(s.Payments, 10) }},
			{"requested", func(s Sums) string { return money.Format(s.Requested, l.Currency) }},
			{"captured", func(s Sums) string { return money.Format(s.Captured, l.Currency) }},
		} {
			f, tl, op := sum.value(l.Files), sum.value(l.Timeline), sum.value(l.Operations)
			fmt.Fprintf(t, "%s %s\t%s\t%s\t%s\t%s\n", name, sum.what, f, tl, op, mark(f == tl && f == op))
		}
	}
	t.Flush()
	b.WriteString("\n")
	writeGroups(&b, "rows refused", r.Refused)
	writeGroups(&b, "dates not taken", r.NotTaken)
	fmt.Fprintf(&b, "orders that differ: %d\n", len(r.Mismatches))
	for i, m := range r.Mismatches {
		if i == named {
			fmt.Fprintf(&b, "  … and %d more\n", len(r.Mismatches)-named)
			break
		}
		fmt.Fprintf(&b, "  %s: %s\n", m.OrderID, strings.Join(m.Differs, "; "))
	}
	if r.Balances {
		b.WriteString("The read models balance with the files.\n")
	} else {
		b.WriteString("THE READ MODELS DO NOT BALANCE WITH THE FILES.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeGroups(b *strings.Builder, title string, list []Group) {
	total := 0
	for _, g := range list {
		total += g.Count
	}
	fmt.Fprintf(b, "%s: %d\n", title, total)
	for _, g := range list {
		fmt.Fprintf(b, "  %s: %d\n", g.Reason, g.Count)
		for _, first := range g.First {
			fmt.Fprintf(b, "    %s\n", first)
		}
		if g.Count > len(g.First) {
			fmt.Fprintf(b, "    … and %d more\n", g.Count-len(g.First))
		}
	}
}

func mark(equal bool) string {
	if equal {
		return " ="
	}
	return " DIFFERS"
}

package suite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
	"github.com/tidemark-dev/tidemark/cmd/tidemark/olist"
	"github.com/tidemark-dev/tidemark/tests/integration/olistexpect"
)

// messyOrdersComeIn imports the small made-up dataset of every kind of mess.
func messyOrdersComeIn(t *testing.T, w *world) {
	report := w.bringIn(t, filepath.Join("..", "..", "..", "cmd", "tidemark", "olist", "testdata", "mess"), "mess")
	if report.Orders != 13 || len(report.Refused) == 0 {
		t.Errorf("%d orders, refused %v", report.Orders, report.Refused)
	}
}

// realOrdersComeIn imports the sample of real orders and compares what the
// queries answer with what the files say, worked out by other code.
func realOrdersComeIn(t *testing.T, w *world) {
	dir := olistexpect.Sample(t)
	report := w.bringIn(t, dir, "olist")
	if len(report.Refused) != 0 {
		t.Errorf("refused: %v", report.Refused)
	}
	e, err := olistexpect.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	differences, err := olistexpect.Check(t.Context(), w.conns[fleet.Timeline], w.conns[fleet.Operations], e, "olist")
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range differences {
		if i == 20 {
			t.Errorf("… and %d more differences", len(differences)-20)
			break
		}
		t.Error(d)
	}
}

// bringIn imports a dataset twice: the read models balance with the files, and
// the second time changes nothing.
func (w *world) bringIn(t *testing.T, dir, channel string) *olist.Report {
	t.Helper()
	source, err := olist.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	clients := client.New(client.Conns{
		Order: w.conns[fleet.Order], Payment: w.conns[fleet.Payment], Shipment: w.conns[fleet.Shipment],
		Timeline: w.conns[fleet.Timeline], Operations: w.conns[fleet.Operations],
	})
	options := olist.Options{Channel: channel, Concurrency: 32, Patience: patience, Settle: patience}
	var first *olist.Sent
	for _, again := range []bool{false, true} {
		sent, err := olist.Import(t.Context(), clients, source, options)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d orders, %d commands (%d in effect before) in %s: %.0f orders/s", channel, sent.Orders, sent.Commands, sent.Replayed,
			sent.Elapsed.Round(time.Millisecond), float64(sent.Orders)/sent.Elapsed.Seconds())
		if again && (sent.Replayed != sent.Commands || sent.Commands != first.Commands) {
			t.Errorf("the second import sent %d commands of which %d were in effect; the first sent %d", sent.Commands, sent.Replayed, first.Commands)
		}
		first = sent
		if len(sent.Failed) > 0 {
			t.Errorf("%d orders failed, the first: %+v", len(sent.Failed), sent.Failed[0])
		}
	}
	report, err := olist.Compare(t.Context(), clients, source, first, options)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Balances {
		t.Errorf("the report does not balance: states %+v, money %+v, %d mismatches", report.States, report.Money, len(report.Mismatches))
		for i, m := range report.Mismatches[:min(5, len(report.Mismatches))] {
			t.Errorf("mismatch %d: %+v", i, m)
		}
	}
	return report
}

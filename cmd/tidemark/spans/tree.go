package spans

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tidemark-dev/tidemark/platform/telemetry/sink"
)

// key names a span; an id alone is unique within its trace only.
type key struct{ trace, id string }

func keyOf(s *sink.Span) key { return key{s.Trace, s.ID} }

// forest is a journey, ready to be printed.
type forest struct {
	out        io.Writer
	statements bool
	origin     time.Time
	byKey      map[key]*sink.Span
	children   map[key][]*sink.Span
	followers  map[key][]*sink.Span // spans of other traces that link here, each under its earliest cause
	causes     map[key]int          // how many spans of the journey a span links to
	printed    map[key]bool
}

// Tree writes the spans of a journey as a tree, one block per trace in order of
// time. A batch that carried the order among others is shown below the span it
// links to, with "linked from": a link is no parent, and the batch's time is
// not the order's alone. Statements of databases are counted, and shown one by
// one only if statements is set.
func Tree(w io.Writer, spans []sink.Span, statements bool) error {
	spans = slices.Clone(spans)
	slices.SortStableFunc(spans, func(a, b sink.Span) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Trace, b.Trace), cmp.Compare(a.ID, b.ID))
	})
	if len(spans) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	f := &forest{
		out: table, statements: statements, origin: spans[0].Start, byKey: map[key]*sink.Span{},
		children: map[key][]*sink.Span{}, followers: map[key][]*sink.Span{}, causes: map[key]int{}, printed: map[key]bool{},
	}
	for i := range spans {
		f.byKey[keyOf(&spans[i])] = &spans[i]
	}
	var roots []*sink.Span
	for i := range spans {
		s := &spans[i]
		if parent := (key{s.Trace, s.Parent}); s.Parent != "" && f.byKey[parent] != nil {
			f.children[parent] = append(f.children[parent], s)
			continue
		}
		if cause := f.cause(s); cause != nil {
			f.followers[keyOf(cause)] = append(f.followers[keyOf(cause)], s)
			continue
		}
		roots = append(roots, s)
	}
	fmt.Fprintln(table, "START\tTOOK\tSERVICE\tSPAN")
	for i := range spans { // what is its own ancestor hangs below no root
		roots = append(roots, &spans[i])
	}
	trace := ""
	for _, root := range roots {
		if f.printed[keyOf(root)] {
			continue
		}
		if root.Trace != trace {
			trace = root.Trace
			fmt.Fprintf(table, "\t\t\ttrace %s, %s\n", trace, root.Start.UTC().Format("2006-01-02 15:04:05.000"))
		}
		f.print(root, "", "")
	}
	return table.Flush()
}

// cause returns the earliest span of the journey that a span links to, and
// counts them all.
func (f *forest) cause(s *sink.Span) *sink.Span {
	var first *sink.Span
	seen := map[key]bool{}
	for _, link := range s.Links {
		linked := f.byKey[key{link.Trace, link.ID}]
		if linked == nil || linked == s || seen[keyOf(linked)] {
			continue
		}
		seen[keyOf(linked)] = true
		if first == nil || linked.Start.Before(first.Start) {
			first = linked
		}
	}
	f.causes[keyOf(s)] = len(seen)
	return first
}

// print writes a span and all below it. lead stands before the span's own name,
// below before its children.
func (f *forest) print(s *sink.Span, lead, below string) {
	f.printed[keyOf(s)] = true
	fmt.Fprintf(f.out, "+%s\t%s\t%s\t%s%s\n", offset(s.Start.Sub(f.origin)), took(s.End.Sub(s.Start)),
		plain(strings.TrimPrefix(s.Service, "tidemark-")), lead, f.describe(s))
	type line struct {
		span    *sink.Span
		summary string
	}
	var lines []line
	var hidden int
	var hiddenTime time.Duration
	for _, child := range f.children[keyOf(s)] {
		if f.printed[keyOf(child)] {
			continue
		}
		if !f.statements && f.onlyDatabase(child, 0) {
			f.hide(child)
			hidden++
			hiddenTime += child.End.Sub(child.Start)
			continue
		}
		lines = append(lines, line{span: child})
	}
	if hidden > 0 {
		lines = slices.Insert(lines, 0, line{summary: fmt.Sprintf("%s, %s together", plural(hidden, "database call"), took(hiddenTime))})
	}
	for _, follower := range f.followers[keyOf(s)] {
		if f.printed[keyOf(follower)] {
			continue
		}
		lines = append(lines, line{span: follower})
	}
	for i, l := range lines {
		branch, next := "├─ ", "│  "
		if i == len(lines)-1 {
			branch, next = "└─ ", "   "
		}
		if l.span == nil {
			fmt.Fprintf(f.out, "\t\t\t%s%s%s\n", below, branch, l.summary)
			continue
		}
		f.print(l.span, below+branch, below+next)
	}
}

// describe is a span in words.
func (f *forest) describe(s *sink.Span) string {
	text := plain(s.Name)
	if s.Kind != "" && s.Kind != "internal" {
		text += " (" + plain(s.Kind) + ")"
	}
	if s.Parent != "" && f.byKey[key{s.Trace, s.Parent}] == nil {
		text += ", its caller sent no span"
	}
	if wait, err := time.ParseDuration(s.Attributes["tidemark.outbox.wait"] + "s"); err == nil {
		text += ", waited " + took(wait) + " in the outbox"
	}
	if aggregate := s.Attributes["tidemark.aggregate"]; aggregate != "" {
		text += ", " + plain(aggregate) + " v" + plain(s.Attributes["tidemark.version"])
	}
	if size := s.Attributes["messaging.batch.message_count"]; size != "" && size != "1" {
		text += ", a batch of " + plain(size)
	}
	if n := f.causes[keyOf(s)]; n > 0 {
		text += ", linked from " + plain(f.cause(s).Name)
		if n > 1 {
			text += fmt.Sprintf(" and %d more", n-1)
		}
	}
	if s.Error != "" {
		text += ", ERROR: " + plain(s.Error)
	}
	return text
}

// deepest is how far down a call of a database is followed; a batch has its
// statements below it, and nothing has more.
const deepest = 4

// onlyDatabase says whether a span and all below it are calls of a database.
func (f *forest) onlyDatabase(s *sink.Span, depth int) bool {
	if s.Attributes["db.system.name"] == "" && s.Attributes["db.system"] == "" || s.Error != "" || len(f.followers[keyOf(s)]) > 0 || depth > deepest {
		return false
	}
	for _, child := range f.children[keyOf(s)] {
		if !f.onlyDatabase(child, depth+1) {
			return false
		}
	}
	return true
}

// hide counts a span and all below it as printed.
func (f *forest) hide(s *sink.Span) {
	f.printed[keyOf(s)] = true
	for _, child := range f.children[keyOf(s)] {
		f.hide(child)
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// offset writes a distance from the start of the journey.
func offset(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.3fs", d.Seconds())
	}
	return d.Round(time.Millisecond).String()
}

// took writes a duration with three digits.
func took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	default:
		return d.Round(time.Millisecond).String()
	}
}

// plain makes text from elsewhere safe for a table on a terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/twmb/avro"

	"github.com/tidemark-dev/tidemark/schemas/internal/lock"
)

// broken is one way in which two versions of an event do not fit.
type broken struct {
	event          string
	writer, reader int    // the reader's version cannot read what the writer's version wrote
	field          string // top-level field that does not fit
	detail         string
}

// incompatible reads every version of every event with every other and returns
// what does not fit, and how many pairs there are.
func incompatible(files fs.FS) (all []broken, pairs int, err error) {
	paths, err := fs.Glob(files, "avro/*/v*.avsc")
	if err != nil {
		return nil, 0, err
	}
	versions := map[string]int{}
	for _, path := range paths {
		versions[strings.Split(path, "/")[1]]++
	}
	for _, event := range sortedKeys(versions) {
		roots := make([]*avro.SchemaNode, versions[event]+1)
		for v := 1; v < len(roots); v++ {
			path := lock.Key{Name: event, Version: v}.Path()
			text, err := fs.ReadFile(files, path)
			if err != nil {
				return nil, 0, err
			}
			schema, err := avro.Parse(string(text))
			if err != nil {
				return nil, 0, fmt.Errorf("%s: %w", path, err)
			}
			roots[v] = schema.Root().ExpandReferences()
		}
		for w := 1; w < len(roots); w++ {
			for r := 1; r < len(roots); r++ {
				if w == r {
					continue
				}
				pairs++
				found, err := compare(event, w, r, roots[w], roots[r])
				if err != nil {
					return nil, 0, err
				}
				all = append(all, found...)
			}
		}
	}
	return all, pairs, nil
}

// compare finds all fields that do not fit. The library names the first one, so
// it is taken out and the rest is compared again.
func compare(event string, w, r int, writer, reader *avro.SchemaNode) ([]broken, error) {
	var all []broken
	writing, reading := *writer, *reader
	for {
		a, err := writing.Schema()
		if err != nil {
			return nil, fmt.Errorf("%s version %d: %w", event, w, err)
		}
		b, err := reading.Schema()
		if err != nil {
			return nil, fmt.Errorf("%s version %d: %w", event, r, err)
		}
		err = avro.CheckCompatibility(a, b)
		if err == nil {
			return all, nil
		}
		found := broken{event: event, writer: w, reader: r, detail: err.Error()}
		var misfit *avro.CompatibilityError
		if errors.As(err, &misfit) {
			found.detail = misfit.Detail
			found.field = topField(misfit.Path, event, writing.Fields, reading.Fields)
		}
		all = append(all, found)
		if found.field == "" {
			return all, nil // the record itself, say its name
		}
		without := func(f avro.SchemaField) bool { return f.Name == found.field }
		writing.Fields = slices.DeleteFunc(slices.Clone(writing.Fields), without)
		reading.Fields = slices.DeleteFunc(slices.Clone(reading.Fields), without)
	}
}

// topField finds the record's own field in a path such as "total.currency",
// which may start with the record's name.
func topField(path, event string, sides ...[]avro.SchemaField) string {
	for _, part := range strings.Split(path, ".") {
		part, _, _ = strings.Cut(part, "[")
		for _, fields := range sides {
			if slices.ContainsFunc(fields, func(f avro.SchemaField) bool { return f.Name == part }) {
				return part
			}
		}
		if part != event {
			return ""
		}
	}
	return ""
}

// tell says what is broken and for whom.
func (b broken) tell(consumers []consumer) string {
	what := "the record"
	if b.field != "" {
		what = "field " + b.field
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s version %d is incompatible with version %d: %s: %s\n", b.event, max(b.writer, b.reader), min(b.writer, b.reader), what, b.detail)
	if b.writer > b.reader {
		fmt.Fprintf(&text, "  programs that know version %d cannot read what is written from now on; it breaks as soon as version %d is written:\n", b.reader, b.writer)
	} else {
		fmt.Fprintf(&text, "  programs that know version %d cannot read what was written so far; it breaks as soon as they read the topic or a journal:\n", b.reader)
	}
	affected := false
	for _, c := range consumers {
		if line := c.reads(b.event, b.field); line != "" {
			affected = true
			fmt.Fprintf(&text, "    %s %s\n", c.name, line)
		}
	}
	if !affected {
		text.WriteString("    nobody in this repository handles it; others may\n")
	}
	return text.String()
}

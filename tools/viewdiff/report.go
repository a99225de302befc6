package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// change is one field of one row.
type change struct{ row, from, to string }

// report prints what differs and returns whether any row does.
func report(out io.Writer, before, after folded, commit string, examples int) (changed bool) {
	for _, view := range slices.Sorted(maps.Keys(after)) {
		now := after[view]
		was, known := before[view]
		if !known {
			fmt.Fprintf(out, "\n%s is new: %s, %d facts\n", view, now.Generation, now.Facts)
			continue
		}
		fmt.Fprintf(out, "\n%s: %s at %s, %s now; %d facts\n", view, was.Generation, commit, now.Generation, now.Facts)
		if was.Parked != now.Parked {
			changed = true
			fmt.Fprintf(out, "  parked: %d facts, then %d %s\n", was.Parked, now.Parked, now.Reason)
		}
		keys, different := keysOf(was.Schema, now.Schema), false
		for _, table := range slices.Sorted(maps.Keys(both(was.Tables, now.Tables))) {
			if table := compare(table, was.Tables[table], now.Tables[table], keys[table]); table.differs() {
				different = true
				table.print(out, examples)
			}
		}
		switch {
		case !different:
			fmt.Fprintln(out, "  nothing changed")
		case was.Generation == now.Generation:
			fmt.Fprintf(out, "  ! rows change and the generation does not: give %s a new Version\n", view)
		}
		changed = changed || different
	}
	for _, view := range slices.Sorted(maps.Keys(before)) {
		if _, kept := after[view]; !kept {
			changed = true
			fmt.Fprintf(out, "\n%s is gone\n", view)
		}
	}
	return changed
}

func both[V any](a, b map[string]V) map[string]bool {
	all := map[string]bool{}
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	return all
}

// difference is what changes in one table.
type difference struct {
	table       string
	rows        int
	added, gone []string
	fields      map[string][]change
}

func (d difference) differs() bool { return len(d.added)+len(d.gone)+len(d.fields) > 0 }

func compare(table string, was, now []map[string]any, key []string) difference {
	d := difference{table: table, rows: len(now), fields: map[string][]change{}}
	old, current := byKey(was, key), byKey(now, key)
	for _, id := range slices.Sorted(maps.Keys(both(old, current))) {
		a, before := old[id]
		b, after := current[id]
		switch {
		case !before:
			d.added = append(d.added, id)
		case !after:
			d.gone = append(d.gone, id)
		default:
			for _, field := range slices.Sorted(maps.Keys(both(a, b))) {
				if a[field] != b[field] {
					d.fields[field] = append(d.fields[field], change{id, shown(a, field), shown(b, field)})
				}
			}
		}
	}
	return d
}

func shown(fields map[string]string, name string) string {
	if text, ok := fields[name]; ok {
		return text
	}
	return "absent"
}

// byKey flattens rows and names them by their key, or, without one, by all they
// hold.
func byKey(rows []map[string]any, key []string) map[string]map[string]string {
	named := map[string]map[string]string{}
	for _, r := range rows {
		fields := map[string]string{}
		for column, value := range r {
			flatten(column, value, fields)
		}
		of := key
		if len(of) == 0 {
			of = slices.Sorted(maps.Keys(fields))
		}
		var id []string
		for _, column := range of {
			if column != "partition" {
				id = append(id, column+"="+fields[column])
			}
		}
		named[strings.Join(id, " ")] = fields
	}
	return named
}

// flatten gives every value inside of a JSON column a name of its own.
func flatten(name string, value any, into map[string]string) {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			flatten(name+"."+key, inner, into)
		}
	case []any:
		for i, inner := range v {
			flatten(fmt.Sprintf("%s[%d]", name, i), inner, into)
		}
	case string:
		var inner map[string]any
		if strings.HasPrefix(v, "{") && json.Unmarshal([]byte(v), &inner) == nil {
			flatten(name, inner, into)
			return
		}
		into[name] = v
	default:
		into[name] = fmt.Sprint(v)
	}
}

func (d difference) print(out io.Writer, examples int) {
	fmt.Fprintf(out, "  %s, %d rows\n", d.table, d.rows)
	some := func(what string, ids []string) {
		if len(ids) == 0 {
			return
		}
		fmt.Fprintf(out, "    %d rows %s\n", len(ids), what)
		for _, id := range ids[:min(examples, len(ids))] {
			fmt.Fprintf(out, "      %s\n", id)
		}
	}
	some("more", d.added)
	some("less", d.gone)
	for _, field := range slices.Sorted(maps.Keys(d.fields)) {
		changes := d.fields[field]
		fmt.Fprintf(out, "    %s changes in %d rows\n", field, len(changes))
		for _, c := range changes[:min(examples, len(changes))] {
			fmt.Fprintf(out, "      %s: %q → %q\n", c.row, c.from, c.to)
		}
	}
}

var (
	tables = regexp.MustCompile(`(?s)CREATE TABLE (\w+)\s*\((.*?)\n?\);`)
	keyed  = regexp.MustCompile(`PRIMARY KEY\s*\(([^)]*)\)`)
	inline = regexp.MustCompile(`(?m)^\s*(\w+)\s[^,\n]*PRIMARY KEY`)
)

// keysOf reads the primary keys of the tables; those of the later schema win.
func keysOf(schemas ...string) map[string][]string {
	keys := map[string][]string{}
	for _, schema := range schemas {
		for _, table := range tables.FindAllStringSubmatch(schema, -1) {
			if found := keyed.FindStringSubmatch(table[2]); found != nil {
				keys[table[1]] = strings.FieldsFunc(found[1], func(r rune) bool { return r == ',' || r == ' ' })
			} else if found := inline.FindStringSubmatch(table[2]); found != nil {
				keys[table[1]] = []string{found[1]}
			}
		}
	}
	return keys
}

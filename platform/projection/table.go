package projection

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// Table is something derived from the states of a view: see [Rows] and [Sums].
type Table[S any] interface {
	spec() *tableSpec
	// derive returns what one order contributes, by key.
	derive(order string, s *S) map[string]row
}

// Rows declares a table whose rows belong to one order each. R is a struct
// whose fields carry the tag `db:"column"`, with ",key" for the columns of the
// primary key and ",json" for JSON text in a jsonb column. The first key column
// must be order_id and hold the order. Fields are string, bool, int, int32,
// int64, time.Time or pointers to them; a nil pointer is NULL.
func Rows[S, R any](name string, derive func(order string, s *S, put func(R))) Table[S] {
	t := &rowsTable[S, R]{declare[R](name, kindRows), derive}
	if t.tableSpec.err == nil && (len(t.columns) == 0 || t.columns[0].name != "order_id" || !t.columns[0].key) {
		t.tableSpec.err = fmt.Errorf("the first column must be order_id and a key")
	}
	return t
}

// Sums declares a table of counts and amounts that span orders. R is a struct
// as for [Rows]; its int64 fields tagged ",sum" are added up over all orders
// that add the same key. The table in the schema also has a column partition,
// first in its primary key: each partition keeps its own sums and queries add
// them.
func Sums[S, R any](name string, derive func(order string, s *S, add func(R))) Table[S] {
	return &rowsTable[S, R]{declare[R](name, kindSums), derive}
}

// LogTable is an append-only table of a view: see [Log].
type LogTable struct {
	spec   *tableSpec
	derive func(event.Fact) []row
}

// Log declares an append-only table whose rows need nothing but their own
// fact. R is a struct as for [Rows], without key columns. The table in the
// schema also has the columns order_id, aggregate_type, aggregate_id, epoch,
// version, event_id and ordinal, which the kernel fills; all of them but
// order_id make up its primary key.
func Log[R any](name string, derive func(f event.Fact, put func(R))) LogTable {
	spec := declare[R](name, kindLog)
	return LogTable{spec, func(f event.Fact) []row {
		var rows []row
		derive(f, func(r R) {
			values := append(row{
				f.Key, f.Aggregate.Type, f.Aggregate.ID, f.Epoch, f.Version, f.ID, int64(len(rows)),
			}, spec.read(reflect.ValueOf(&r).Elem())...)
			rows = append(rows, values)
		})
		return rows
	}}
}

// Name is the table's.
func (l LogTable) Name() string { return l.spec.name }

type tableKind int

const (
	kindRows tableKind = iota
	kindSums
	kindLog
)

type columnType int

const (
	typeText columnType = iota
	typeInt
	typeBool
	typeTime
	typeJSON
)

type column struct {
	name     string
	field    []int
	typ      columnType
	nullable bool
	key, sum bool
}

// row holds one value per column: string, int64, bool, time.Time (UTC,
// microseconds) or nil.
type row []any

// tableSpec is the shape of a table. columns are those of the author's struct;
// all also has what the kernel fills, in the order rows are written.
type tableSpec struct {
	name    string
	kind    tableKind
	columns []column
	all     []column
	err     error
}

func declare[R any](name string, kind tableKind) *tableSpec {
	spec := &tableSpec{name: name, kind: kind}
	if !viewName.MatchString(name) {
		spec.err = fmt.Errorf("name %q: lower-case letters, digits and underscores only", name)
		return spec
	}
	typ := reflect.TypeFor[R]()
	if typ.Kind() != reflect.Struct {
		spec.err = fmt.Errorf("%s is not a struct", typ)
		return spec
	}
	for _, field := range reflect.VisibleFields(typ) {
		tag, ok := field.Tag.Lookup("db")
		if !ok || field.Anonymous {
			continue
		}
		col, err := parseColumn(field, tag)
		if err != nil {
			spec.err = fmt.Errorf("field %s: %w", field.Name, err)
			return spec
		}
		if kind == kindLog && (col.key || col.sum) || kind == kindRows && col.sum || kind == kindSums && col.key == col.sum {
			spec.err = fmt.Errorf("field %s: wrong kind of column for this table", field.Name)
			return spec
		}
		spec.columns = append(spec.columns, col)
	}
	switch kind {
	case kindRows:
		spec.all = spec.columns
	case kindSums:
		spec.all = append([]column{{name: "partition", typ: typeInt, key: true}}, spec.columns...)
	case kindLog:
		for _, name := range []string{"order_id", "aggregate_type", "aggregate_id", "epoch", "version", "event_id", "ordinal"} {
			col := column{name: name, key: name != "order_id"}
			if name == "version" || name == "ordinal" {
				col.typ = typeInt
			}
			spec.all = append(spec.all, col)
		}
		spec.all = append(spec.all, spec.columns...)
	}
	return spec
}

func parseColumn(field reflect.StructField, tag string) (column, error) {
	name, rest, _ := strings.Cut(tag, ",")
	col := column{name: name, field: field.Index}
	if !viewName.MatchString(name) {
		return col, fmt.Errorf("column name %q", name)
	}
	typ := field.Type
	if typ.Kind() == reflect.Pointer {
		col.nullable, typ = true, typ.Elem()
	}
	switch {
	case typ == reflect.TypeFor[time.Time]():
		col.typ = typeTime
	case typ.Kind() == reflect.String:
		col.typ = typeText
	case typ.Kind() == reflect.Bool:
		col.typ = typeBool
	case typ.Kind() == reflect.Int, typ.Kind() == reflect.Int32, typ.Kind() == reflect.Int64:
		col.typ = typeInt
	default:
		return col, fmt.Errorf("type %s cannot be a column", field.Type)
	}
	for option := range strings.SplitSeq(rest, ",") {
		switch option {
		case "":
		case "key":
			col.key = true
		case "sum":
			col.sum = true
		case "json":
			col.typ = typeJSON
		default:
			return col, fmt.Errorf("unknown option %q", option)
		}
	}
	if (col.key || col.sum) && col.nullable || col.sum && col.typ != typeInt || col.typ == typeJSON && (col.key || typ.Kind() != reflect.String) {
		return col, fmt.Errorf("type %s does not fit the options %q", field.Type, rest)
	}
	return col, nil
}

// read takes the values out of one of the author's structs.
func (t *tableSpec) read(v reflect.Value) row {
	values := make(row, len(t.columns))
	for i, col := range t.columns {
		f := v.FieldByIndex(col.field)
		if col.nullable {
			if f.IsNil() {
				continue
			}
			f = f.Elem()
		}
		switch col.typ {
		case typeText, typeJSON:
			values[i] = clean(f.String())
		case typeInt:
			values[i] = f.Int()
		case typeBool:
			values[i] = f.Bool()
		case typeTime:
			values[i] = f.Interface().(time.Time).UTC().Truncate(time.Microsecond)
		}
	}
	return values
}

// clean makes a string that Postgres can store: it has no place for NUL and
// for what is not UTF-8.
func clean(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// keyOf identifies a row within its table. No two different keys collide,
// because strings are quoted.
func keyOf(columns []column, r row) string {
	var b strings.Builder
	for i, col := range columns {
		if !col.key {
			continue
		}
		switch v := r[i].(type) {
		case string:
			b.WriteString(strconv.Quote(v))
		case int64:
			b.WriteString(strconv.FormatInt(v, 10))
		case bool:
			b.WriteString(strconv.FormatBool(v))
		case time.Time:
			b.WriteString(strconv.FormatInt(v.UnixMicro(), 10))
		}
		b.WriteByte(' ')
	}
	return b.String()
}

// equalRows compares rows of the same table.
func equalRows(a, b row) bool {
	for i := range a {
		if x, ok := a[i].(time.Time); ok {
			if y, ok := b[i].(time.Time); !ok || !x.Equal(y) {
				return false
			}
			continue
		}
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

type rowsTable[S, R any] struct {
	*tableSpec
	rows func(order string, s *S, put func(R))
}

func (t *rowsTable[S, R]) spec() *tableSpec { return t.tableSpec }

func (t *rowsTable[S, R]) derive(order string, s *S) map[string]row {
	found := map[string]row{}
	t.rows(order, s, func(r R) {
		values := t.read(reflect.ValueOf(&r).Elem())
		key := keyOf(t.columns, values)
		before, twice := found[key]
		switch {
		case t.kind == kindSums && twice:
			t.addTo(before, values, 1)
			return
		case twice:
			panic(fmt.Sprintf("table %s: one order put two rows with the key %s", t.name, key))
		case t.kind == kindRows && values[0] != order:
			panic(fmt.Sprintf("table %s: an order put a row of another order", t.name))
		}
		found[key] = values
	})
	return found
}

// addTo adds the sum columns of r, times sign, to those of total.
func (t *tableSpec) addTo(total, r row, sign int64) {
	for i, col := range t.columns {
		if col.sum {
			total[i] = total[i].(int64) + sign*r[i].(int64)
		}
	}
}

// shown are the columns that rows are shown and compared with.
func (t *tableSpec) shown() []column {
	if t.kind == kindSums {
		return t.columns // whose partition a sum is in does not matter
	}
	return t.all
}

// named returns rows as column → value, in the order of their keys. Sums that
// are zero are left out.
func (t *tableSpec) named(stored map[string]row) []map[string]any {
	columns := t.shown()
	var rows []map[string]any
	for _, key := range slices.Sorted(maps.Keys(stored)) {
		if t.kind == kindSums && t.empty(stored[key]) {
			continue
		}
		named := map[string]any{}
		for c, value := range stored[key] {
			named[columns[c].name] = value
		}
		rows = append(rows, named)
	}
	return rows
}

// empty reports whether all amounts of a sum row are zero.
func (t *tableSpec) empty(r row) bool {
	for i, col := range t.columns {
		if col.sum && r[i] != int64(0) {
			return false
		}
	}
	return true
}

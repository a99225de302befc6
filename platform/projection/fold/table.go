package fold

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
	spec() *Spec
	// derive returns what one order contributes, by key.
	derive(order string, s *S) map[string]Row
}

// Rows declares a table whose rows belong to one order each. R is a struct
// whose fields carry the tag `db:"column"`, with ",key" for the columns of the
// primary key and ",json" for JSON text in a jsonb column. The first key column
// must be order_id and hold the order. Fields are string, bool, int, int32,
// int64, time.Time or pointers to them; a nil pointer is NULL.
func Rows[S, R any](name string, derive func(order string, s *S, put func(R))) Table[S] {
	t := &rowsTable[S, R]{declare[R](name, KindRows), derive}
	if t.Spec.err == nil && (len(t.Columns) == 0 || t.Columns[0].Name != "order_id" || !t.Columns[0].Key) {
		t.Spec.err = fmt.Errorf("the first column must be order_id and a key")
	}
	return t
}

// Sums declares a table of counts and amounts that span orders. R is a struct
// as for [Rows]; its int64 fields tagged ",sum" are added up over all orders
// that add the same key. The table in the schema also has a column partition,
// first in its primary key: each partition keeps its own sums and queries add
// them.
func Sums[S, R any](name string, derive func(order string, s *S, add func(R))) Table[S] {
	return &rowsTable[S, R]{declare[R](name, KindSums), derive}
}

// LogTable is an append-only table of a view: see [Log].
type LogTable struct {
	spec   *Spec
	derive func(event.Fact) []Row
}

// Log declares an append-only table whose rows need nothing but their own
// fact. R is a struct as for [Rows], without key columns. The table in the
// schema also has the columns order_id, aggregate_type, aggregate_id, epoch,
// version, event_id and ordinal, which the kernel fills; all of them but
// order_id make up its primary key.
func Log[R any](name string, derive func(f event.Fact, put func(R))) LogTable {
	spec := declare[R](name, KindLog)
	return LogTable{spec, func(f event.Fact) []Row {
		var rows []Row
		derive(f, func(r R) {
			values := append(Row{
				f.Key, f.Aggregate.Type, f.Aggregate.ID, f.Epoch, f.Version, f.ID, int64(len(rows)),
			}, spec.read(reflect.ValueOf(&r).Elem())...)
			rows = append(rows, values)
		})
		return rows
	}}
}

// Name is the table's.
func (l LogTable) Name() string { return l.spec.Name }

// Kind says how the rows of a table come about.
type Kind int

// The kinds: see [Rows], [Sums] and [Log].
const (
	KindRows Kind = iota
	KindSums
	KindLog
)

// ColumnType says what the values of a column are.
type ColumnType int

// The types of columns.
const (
	TypeText ColumnType = iota
	TypeInt
	TypeBool
	TypeTime
	TypeJSON
)

// Column is a column of a table: part of its key, or an amount that is added up,
// or neither.
type Column struct {
	Name     string
	field    []int // of the author's struct
	Type     ColumnType
	nullable bool
	Key, Sum bool
}

// Row holds one value per column: string, int64, bool, time.Time (UTC,
// microseconds) or nil.
type Row []any

// Spec is the shape of a table. Columns are those of the author's struct; All
// also has what the kernel fills, in the order rows are written.
type Spec struct {
	Name    string
	Kind    Kind
	Columns []Column
	All     []Column
	err     error
}

func declare[R any](name string, kind Kind) *Spec {
	spec := &Spec{Name: name, Kind: kind}
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
		if kind == KindLog && (col.Key || col.Sum) || kind == KindRows && col.Sum || kind == KindSums && col.Key == col.Sum {
			spec.err = fmt.Errorf("field %s: wrong kind of column for this table", field.Name)
			return spec
		}
		spec.Columns = append(spec.Columns, col)
	}
	switch kind {
	case KindRows:
		spec.All = spec.Columns
	case KindSums:
		spec.All = append([]Column{{Name: "partition", Type: TypeInt, Key: true}}, spec.Columns...)
	case KindLog:
		for _, name := range []string{"order_id", "aggregate_type", "aggregate_id", "epoch", "version", "event_id", "ordinal"} {
			col := Column{Name: name, Key: name != "order_id"}
			if name == "version" || name == "ordinal" {
				col.Type = TypeInt
			}
			spec.All = append(spec.All, col)
		}
		spec.All = append(spec.All, spec.Columns...)
	}
	return spec
}

func parseColumn(field reflect.StructField, tag string) (Column, error) {
	name, rest, _ := strings.Cut(tag, ",")
	col := Column{Name: name, field: field.Index}
	if !viewName.MatchString(name) {
		return col, fmt.Errorf("column name %q", name)
	}
	typ := field.Type
	if typ.Kind() == reflect.Pointer {
		col.nullable, typ = true, typ.Elem()
	}
	switch {
	case typ == reflect.TypeFor[time.Time]():
		col.Type = TypeTime
	case typ.Kind() == reflect.String:
		col.Type = TypeText
	case typ.Kind() == reflect.Bool:
		col.Type = TypeBool
	case typ.Kind() == reflect.Int, typ.Kind() == reflect.Int32, typ.Kind() == reflect.Int64:
		col.Type = TypeInt
	default:
		return col, fmt.Errorf("type %s cannot be a column", field.Type)
	}
	for option := range strings.SplitSeq(rest, ",") {
		switch option {
		case "":
		case "key":
			col.Key = true
		case "sum":
			col.Sum = true
		case "json":
			col.Type = TypeJSON
		default:
			return col, fmt.Errorf("unknown option %q", option)
		}
	}
	if (col.Key || col.Sum) && col.nullable || col.Sum && col.Type != TypeInt || col.Type == TypeJSON && (col.Key || typ.Kind() != reflect.String) {
		return col, fmt.Errorf("type %s does not fit the options %q", field.Type, rest)
	}
	return col, nil
}

// read takes the values out of one of the author's structs.
func (t *Spec) read(v reflect.Value) Row {
	values := make(Row, len(t.Columns))
	for i, col := range t.Columns {
		f := v.FieldByIndex(col.field)
		if col.nullable {
			if f.IsNil() {
				continue
			}
			f = f.Elem()
		}
		switch col.Type {
		case TypeText, TypeJSON:
			values[i] = Clean(f.String())
		case TypeInt:
			values[i] = f.Int()
		case TypeBool:
			values[i] = f.Bool()
		case TypeTime:
			values[i] = f.Interface().(time.Time).UTC().Truncate(time.Microsecond)
		}
	}
	return values
}

// Clean makes a string that Postgres can store: it has no place for NUL and
// for what is not UTF-8.
func Clean(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// KeyOf identifies a row within its table. No two different keys collide,
// because strings are quoted.
func KeyOf(columns []Column, r Row) string {
	var b strings.Builder
	for i, col := range columns {
		if !col.Key {
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

// EqualRows compares rows of the same table.
func EqualRows(a, b Row) bool {
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
	*Spec
	rows func(order string, s *S, put func(R))
}

func (t *rowsTable[S, R]) spec() *Spec { return t.Spec }

func (t *rowsTable[S, R]) derive(order string, s *S) map[string]Row {
	found := map[string]Row{}
	t.rows(order, s, func(r R) {
		values := t.read(reflect.ValueOf(&r).Elem())
		key := KeyOf(t.Columns, values)
		before, twice := found[key]
		switch {
		case t.Kind == KindSums && twice:
			t.AddTo(before, values, 1)
			return
		case twice:
			panic(fmt.Sprintf("table %s: one order put two rows with the key %s", t.Name, key))
		case t.Kind == KindRows && values[0] != order:
			panic(fmt.Sprintf("table %s: an order put a row of another order", t.Name))
		}
		found[key] = values
	})
	return found
}

// AddTo adds the sum columns of r, times sign, to those of total.
func (t *Spec) AddTo(total, r Row, sign int64) {
	for i, col := range t.Columns {
		if col.Sum {
			total[i] = total[i].(int64) + sign*r[i].(int64)
		}
	}
}

// Shown are the columns that rows are shown and compared with.
func (t *Spec) Shown() []Column {
	if t.Kind == KindSums {
		return t.Columns // whose partition a sum is in does not matter
	}
	return t.All
}

// Named returns rows as column → value, in the order of their keys. Sums that
// are zero are left out.
func (t *Spec) Named(stored map[string]Row) []map[string]any {
	columns := t.Shown()
	var rows []map[string]any
	for _, key := range slices.Sorted(maps.Keys(stored)) {
		if t.Kind == KindSums && t.Empty(stored[key]) {
			continue
		}
		named := map[string]any{}
		for c, value := range stored[key] {
			named[columns[c].Name] = value
		}
		rows = append(rows, named)
	}
	return rows
}

// Empty reports whether all amounts of a sum row are zero.
func (t *Spec) Empty(r Row) bool {
	for i, col := range t.Columns {
		if col.Sum && r[i] != int64(0) {
			return false
		}
	}
	return true
}

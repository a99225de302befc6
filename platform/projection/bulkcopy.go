package projection

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// COPY takes rows in a binary format, which spares the server reading numbers and
// times from texts: https://www.postgresql.org/docs/current/sql-copy.html

const (
	copyHeader = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	copyChunk  = 512 << 10 // bytes sent at once
	// copyAlive is how often a transaction says something, so that the server does
	// not take it for one whose process stands still.
	copyAlive = time.Second
)

// bulkTable gathers rows of one table.
type bulkTable struct {
	sql  string
	oids []uint32
	buf  []byte
}

// bulkChunk is some rows on their way.
type bulkChunk struct {
	sql  string
	rows []byte
}

const selectOIDs = `SELECT c.relname, a.attname, a.atttypid FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
	WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped`

// columnOIDs reads the types of all columns of the generation, by table.
func columnOIDs(ctx context.Context, tx pgx.Tx) (map[string]map[string]uint32, error) {
	rows, err := tx.Query(ctx, selectOIDs)
	if err != nil {
		return nil, err
	}
	all := map[string]map[string]uint32{}
	var table, column string
	var oid uint32
	_, err = pgx.ForEachRow(rows, []any{&table, &column, &oid}, func() error {
		if all[table] == nil {
			all[table] = map[string]uint32{}
		}
		all[table][column] = oid
		return nil
	})
	return all, err
}

func (b *bulk[S]) table(name string, columns ...string) *bulkTable {
	t := &bulkTable{}
	var names []string
	for _, column := range columns {
		names = append(names, pgx.Identifier{column}.Sanitize())
		t.oids = append(t.oids, b.types[name][column])
	}
	t.sql = fmt.Sprintf("COPY %s (%s) FROM STDIN (FORMAT binary)", pgx.Identifier{name}.Sanitize(), strings.Join(names, ", "))
	return t
}

// add appends a row.
func (t *bulkTable) add(r fold.Row) error {
	t.buf = binary.BigEndian.AppendUint16(t.buf, uint16(len(r)))
	for i, v := range r {
		if !t.value(t.oids[i], v) {
			return fmt.Errorf("%w: a value does not fit its column, %T into type %d", errUnfit, v, t.oids[i])
		}
	}
	return nil
}

// postgresDawn is what the server counts microseconds from.
var postgresDawn = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// value appends one value with its length, if it fits the type.
func (t *bulkTable) value(oid uint32, v any) bool {
	size := func(n int) { t.buf = binary.BigEndian.AppendUint32(t.buf, uint32(n)) }
	switch v := v.(type) {
	case nil:
		size(-1)
		return true
	case string:
		switch oid {
		case pgtype.TextOID, pgtype.VarcharOID, pgtype.JSONOID:
			size(len(v))
		case pgtype.JSONBOID:
			size(len(v) + 1)
			t.buf = append(t.buf, 1)
		default:
			return false
		}
		t.buf = append(t.buf, v...)
		return true
	case []byte: // encoded JSON
		size(len(v))
		t.buf = append(t.buf, v...)
		return oid == pgtype.JSONOID
	case int64:
		switch oid {
		case pgtype.Int8OID:
			size(8)
			t.buf = binary.BigEndian.AppendUint64(t.buf, uint64(v))
			return true
		case pgtype.Int4OID:
			size(4)
			t.buf = binary.BigEndian.AppendUint32(t.buf, uint32(v))
			return v >= math.MinInt32 && v <= math.MaxInt32
		case pgtype.Int2OID:
			size(2)
			t.buf = binary.BigEndian.AppendUint16(t.buf, uint16(v))
			return v >= math.MinInt16 && v <= math.MaxInt16
		}
	case bool:
		size(1)
		t.buf = append(t.buf, 0)
		if v {
			t.buf[len(t.buf)-1] = 1
		}
		return oid == pgtype.BoolOID
	case time.Time:
		size(8)
		t.buf = binary.BigEndian.AppendUint64(t.buf, uint64(v.UnixMicro()-postgresDawn.UnixMicro()))
		return oid == pgtype.TimestamptzOID
	}
	return false
}

// copy adds a row, and sends what is enough for one COPY.
func (b *bulkPass[S]) copy(ctx context.Context, t *bulkTable, r fold.Row) error {
	if b.doomed {
		return nil
	}
	if len(t.buf) == 0 {
		select {
		case t.buf = <-b.empty:
		default:
			t.buf = make([]byte, 0, copyChunk+64<<10)
		}
		t.buf = append(t.buf, copyHeader...)
	}
	if err := t.add(r); err != nil {
		return err
	}
	if len(t.buf) < copyChunk {
		return nil
	}
	return b.send(ctx, t)
}

func (b *bulkPass[S]) send(ctx context.Context, t *bulkTable) error {
	if len(t.buf) == 0 {
		return nil
	}
	chunk := bulkChunk{t.sql, binary.BigEndian.AppendUint16(t.buf, math.MaxUint16)}
	t.buf = nil
	if b.put != nil {
		return b.put(ctx, chunk)
	}
	return give(ctx, b.full, chunk)
}

// write copies chunks into their tables until there are no more.
func (b *bulkPass[S]) write(ctx context.Context, tx pgx.Tx) error {
	alive := time.NewTicker(copyAlive)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-alive.C:
			if _, err := tx.Exec(ctx, "SELECT"); err != nil {
				return err
			}
		case chunk, ok := <-b.full:
			if !ok {
				return nil
			}
			if err := b.copyIn(ctx, tx, chunk); err != nil {
				return err
			}
		}
	}
}

// copyIn copies a chunk into its table.
func (b *bulkPass[S]) copyIn(ctx context.Context, tx pgx.Tx, chunk bulkChunk) error {
	if _, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(chunk.rows), chunk.sql); err != nil {
		if err = asRefusal(err); refused(err) {
			err = errors.Join(errUnfit, err)
		}
		return fmt.Errorf("copy rows: %w", err)
	}
	select {
	case b.empty <- chunk.rows[:0]:
	default:
	}
	return nil
}

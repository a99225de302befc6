package projection

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Sums span orders, so they have no versions to be compared at. They are
// computed anew from the states of the same snapshot. To need no memory per key,
// amounts are first added up under a number that the key is mapped to: adding is
// linear, so equal tables have equal sums, in every bucket. Only keys of buckets
// that differ are then computed one by one, to be named.

const sumBuckets = 4096

type sumCheck struct {
	seed    maphash.Seed
	buckets map[string]*[sumBuckets]uint64 // by table
}

func newSumCheck(specs []*tableSpec) *sumCheck {
	s := &sumCheck{seed: maphash.MakeSeed(), buckets: map[string]*[sumBuckets]uint64{}}
	for _, spec := range specs {
		if spec.kind == kindSums {
			s.buckets[spec.name] = &[sumBuckets]uint64{}
		}
	}
	return s
}

func (s *sumCheck) bucket(key string) uint64 { return hashOf(s.seed, "bucket", key) % sumBuckets }

func sumKey(spec *tableSpec, partition int32, r row) string {
	return fmt.Sprintf("%d %s", partition, keyOf(spec.columns, r))
}

// add adds a row with the columns of the author's struct, times sign.
func (s *sumCheck) add(spec *tableSpec, partition int32, r row, sign int64) {
	key := sumKey(spec, partition, r)
	at := &s.buckets[spec.name][s.bucket(key)]
	for i, col := range spec.columns {
		if col.sum {
			*at += hashOf(s.seed, col.name, key) * uint64(sign*r[i].(int64))
		}
	}
}

// checkSums compares the stored sums with those of the states.
func (c *comparison[S]) checkSums(ctx context.Context, tx pgx.Tx) error {
	for i, spec := range c.p.view.specs() {
		if spec.kind != kindSums {
			continue
		}
		if err := c.eachSum(ctx, tx, spec, func(partition int32, r row) { c.sums.add(spec, partition, r, -1) }); err != nil {
			return err
		}
		wrong := map[uint64]bool{}
		for bucket, left := range c.sums.buckets[spec.name] {
			if left != 0 && len(wrong) < 8 {
				wrong[uint64(bucket)] = true
			}
		}
		if len(wrong) == 0 {
			c.report.SumsChecked = append(c.report.SumsChecked, spec.name)
			continue
		}
		if err := c.nameSums(ctx, tx, i, spec, wrong); err != nil {
			return err
		}
	}
	return nil
}

// eachSum goes through a stored table of sums.
func (c *comparison[S]) eachSum(ctx context.Context, tx pgx.Tx, spec *tableSpec, take func(partition int32, r row)) error {
	names := []string{"partition::bigint"}
	for _, col := range spec.columns {
		names = append(names, col.name+"::"+columnTypes[col.typ])
	}
	rows, err := tx.Query(ctx, "SELECT "+strings.Join(names, ", ")+" FROM "+pgx.Identifier{c.to.own.schema, spec.name}.Sanitize())
	if err != nil {
		return fmt.Errorf("read sums: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		values, err := scanRow(rows)
		if err != nil {
			return fmt.Errorf("read sums: %w", err)
		}
		take(int32(values[0].(int64)), values[1:])
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read sums: %w", err)
	}
	return nil
}

// nameSums computes the keys of some buckets one by one.
func (c *comparison[S]) nameSums(ctx context.Context, tx pgx.Tx, table int, spec *tableSpec, wrong map[uint64]bool) error {
	left := map[string]row{}
	add := func(partition int32, r row, sign int64) {
		key := sumKey(spec, partition, r)
		if !wrong[c.sums.bucket(key)] {
			return
		}
		if left[key] == nil {
			left[key] = slices.Clone(r)
			for i, col := range spec.columns {
				if col.sum {
					left[key][i] = int64(0)
				}
			}
		}
		spec.addTo(left[key], r, sign)
	}
	states, err := openCursor(ctx, tx, fmt.Sprintf("sum_%d", table), stateColumns, pgx.Identifier{c.to.own.schema, "state"}.Sanitize())
	if err != nil {
		return err
	}
	for {
		id, ok, err := states.peek(ctx)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		rows, err := states.take(ctx, id)
		if err != nil {
			return err
		}
		var pr pair[S]
		pr.state(0, rows[0])
		tables, err := c.derive(id, pr.new)
		if err != nil {
			return err
		}
		for _, r := range tables[table] {
			add(pr.partition, r, 1)
		}
	}
	if err := c.eachSum(ctx, tx, spec, func(partition int32, r row) { add(partition, r, -1) }); err != nil {
		return err
	}
	named := 0
	for _, key := range slices.Sorted(maps.Keys(left)) {
		if r := left[key]; !spec.empty(r) {
			if named++; named <= maxNamed {
				c.report.refuse(checkSums, "table "+spec.name+", key "+key, "the states add up to %s more than is stored", amounts(spec, r))
			}
		}
	}
	return nil
}

func amounts(spec *tableSpec, r row) string {
	var parts []string
	for i, col := range spec.columns {
		if col.sum {
			parts = append(parts, fmt.Sprintf("%s %d", col.name, r[i]))
		}
	}
	return strings.Join(parts, ", ")
}

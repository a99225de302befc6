package projection

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/projection/fold"
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

func newSumCheck(specs []*fold.Spec) *sumCheck {
	s := &sumCheck{seed: maphash.MakeSeed(), buckets: map[string]*[sumBuckets]uint64{}}
	for _, spec := range specs {
		if spec.Kind == fold.KindSums {
			s.buckets[spec.Name] = &[sumBuckets]uint64{}
		}
	}
	return s
}

func (s *sumCheck) bucket(key string) uint64 { return hashOf(s.seed, "bucket", key) % sumBuckets }

func sumKey(spec *fold.Spec, partition int32, r fold.Row) string {
	return fmt.Sprintf("%d %s", partition, fold.KeyOf(spec.Columns, r))
}

// add adds a row with the columns of the author's struct, times sign.
func (s *sumCheck) add(spec *fold.Spec, partition int32, r fold.Row, sign int64) {
	key := sumKey(spec, partition, r)
	at := &s.buckets[spec.Name][s.bucket(key)]
	for i, col := range spec.Columns {
		if col.Sum {
			*at += hashOf(s.seed, col.Name, key) * uint64(sign*r[i].(int64))
		}
	}
}

// checkSums compares the stored sums with those of the states.
func (c *comparison[S]) checkSums(ctx context.Context, tx pgx.Tx) error {
	for i, spec := range c.p.view.Specs() {
		if spec.Kind != fold.KindSums {
			continue
		}
		if err := c.eachSum(ctx, tx, spec, func(partition int32, r fold.Row) { c.sums.add(spec, partition, r, -1) }); err != nil {
			return err
		}
		wrong := map[uint64]bool{}
		for bucket, left := range c.sums.buckets[spec.Name] {
			if left != 0 && len(wrong) < 8 {
				wrong[uint64(bucket)] = true
			}
		}
		if len(wrong) == 0 {
			c.report.SumsChecked = append(c.report.SumsChecked, spec.Name)
			continue
		}
		if err := c.nameSums(ctx, tx, i, spec, wrong); err != nil {
			return err
		}
	}
	return nil
}

// eachSum goes through a stored table of sums.
func (c *comparison[S]) eachSum(ctx context.Context, tx pgx.Tx, spec *fold.Spec, take func(partition int32, r fold.Row)) error {
	names := []string{"partition::bigint"}
	for _, col := range spec.Columns {
		names = append(names, col.Name+"::"+columnTypes[col.Type])
	}
	rows, err := tx.Query(ctx, "SELECT "+strings.Join(names, ", ")+" FROM "+pgx.Identifier{c.to.own.schema, spec.Name}.Sanitize())
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
func (c *comparison[S]) nameSums(ctx context.Context, tx pgx.Tx, table int, spec *fold.Spec, wrong map[uint64]bool) error {
	left := map[string]fold.Row{}
	add := func(partition int32, r fold.Row, sign int64) {
		key := sumKey(spec, partition, r)
		if !wrong[c.sums.bucket(key)] {
			return
		}
		if left[key] == nil {
			left[key] = slices.Clone(r)
			for i, col := range spec.Columns {
				if col.Sum {
					left[key][i] = int64(0)
				}
			}
		}
		spec.AddTo(left[key], r, sign)
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
	if err := c.eachSum(ctx, tx, spec, func(partition int32, r fold.Row) { add(partition, r, -1) }); err != nil {
		return err
	}
	named := 0
	for _, key := range slices.Sorted(maps.Keys(left)) {
		if r := left[key]; !spec.Empty(r) {
			if named++; named <= maxNamed {
				c.report.refuse(checkSums, "table "+spec.Name+", key "+key, "the states add up to %s more than is stored", amounts(spec, r))
			}
		}
	}
	return nil
}

func amounts(spec *fold.Spec, r fold.Row) string {
	var parts []string
	for i, col := range spec.Columns {
		if col.Sum {
			parts = append(parts, fmt.Sprintf("%s %d", col.Name, r[i]))
		}
	}
	return strings.Join(parts, ", ")
}

package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// schemaOf is the Postgres schema of a generation's first build.
func schemaOf(generation string) string {
	return pgx.Identifier{strings.NewReplacer("/", "_g", "-", "_").Replace(generation)}.Sanitize()
}

// rederived has a next version, which says that it folds as this one, take its
// states over, and compares what it derives from them with what facts came to.
func (k *kit[S]) rederived(t *testing.T) error {
	base := k.open(t)
	defer base.close()
	var told []story
	for n := range 10 {
		told = append(told, k.draw(n))
	}
	facts, batches, err := k.mixed(told)
	if err != nil {
		return err
	}
	if err := base.deliver(base.first, batches...); err != nil {
		return err
	}
	if _, err := base.pool.Exec(base.ctx, "UPDATE tidemark.generation SET status = 'READY', followed_at = now() + interval '1 day'"); err != nil {
		return err
	}
	view, cfg := k.View, base.cfg
	view.Version++
	if view.FoldVersion == 0 {
		view.FoldVersion = k.View.Version
	}
	cfg.Generations.BulkAbove = -1
	cfg.Scan = func(context.Context, int32, map[string]consumer.Bounds, func(map[string]string, []consumer.Record) error) error {
		return errors.New("facts are read")
	}
	next, err := projection.Open(base.ctx, cfg, view)
	if err != nil {
		return err
	}
	defer next.Close()
	if err := next.Bulk(base.ctx); err != nil {
		return err
	}
	for number := range int32(partitions) {
		offsets, err := next.Claim(base.ctx, number, base.ids)
		if err != nil {
			return err
		}
		for _, source := range view.Sources {
			topic := kafka.EventsTopic(source)
			if at, end := offsets[topic], base.next[fmt.Sprintf("%s/%d", topic, number)]; at != end {
				return fmt.Errorf("the next version begins at offset %d of %d of %s: a state that is read and written again is another one, or no rows follow from it", at, end, topic)
			}
		}
	}
	want, err := fold.Reference(view, facts)
	if err != nil {
		return err
	}
	got, err := next.All(base.ctx)
	if err != nil {
		return err
	}
	if err := same("rows derived from states", want, got); err != nil {
		return err
	}
	var states [2]string
	for i, schema := range []string{base.first.Generation(), next.Generation()} {
		if err := base.pool.QueryRow(base.ctx, "SELECT coalesce(string_agg(s::text, E'\n' ORDER BY s::text), '') FROM "+schemaOf(schema)+".state AS s").Scan(&states[i]); err != nil {
			return err
		}
	}
	if diff := cmp.Diff(states[0], states[1]); diff != "" {
		return fmt.Errorf("states (-taken over +stored):\n%s", diff)
	}
	return nil
}

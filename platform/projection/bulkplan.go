package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

const (
	bulkUnder    = `SELECT EXISTS (SELECT FROM bulk_part)`
	bulkBuilding = `SELECT EXISTS (SELECT FROM tidemark.generation WHERE schema = $1 AND status = 'BUILDING')`
	lockAll      = `SELECT revision, term, offsets, books FROM position ORDER BY partition FOR UPDATE`
	// Somebody keeps the generation that answers.
	answersBeside = `SELECT EXISTS (SELECT FROM tidemark.pointer p JOIN tidemark.generation g ON g.schema = p.schema
		WHERE p.name = $1 AND p.schema <> $2 AND g.followed_at > now() - interval '10 seconds')`
	planPart = `INSERT INTO bulk_part (partition, logs, books, buckets) VALUES ($1, $2, $3, $4)`
)

// plan decides, once for a generation, where what is copied in bulk ends. It
// reports whether copying in bulk is under way.
func (b *bulk[S]) plan(ctx context.Context) (under bool, err error) {
	p := b.p
	if p.cfg.Generations.BulkAbove < 0 && !p.view.Rederives() {
		return false, nil
	}
	err = postgres.InTx(ctx, p.pool, func(tx pgx.Tx) error {
		under, b.copied = false, map[int32]copiedTo{}
		at, err := b.lockAll(ctx, tx)
		if err != nil {
			return err
		}
		beside := false
		if err := tx.QueryRow(ctx, answersBeside, p.view.Name, p.own.schema).Scan(&beside); err != nil {
			return err
		}
		b.many = workers(runtime.GOMAXPROCS(0), int(p.pool.Config().MaxConns), len(at), beside)
		if err := tx.QueryRow(ctx, bulkUnder).Scan(&under); err != nil {
			return err
		}
		if !under {
			if under, err = b.begin(ctx, tx, at); err != nil || !under {
				return err
			}
		}
		if b.base, err = b.derivedFrom(ctx, tx); err != nil {
			return err
		}
		b.types, err = columnOIDs(ctx, tx)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("plan what is copied in bulk: %w", err)
	}
	return under, nil
}

// begin begins copying in bulk if that is worth it.
func (b *bulk[S]) begin(ctx context.Context, tx pgx.Tx, at []position) (begun bool, err error) {
	p := b.p
	for _, position := range at {
		if len(position.offsets) > 0 {
			return false, nil
		}
	}
	building := false
	if err := tx.QueryRow(ctx, bulkBuilding, p.own.schema).Scan(&building); err != nil || !building {
		return false, err
	}
	if derives, err := b.beginDerived(ctx, tx, len(at)); err != nil || derives {
		return derives, err
	}
	if p.cfg.Generations.BulkAbove < 0 {
		return false, nil
	}
	bounds, err := p.bounds(ctx)
	if err != nil {
		return false, err
	}
	records := int64(0)
	for _, topic := range p.dataTopics() {
		for _, log := range bounds[topic] {
			records += log.End - log.Start
		}
	}
	if records < max(1, p.cfg.Generations.BulkAbove) {
		return false, nil
	}
	for number := range at {
		logs, ids, records := map[string]consumer.Bounds{}, map[string]string{}, int64(0)
		for _, topic := range p.dataTopics() {
			logs[topic], ids[topic] = bounds[topic][int32(number)], ""
			records += logs[topic].End - logs[topic].Start
		}
		p.follow(int32(number), &at[number], nil, ids, bounds)
		text, err := json.Marshal(logs)
		if err != nil {
			return false, err
		}
		books, err := json.Marshal(at[number].books)
		if err != nil {
			return false, err
		}
		buckets := min(1+records*bulkFactWeight/share(p.cfg.Generations.BulkMemory, b.many), max(1, records), maxBuckets)
		if _, err := tx.Exec(ctx, planPart, number, text, books, buckets); err != nil {
			return false, err
		}
	}
	return true, b.dropIndexes(ctx, tx)
}

// lockAll locks every position, by partition.
func (b *bulk[S]) lockAll(ctx context.Context, tx pgx.Tx) (at []position, err error) {
	rows, err := tx.Query(ctx, lockAll)
	if err != nil {
		return nil, fmt.Errorf("lock the positions: %w", err)
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (position, error) { return b.p.scanPosition(r) })
}

package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
)

// A new generation first copies in bulk what the logs have already: it folds in
// memory and writes every row once, into tables without indexes. What happens
// meanwhile, and ever after, comes the ordinary way.
//
//	plan: where the logs end; indexes go ─▶ passes: one partition, or some of its keys, each
//	      ─▶ indexes come back ─▶ finish: positions ─▶ the ordinary way
//
// A pass is a transaction; so is an index. Each locks what it works on and skips
// what others have locked, so processes share the work, and what one of them
// leaves behind when it is killed begins again. Positions are written by the last
// transaction: until then nobody reads on from here, and nothing looks built.
// Whatever cannot be done in bulk is given up: the tables are emptied and the
// ordinary way begins at offset 0.
//
// A pass may also take the states of another generation over and derive rows from
// them, without reading facts: see rederive.go.

// errUnfit says that what is in the logs cannot be copied in bulk.
var errUnfit = errors.New("it cannot be copied in bulk")

// bulkTries is how often in a row bulk work may fail before it is given up: some
// minutes, which a broker or a database may be away.
const bulkTries = 100

// Bulk copies what is in the logs now into a generation that has nothing yet. It
// returns at once if the generation has something, or if there is little to copy,
// and otherwise when all is copied, by this process and others, or given up.
// Whatever goes wrong is tried again until the context ends. Run calls it.
//
// Any other error than the context's says that this code is at fault. What was
// copied is given up then, and the ordinary way builds the generation.
func (p *Projection[S]) Bulk(ctx context.Context) error {
	b := &bulk[S]{p: p, odd: map[int32]map[string]bool{}, at: map[int32]*atomic.Int64{}}
	const leastPause = 50 * time.Millisecond
	pause := leastPause
	for failed, idle := 0, 0; ; {
		done := b.done.Load()
		over, err := b.once(ctx)
		if err == nil && !over && b.done.Load() == done {
			if idle++; idle > bulkIdle {
				err = brokenf("something is left to do and nobody does it")
			}
		} else {
			idle = 0
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case over:
			return nil
		case err == nil:
			failed = 0
			continue // there is more to do
		}
		if failed++; b.done.Load() > done {
			failed = 1
		}
		if err = asFault(err); errors.Is(err, errBroken) {
			fault := fmt.Errorf("generation %s is built the ordinary way: %w", p.own, err)
			if err = b.end(ctx, b.giveUp); err == nil {
				return fault
			}
			err = errors.Join(fault, err)
		}
		if errors.Is(err, errUnfit) || errors.Is(err, consumer.ErrOutsideLog) || failed >= bulkTries {
			if b.base != "" {
				p.cfg.Log.Warn("states cannot be taken over and the generation is built from facts", "generation", p.own.String(), "from", b.base, "error", err)
				if err = b.end(ctx, b.forgo); err == nil {
					b.base, failed, pause = "", 0, leastPause
					continue
				}
			} else {
				p.cfg.Log.Warn("a generation cannot be copied in bulk and is built the ordinary way", "generation", p.own.String(), "error", err)
				if err = b.end(ctx, b.giveUp); err == nil {
					return nil
				}
			}
		}
		p.cfg.Log.Warn("copying in bulk failed and is tried again", "generation", p.own.String(), "error", err)
		if err := rest(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// bulk is what this process does of a generation's copying in bulk.
type bulk[S any] struct {
	p     *Projection[S]
	base  string                       // schema of the generation whose states are taken over, if they are
	types map[string]map[string]uint32 // of the columns, by table
	done  atomic.Int64                 // passes and indexes that were done here
	many  int                          // passes that go on at once here, of those that share the memory

	mu     sync.Mutex
	copied map[int32]copiedTo        // since it was planned
	forgot int                       // passes that were done here and are not
	odd    map[int32]map[string]bool // orders to be taken one fact at a time, by partition
	at     map[int32]*atomic.Int64   // how far the passes under way have read
}

// once does what there is to do. over says that there is nothing left, or nothing
// to begin with.
func (b *bulk[S]) once(ctx context.Context) (over bool, err error) {
	under, err := b.plan(ctx)
	if err != nil || !under {
		return err == nil, err
	}
	if err := b.p.fail("bulk plan"); err != nil {
		return false, err
	}
	if b.p.brake.holds() != "" {
		if err := errors.Join(b.p.fail("bulk stands"), b.p.brake.wait(ctx)); err != nil {
			return false, err
		}
	}
	inside, cancel := context.WithCancel(ctx)
	var progress sync.WaitGroup
	progress.Go(func() { b.tellProgress(inside) })
	defer progress.Wait()
	defer cancel()
	for _, step := range []struct {
		work func(context.Context) (bool, error)
		many int
		left string
	}{{b.pass, b.many, "SELECT EXISTS (SELECT FROM bulk_part WHERE done < buckets)"}, {b.index, b.many + 1, "SELECT EXISTS (SELECT FROM bulk_index WHERE NOT made)"}} {
		if err := b.all(ctx, step.many, step.work); err != nil {
			return false, err
		}
		if left, err := b.left(ctx, step.left); err != nil || left {
			return false, err
		}
	}
	if err := b.end(ctx, b.finish); err != nil {
		return false, err
	}
	b.p.cfg.Log.Info("what there was is copied in bulk", "generation", b.p.own.String(), "states_from", b.base)
	return true, nil
}

// all does pieces of work, so many at once, until there are no more for it.
func (b *bulk[S]) all(ctx context.Context, many int, work func(context.Context) (bool, error)) error {
	group, ctx := errgroup.WithContext(ctx)
	for range many {
		group.Go(func() error {
			for {
				more, err := work(ctx)
				if err != nil || !more {
					return err
				}
				b.done.Add(1)
			}
		})
	}
	return group.Wait()
}

// left waits for what other processes are at and reports whether something of it
// is left.
func (b *bulk[S]) left(ctx context.Context, sql string) (left bool, err error) {
	err = postgres.InTx(ctx, b.p.pool, func(tx pgx.Tx) error {
		if _, err := b.lockAll(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT FROM bulk_index FOR UPDATE"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sql).Scan(&left)
	})
	if err != nil {
		return left, fmt.Errorf("see what is left to copy: %w", err)
	}
	return left, nil
}

// end writes positions and has the ordinary way go on, or begin.
func (b *bulk[S]) end(ctx context.Context, how func(context.Context, pgx.Tx, []position) error) error {
	return postgres.InTx(ctx, b.p.pool, func(tx pgx.Tx) error {
		at, err := b.lockAll(ctx, tx)
		if err != nil {
			return err
		}
		under := false
		if err := tx.QueryRow(ctx, bulkUnder).Scan(&under); err != nil || !under {
			return err // another process did it
		}
		if err := how(ctx, tx, at); err != nil {
			return fmt.Errorf("end copying in bulk: %w", err)
		}
		_, err = tx.Exec(ctx, "DELETE FROM bulk_part; DELETE FROM bulk_index")
		return err
	})
}

const (
	selectBuilt   = `SELECT partition, logs, topic_ids, books, done >= buckets FROM bulk_part ORDER BY partition`
	writePosition = `UPDATE position SET revision = revision + 1, offsets = $2, topic_ids = $3, books = $4, updated_at = now() WHERE partition = $1`
)

// finish writes the positions behind all that was copied.
func (b *bulk[S]) finish(ctx context.Context, tx pgx.Tx, at []position) error {
	for _, position := range at {
		if len(position.offsets) > 0 {
			return fmt.Errorf("%w: another program has read on meanwhile", errUnfit)
		}
	}
	rows, err := tx.Query(ctx, selectBuilt)
	if err != nil {
		return err
	}
	var number int32
	var logsText, ids, text []byte
	var done bool
	moves, known := &pgx.Batch{}, map[string]string{}
	if _, err = pgx.ForEachRow(rows, []any{&number, &logsText, &ids, &text, &done}, func() error {
		if !done {
			return brokenf("partition %d is not copied, and nothing is left to do", number)
		}
		logs, own := map[string]consumer.Bounds{}, map[string]string{}
		if err := errors.Join(json.Unmarshal(logsText, &logs), json.Unmarshal(ids, &own)); err != nil {
			return err
		}
		for topic, id := range own {
			if known[topic] != "" && known[topic] != id {
				return fmt.Errorf("%w: topic %s was made again meanwhile", errUnfit, topic)
			}
		}
		maps.Copy(known, own)
		position := at[number]
		position.books, position.offsets = completeness.Books{}, map[string]int64{}
		if err := json.Unmarshal(text, &position.books); err != nil {
			return err
		}
		for topic, log := range logs {
			position.offsets[topic] = log.End
		}
		return position.move(moves, number, own)
	}); err != nil {
		return err
	}
	if err := b.sealIndexes(ctx, tx); err != nil {
		return err
	}
	return errors.Join(tx.SendBatch(ctx, moves).Close(), b.p.fail("bulk end"))
}

func (p *position) move(batch *pgx.Batch, number int32, ids map[string]string) error {
	sealed, err := p.seal()
	if err != nil {
		return err
	}
	offsets, err := json.Marshal(p.offsets)
	if err != nil {
		return err
	}
	text, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	batch.Queue(writePosition, number, offsets, text, sealed)
	return nil
}

// giveUp empties what was copied. Positions say offset 0, which is how the next
// look knows that this was tried.
func (b *bulk[S]) giveUp(ctx context.Context, tx pgx.Tx, at []position) error {
	if err := b.empty(ctx, tx); err != nil {
		return err
	}
	moves := &pgx.Batch{}
	for number := range at {
		at[number].offsets, at[number].books = map[string]int64{}, completeness.Books{}
		for _, topic := range b.p.dataTopics() {
			at[number].offsets[topic] = 0
		}
		if err := at[number].move(moves, int32(number), map[string]string{}); err != nil {
			return err
		}
	}
	return tx.SendBatch(ctx, moves).Close()
}

// empty removes what was copied, and has the tables be as they were made.
func (b *bulk[S]) empty(ctx context.Context, tx pgx.Tx) error {
	empty := "UPDATE position SET skipped = '{}'; TRUNCATE state, member, parked, quarantine, source_mark"
	for _, spec := range b.p.view.Specs() {
		empty += ", " + pgx.Identifier{spec.Name}.Sanitize()
	}
	if _, err := tx.Exec(ctx, empty); err != nil {
		return err
	}
	return b.makeIndexes(ctx, tx)
}

// bulkProgress is how many records a generation that is copied in bulk has read,
// as far as its positions do not say so.
const bulkProgress = `SELECT coalesce(sum(progress), 0)::bigint FROM `

// tellProgress notes how far the passes of this process are, for operators.
func (b *bulk[S]) tellProgress(ctx context.Context) {
	for rest(ctx, b.p.progressEvery) == nil {
		b.mu.Lock()
		at := map[int32]int64{}
		for number, read := range b.at {
			at[number] = read.Load()
		}
		b.mu.Unlock()
		for number, read := range at {
			// It only shows; what is wrong with the database shows elsewhere.
			_, _ = b.p.pool.Exec(ctx, "UPDATE bulk_part SET progress = greatest(progress, $2) WHERE partition = $1", number, read)
		}
	}
}

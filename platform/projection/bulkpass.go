package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// What an order weighs in memory, in bytes, more or less: by itself, and with
// every fact besides its own bytes. bulkFactWeight is what is expected of a fact
// in all.
const (
	bulkOrderWeight = 1 << 10
	bulkFactMore    = 64
	bulkFactWeight  = 320
	maxOdd          = 1000    // orders of a partition that may need care
	maxBuckets      = 1 << 16 // passes over one partition at most
	// bulkPatience is how long a pass stands still before it is given up, so that
	// it does not hold its transaction open.
	bulkPatience = 30 * time.Second
)

// workers is how many passes go on at once. Reading, folding and writing are one
// behind the other in a pass, so that two of them keep two cores busy where one
// leaves some of them idle. Beside a generation that answers somebody, half of that
// is left to it.
func workers(cores, conns, partitions int, beside bool) int {
	if beside {
		cores /= 2
	}
	return max(1, min(cores, conns-2, partitions, 4))
}

// share is what the states of one pass may take, in bytes, of what those of all passes
// of this process may take together.
func share(memory int64, many int) int64 { return max(1, memory/int64(many)) }

// bulkPart is what a pass does: some of the keys of a partition.
type bulkPart struct {
	number        int32
	logs          map[string]consumer.Bounds
	ids           map[string]string
	books         completeness.Books // as they begin, with the totals of the passes before
	done, buckets int64
	derived       bool // from another generation's states: logs and ids are not known before it is done
}

const (
	// Positions are what passes lock: a pass locks one that others have not.
	takePart   = `SELECT p.partition FROM position p JOIN bulk_part b USING (partition) WHERE b.done < b.buckets ORDER BY b.partition LIMIT 1 FOR UPDATE OF p SKIP LOCKED`
	readPart   = `SELECT logs, topic_ids, books, done, buckets FROM bulk_part WHERE partition = $1`
	finishPart = `UPDATE bulk_part SET done = $2, topic_ids = $3, books = $4, progress = $5 WHERE partition = $1`
	halveParts = `UPDATE bulk_part SET done = done * 2, buckets = buckets * 2 WHERE partition = $1`
)

var (
	errOdd   = errors.New("some orders must be taken one fact at a time")
	errHeavy = errors.New("the states do not fit in memory")
	errStood = errors.New("it stood still for too long")
)

// pass copies one part that nobody else is at. It reports whether there was one.
func (b *bulk[S]) pass(ctx context.Context) (more bool, err error) {
	if err := b.p.brake.wait(ctx); err != nil {
		return false, err
	}
	conn, err := b.p.pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	tx, err := conn.BeginTx(ctx, b.isolation())
	if err != nil {
		return false, err
	}
	number := int32(-1)
	var did *fold.Delta
	var part bulkPart
	odd := 0
	err = func() error {
		switch err := tx.QueryRow(ctx, takePart).Scan(&number); {
		case errors.Is(err, pgx.ErrNoRows):
			return nil
		case err != nil:
			return fmt.Errorf("look for a partition to copy: %w", err)
		}
		if part, err = readBulkPart(ctx, tx, number); err != nil || part.done >= part.buckets {
			return err // done since it was looked for
		}
		if part.derived != (b.base != "") {
			number = -1 // another process has planned otherwise since
			return nil
		}
		if err := b.went(part); err != nil {
			return err
		}
		odd = b.odds(number)
		if b.base != "" {
			did, err = b.derivePart(ctx, tx, part)
		} else {
			did, err = b.copyPart(ctx, tx, part)
		}
		return err
	}()
	if err == nil {
		err = tx.Commit(ctx)
	} else {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = tx.Rollback(bounded) // a connection on which it fails is closed by its release
	}
	switch {
	case errors.Is(err, errOdd) && b.odds(number) == odd:
		return false, brokenf("partition %d begins again for the same orders", number)
	case errors.Is(err, errOdd), errors.Is(err, errStood), b.base != "" && postgres.IsConflict(err):
		return true, nil
	case errors.Is(err, errHeavy):
		_, err = b.p.pool.Exec(ctx, halveParts, number)
		return true, err
	case err != nil:
		return false, fmt.Errorf("copy partition %d in bulk: %w", number, err)
	}
	if did != nil {
		b.goes(part)
		b.p.tell(ctx, did)
	}
	return number >= 0, nil
}

// odds is how many orders of a partition must be taken one fact at a time.
func (b *bulk[S]) odds(number int32) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.odd[number])
}

func readBulkPart(ctx context.Context, tx pgx.Tx, number int32) (part bulkPart, err error) {
	var logs, ids, text []byte
	part.number = number
	if err = tx.QueryRow(ctx, readPart, number).Scan(&logs, &ids, &text, &part.done, &part.buckets); err != nil {
		return part, fmt.Errorf("read what is to be copied of partition %d: %w", number, err)
	}
	if part.derived = string(logs) == derivedLogs; !part.derived {
		err = errors.Join(json.Unmarshal(logs, &part.logs), json.Unmarshal(ids, &part.ids), json.Unmarshal(text, &part.books))
	}
	if err != nil {
		return part, brokenf("what was noted of partition %d cannot be read: %w", number, err)
	}
	return part, nil
}

// batch is some records on their way through a pass, and how many were read.
type batch[T any] struct {
	of   []T
	read int
}

// copyPart reads the part's logs, decodes, folds, and writes: one after another,
// all at the same time.
func (b *bulk[S]) copyPart(ctx context.Context, tx pgx.Tx, part bulkPart) (*fold.Delta, error) {
	pass, records := b.newPass(part), int64(0)
	for _, log := range part.logs {
		records += log.End - log.Start
	}
	progress := &atomic.Int64{}
	b.mu.Lock()
	b.at[part.number] = progress
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.at, part.number)
	}()
	if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = off"); err != nil {
		return nil, err
	}
	read, decoded := make(chan []consumer.Record, 2), make(chan batch[bulkItem], 2)
	group, inside := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(read)
		return b.p.scan(inside, part.number, part.logs, func(ids map[string]string, records []consumer.Record) error {
			if err := errors.Join(pass.of(ids), b.stand(inside)); err != nil {
				return err
			}
			return give(inside, read, records)
		})
	})
	group.Go(func() error {
		defer close(decoded)
		for records := range read {
			items, err := pass.decode(inside, records)
			if err == nil {
				err = give(inside, decoded, batch[bulkItem]{items, len(records)})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		defer close(pass.full)
		at := records * part.done
		for batch := range decoded {
			for i := range batch.of {
				if err := pass.take(inside, &batch.of[i]); err != nil {
					return err
				}
			}
			at += int64(batch.read)
			progress.Store(at / part.buckets)
		}
		if inside.Err() != nil {
			return inside.Err() // reading ended early
		}
		return pass.derive(inside)
	})
	group.Go(func() error { return pass.write(inside, tx) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := pass.finish(ctx, tx, records); err != nil {
		return nil, err
	}
	return pass.delta, b.p.fail("bulk pass")
}

// give hands something on, unless the context ends first.
func give[T any](ctx context.Context, to chan<- T, what T) error {
	select {
	case to <- what:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stand stands still while something holds the reader.
func (b *bulk[S]) stand(ctx context.Context) error {
	if b.p.brake.holds() == "" {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, bulkPatience)
	defer cancel()
	if err := b.p.brake.wait(bounded); err != nil {
		return errors.Join(ctx.Err(), errStood)
	}
	return nil
}

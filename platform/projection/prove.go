package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
)

// What control totals ask for is done here, by the process that owns the
// partition: lost facts are fetched from their owner and go through the same
// verdicts as any other. Whether that helped, the next control record says.

const (
	proveTick     = time.Second
	proveMaxPause = time.Minute
)

// job is a task of one partition of a source.
type job struct {
	partition int32
	source    string
	task      completeness.Task
	low, high int64
}

type jobKey struct {
	partition int32
	source    string
}

// patience spaces the attempts at jobs that fail, or that wait for the reader.
type patience struct {
	attempts int
	next     time.Time
	ends     map[string]map[int32]consumer.Bounds // the logs' ends when the job was first seen
}

// prove does what the books ask for, until the context ends.
func (p *Projection[S]) prove(ctx context.Context) error {
	if p.cfg.Journal == nil {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(proveTick)
	defer ticker.Stop()
	waits := map[jobKey]*patience{}
	for {
		if err := p.proveDue(ctx, waits); err != nil && ctx.Err() == nil {
			p.cfg.Log.Warn("completeness is not looked after now and is tried again", "generation", p.own.String(), "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.work:
		case <-ticker.C:
		}
	}
}

// proveDue does every job once whose time has come.
func (p *Projection[S]) proveDue(ctx context.Context, waits map[jobKey]*patience) error {
	jobs, err := p.jobs(ctx)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		key := jobKey{j.partition, j.source}
		w := waits[key]
		if w == nil {
			w = &patience{}
			waits[key] = w
		}
		if p.clock().Before(w.next) {
			continue
		}
		done, err := p.do(ctx, j, w)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			w.attempts++
			w.next = p.clock().Add(min(100*time.Millisecond<<min(w.attempts, 16), proveMaxPause))
			p.cfg.Log.Warn("a source cannot be compared with its owner now and is tried again", "generation", p.own.String(),
				"source", j.source, "partition", j.partition, "task", string(j.task), "attempts", w.attempts, "error", err)
		case done:
			delete(waits, key)
		}
	}
	return nil
}

// jobs lists what the books of this process's partitions ask for.
func (p *Projection[S]) jobs(ctx context.Context) ([]job, error) {
	rows, err := p.pool.Query(ctx, "SELECT partition, term, books FROM position ORDER BY partition")
	if err != nil {
		return nil, fmt.Errorf("read the books: %w", err)
	}
	var jobs []job
	var number int32
	var term int64
	var text []byte
	_, err = pgx.ForEachRow(rows, []any{&number, &term, &text}, func() error {
		p.mu.Lock()
		pt := p.partitions[number]
		p.mu.Unlock()
		if pt == nil || pt.term != term {
			return nil // another process's
		}
		var b completeness.Books
		if err := json.Unmarshal(text, &b); err != nil {
			return err
		}
		for _, source := range p.view.Sources {
			if book := b.Sources[source]; book != nil && book.Task != "" {
				jobs = append(jobs, job{number, source, book.Task, book.Low, book.High})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the books: %w", err)
	}
	return jobs, nil
}

// do does a job. done is false if it must wait for the reader.
func (p *Projection[S]) do(ctx context.Context, j job, w *patience) (done bool, err error) {
	if j.task == completeness.TaskInterval {
		err = p.feedInterval(ctx, j)
	} else {
		if near, err := p.near(ctx, j, w); err != nil || !near {
			return false, err
		}
		err = p.compareHeads(ctx, j)
	}
	if err == nil && j.task == completeness.TaskRecount {
		err = p.recount(ctx, j)
	}
	if err != nil {
		return false, err
	}
	err = p.hold(ctx, j.partition, func(h *held[S]) error {
		h.at.books.Of(j.source).Finished(j.task, j.low, j.high)
		h.noted = true
		return nil
	})
	return err == nil, err
}

// near reports whether the reader has passed the end that the log had when the
// job was first seen: what it is going to read anyway is not fetched.
func (p *Projection[S]) near(ctx context.Context, j job, w *patience) (bool, error) {
	if w.ends == nil {
		ends, err := p.bounds(ctx)
		if err != nil {
			return false, err
		}
		w.ends = ends
	}
	var text []byte
	if err := p.pool.QueryRow(ctx, "SELECT offsets FROM position WHERE partition = $1", j.partition).Scan(&text); err != nil {
		return false, fmt.Errorf("read a position: %w", err)
	}
	var offsets map[string]int64
	if err := json.Unmarshal(text, &offsets); err != nil {
		return false, fmt.Errorf("read a position: %w", err)
	}
	topic := p.topics[j.source]
	return offsets[topic] >= w.ends[topic][j.partition].End, nil
}

// feedInterval brings in what the owner has between two sequences. What is here
// already is a duplicate.
func (p *Projection[S]) feedInterval(ctx context.Context, j job) error {
	fed := 0
	for from := j.low; from > 0 && from <= j.high; {
		facts, next, err := p.cfg.Journal.Range(ctx, j.source, j.partition, from, j.high)
		if err != nil {
			return err
		}
		n := 0
		if err := p.hold(ctx, j.partition, func(h *held[S]) (err error) {
			n, err = h.feed(ctx, facts)
			return err
		}); err != nil {
			return fmt.Errorf("feed what was lost: %w", err)
		}
		fed += n
		from = next
	}
	p.healed(ctx, j, fed)
	return nil
}

func (p *Projection[S]) healed(ctx context.Context, j job, n int) {
	p.cfg.Log.WarnContext(ctx, "a partition was compared with its owner", "generation", p.own.String(), "source", j.source,
		"partition", j.partition, "by", string(j.task), "from_sequence", j.low, "to_sequence", j.high, "healed", n)
}

package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/consumer"
)

// buildPause is how long a generation that is being built waits before it looks
// at its positions again when no commit of this process tells it to.
const buildPause = 250 * time.Millisecond

// build switches to this process's generation once it has passed the end that
// the topics had when building started. It returns nil when that is done.
func (p *Projection[S]) build(ctx context.Context) error {
	if from := p.reads.Load(); from.ready && from.generation.schema == p.own.schema && p.pointed {
		return nil
	}
	commits := p.Subscribe("")
	defer commits.Close()
	var ends map[string]map[int32]consumer.Bounds
	for pause := buildPause; ; pause = min(2*pause, 5*time.Second) {
		done, err := false, error(nil)
		if ends == nil {
			ends, err = p.bounds(ctx)
		}
		if ends != nil {
			pause = buildPause
			done, err = p.passed(ctx, ends)
		}
		if done {
			if err = p.own.point(ctx, p.pool); err == nil {
				p.answerFromOwn()
				return nil
			}
		}
		if err != nil && ctx.Err() == nil {
			p.cfg.Log.Warn("generation is not built yet and is tried again", "generation", p.own.String(), "error", err, "pause", pause)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-commits.C:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (p *Projection[S]) dataTopics() []string {
	var topics []string
	for _, source := range p.view.Sources {
		topics = append(topics, p.topics[source])
	}
	return topics
}

// passed reports whether every position is at or past the given ends. A
// partition without a position is behind, unless there is nothing to read.
func (p *Projection[S]) passed(ctx context.Context, ends map[string]map[int32]consumer.Bounds) (bool, error) {
	rows, err := p.pool.Query(ctx, "SELECT partition, offsets FROM position")
	if err != nil {
		return false, fmt.Errorf("read positions: %w", err)
	}
	var number int32
	var text []byte
	passed := true
	_, err = pgx.ForEachRow(rows, []any{&number, &text}, func() error {
		var offsets map[string]int64
		if err := json.Unmarshal(text, &offsets); err != nil {
			return err
		}
		for topic, of := range ends {
			if topic != p.cfg.ControlTopic && offsets[topic] < of[number].End {
				passed = false
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("read positions: %w", err)
	}
	return passed, nil
}

// answerFromOwn binds new reads to this process's own generation. Reads that
// are under way end on the one they began with.
func (p *Projection[S]) answerFromOwn() {
	own := p.own
	own.status = statusServing
	old := p.reads.Swap(&reading{pool: p.pool, generation: own, ready: true})
	p.cfg.Log.Info("generation answers", "generation", own.String())
	if old.pool != p.pool {
		go old.pool.Close() // waits for reads under way
	}
}

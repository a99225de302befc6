package process

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Participants keep the answers to a process's requests for as long as one of
// them may be made again: while the instance is open, and for forgetAfter behind
// its end, in which a copy of a request may still be on its way. Then they are
// told that they may forget.
const (
	forgetAfter = 30 * 24 * time.Hour
	forgetEvery = 10 * time.Minute
	forgetBatch = 100   // instances at once
	forgetIDs   = 1_000 // requests in one call
)

// selectEnded finds instances that ended, and whose steps all got their
// definite outcome, long ago. An instance that a late fact or a person moved
// since is younger again.
const selectEnded = `
	SELECT i.id FROM process_instance AS i
	 WHERE i.process = $1 AND i.status = 'ended' AND NOT i.forgotten
	   AND i.created_at < clock_timestamp() - $2::interval AND i.updated_at < clock_timestamp() - $2::interval
	   AND NOT EXISTS (SELECT FROM process_command AS c WHERE c.process = i.process AND c.instance_id = i.id
	                      AND (c.status = 'pending' OR c.finished_at > clock_timestamp() - $2::interval))
	 ORDER BY i.created_at LIMIT $3`

func (m *Manager[S]) forgetting(ctx context.Context) {
	if m.to.Forget == nil {
		return
	}
	ticker := time.NewTicker(forgetEvery)
	defer ticker.Stop()
	for {
		for more := true; more; {
			var err error
			if more, err = m.forgetEnded(ctx); err != nil && ctx.Err() == nil {
				m.log.Warn("answers to requests of ended processes are kept for now", "process", m.newest.Name, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// forgetEnded tells the participants of some instances that ended long ago, and
// reports whether there may be more. Telling them twice does no harm.
func (m *Manager[S]) forgetEnded(ctx context.Context) (more bool, err error) {
	rows, err := m.pool.Query(ctx, selectEnded, m.newest.Name, forgetAfter, forgetBatch)
	if err != nil {
		return false, fmt.Errorf("find ended processes: %w", err)
	}
	ended, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false, fmt.Errorf("find ended processes: %w", err)
	}
	if len(ended) == 0 {
		return false, nil
	}
	rows, err = m.pool.Query(ctx, `SELECT target, request_id::text FROM process_command WHERE process = $1 AND instance_id = ANY($2) ORDER BY request_id`,
		m.newest.Name, ended)
	if err != nil {
		return false, fmt.Errorf("find requests of ended processes: %w", err)
	}
	requests := map[string][]string{}
	var target, id string
	if _, err := pgx.ForEachRow(rows, []any{&target, &id}, func() error {
		requests[target] = append(requests[target], id)
		return nil
	}); err != nil {
		return false, fmt.Errorf("find requests of ended processes: %w", err)
	}
	for _, target := range slices.Sorted(maps.Keys(requests)) {
		if target == "" {
			continue // of before targets were noted
		}
		for ids := range slices.Chunk(requests[target], forgetIDs) {
			call, cancel := context.WithTimeout(ctx, callTimeout)
			err := m.to.Forget(call, target, ids)
			cancel()
			if err != nil {
				return false, fmt.Errorf("tell %s: %w", target, err)
			}
		}
	}
	if _, err := m.pool.Exec(ctx, `UPDATE process_instance SET forgotten = true
		 WHERE process = $1 AND id = ANY($2) AND status = 'ended' AND updated_at < clock_timestamp() - $3::interval`, m.newest.Name, ended, forgetAfter); err != nil {
		return false, fmt.Errorf("note what was forgotten: %w", err)
	}
	return len(ended) == forgetBatch, nil
}

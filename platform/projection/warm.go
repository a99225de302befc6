package projection

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// maxAsked bounds the statements that are remembered of what is asked. Callers
// who ask in more ways find the others planned as they come.
const maxAsked = 128

// warmLimit bounds how long a switch waits for connections to be warm.
const warmLimit = 5 * time.Second

// asked are the statements that reads of one generation are made of.
type asked struct {
	mu  sync.RWMutex
	sql map[string]bool
}

func (a *asked) note(sql string) {
	a.mu.RLock()
	known := a.sql[sql] || len(a.sql) == maxAsked
	a.mu.RUnlock()
	if known {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sql == nil {
		a.sql = map[string]bool{}
	}
	if len(a.sql) < maxAsked {
		a.sql[sql] = true
	}
}

func (a *asked) all() (sql []string) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for text := range a.sql {
		sql = append(sql, text)
	}
	return sql
}

// warm opens as many connections as there are to another generation, and
// prepares on each what is asked there, so that reads which go over to this one
// wait for neither.
func (s *snapshots) warm(ctx context.Context, like *snapshots) error {
	ctx, cancel := context.WithTimeout(ctx, warmLimit)
	defer cancel()
	statements := like.asked.all()
	free := s.pool.Stat()
	open := make([]*pgxpool.Conn, min(like.pool.Stat().TotalConns(), free.MaxConns()-free.AcquiredConns()))
	group, inside := errgroup.WithContext(ctx)
	for i := range open {
		group.Go(func() (err error) {
			if open[i], err = s.pool.Acquire(inside); err != nil {
				return err
			}
			for _, sql := range statements {
				if _, err := open[i].Conn().Prepare(inside, sql, sql); err != nil {
					return fmt.Errorf("%s: %w", sql, err)
				}
				s.asked.note(sql)
			}
			return nil
		})
	}
	err := group.Wait()
	for _, conn := range open { // only now: a connection that is let go is lent out again
		if conn != nil {
			conn.Release()
		}
	}
	return err
}

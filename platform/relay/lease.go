package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// lease is a row with a term that the database issues. A holder that was
// stopped and wakes up finds its term gone: everything it writes names the term.
type lease struct {
	pool   *pgxpool.Pool
	name   string
	holder string
	ttl    time.Duration
}

// term is one ownership of the lease. Before trusted, measured on our own
// monotonic clock from before the request, nobody else can have got it.
type term struct {
	number  int64
	trusted time.Time
}

// margin is how much earlier than the database we consider a lease over.
func (l lease) margin() time.Duration { return l.ttl / 5 }

const acquireLease = `
	INSERT INTO lease (name, term, holder, expires_at) VALUES ($1, 1, $2, clock_timestamp() + $3::interval)
	ON CONFLICT (name) DO UPDATE
	   SET term = lease.term + 1, holder = excluded.holder, expires_at = clock_timestamp() + $3::interval
	 WHERE lease.expires_at < clock_timestamp() OR lease.holder = excluded.holder
	RETURNING term`

// acquire waits until the lease is ours.
func (l lease) acquire(ctx context.Context, poll time.Duration) (term, error) {
	for {
		start := time.Now()
		var t term
		err := l.pool.QueryRow(ctx, acquireLease, l.name, l.holder, l.ttl).Scan(&t.number)
		switch {
		case err == nil:
			t.trusted = start.Add(l.ttl - l.margin())
			return t, nil
		case !errors.Is(err, pgx.ErrNoRows):
			return term{}, fmt.Errorf("acquire lease %s: %w", l.name, err)
		}
		select {
		case <-ctx.Done():
			return term{}, ctx.Err()
		case <-time.After(poll):
		}
	}
}

// renew extends the lease of a term that nobody took, or says errFenced.
func (l lease) renew(ctx context.Context, t *term) error {
	start := time.Now()
	tag, err := l.pool.Exec(ctx, `UPDATE lease SET expires_at = clock_timestamp() + $3::interval WHERE name = $1 AND term = $2`,
		l.name, t.number, l.ttl)
	if err != nil {
		return fmt.Errorf("renew lease %s: %w", l.name, err)
	}
	if tag.RowsAffected() == 0 {
		return errFenced
	}
	t.trusted = start.Add(l.ttl - l.margin())
	return nil
}

// due says that it is time to renew.
func (l lease) due(t term) bool { return time.Until(t.trusted) < l.ttl/2 }

// release lets the next relay take over without waiting for the lease's end.
func (l lease) release(ctx context.Context) error {
	_, err := l.pool.Exec(ctx, `UPDATE lease SET expires_at = '-infinity' WHERE name = $1 AND holder = $2`, l.name, l.holder)
	return err
}

package process_test

import (
	"testing"
	"time"

	"github.com/tidemark-dev/tidemark/platform/process"
	"github.com/tidemark-dev/tidemark/platform/testkit"
)

// Claims are renewed beside somebody who finishes some of the commands and may
// hold what the renewal wants, or want what it holds. It takes what is free, waits
// for nothing, and so cannot be part of a deadlock.
func TestARenewalWaitsForNobody(t *testing.T) {
	pool := testkit.Postgres(t)
	k := open(t, pool, nil) // claims what it issues, and never runs
	k.fold(fact("o1", "a", 1, "Hungry"), fact("o2", "b", 1, "Hungry"))
	finishing, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = finishing.Rollback(t.Context()) }()
	var held string
	if err := finishing.QueryRow(t.Context(), `SELECT request_id::text FROM process_command WHERE instance_id = 'o1' FOR UPDATE`).Scan(&held); err != nil {
		t.Fatal(err)
	}
	var ids []string
	if err := pool.QueryRow(t.Context(), `SELECT array_agg(request_id::text) FROM process_command`).Scan(&ids); err != nil {
		t.Fatal(err)
	}
	renewing, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = renewing.Rollback(t.Context()) }()
	if _, err := renewing.Exec(t.Context(), `SET LOCAL lock_timeout = '1s'`); err != nil {
		t.Fatal(err)
	}
	done, err := renewing.Exec(t.Context(), process.RenewClaims, ids, time.Hour)
	if err != nil {
		t.Fatalf("a renewal waited: %v", err)
	}
	if len(ids) != 2 || done.RowsAffected() != 1 {
		t.Errorf("renewed %d of %d claims, want the one that nobody holds", done.RowsAffected(), len(ids))
	}
}

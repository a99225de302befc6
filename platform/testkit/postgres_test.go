package testkit_test

import (
	"testing"

	"github.com/tidemark-dev/tidemark/platform/testkit"
)

func TestEveryTestHasADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"one", "two"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testkit.Postgres(t)
			if _, err := pool.Exec(t.Context(), "CREATE TABLE probe (id bigint PRIMARY KEY)"); err != nil {
				t.Fatalf("the database is not empty: %v", err)
			}
		})
	}
}

package postgres

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStatementNumbersItsValues(t *testing.T) {
	s := Statement{SQL: "SELECT a FROM b WHERE c = $1", Args: []any{1}}
	s.Add(" AND (d, e) > (?, ?)", "x", nil)
	s.Add(" ORDER BY a")
	s.Add(" LIMIT ?", 50)
	want := Statement{SQL: "SELECT a FROM b WHERE c = $1 AND (d, e) > ($2, $3) ORDER BY a LIMIT $4", Args: []any{1, "x", nil, 50}}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestStatementRefusesAValueWithoutPlace(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it was taken")
		}
	}()
	new(Statement).Add("LIMIT 1", 50)
}

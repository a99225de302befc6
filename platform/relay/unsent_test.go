package relay

import "testing"

// Renewing and surveying travel with the read when they are due, in any
// combination; each must take the same parameters.
func TestEveryReadTakesTheSameParameters(t *testing.T) {
	f := setup(t)
	conn, err := f.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for _, held := range []string{heldShards, renewedShards} {
		for _, stock := range []string{noSurvey, takeStock} {
			statement, err := conn.Conn().Prepare(t.Context(), "", held+unsentColumns+stock+readUnsent)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(statement.ParamOIDs); n != 6 {
				t.Errorf("%s … takes %d parameters, want 6", held[:60], n)
			}
		}
	}
}

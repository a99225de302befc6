package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// Golden folds a sample and compares states and rows with those committed for
// this version of the view, in testdata/<name>-<version>.json. A difference
// means that the code of a version changed: give the view a new version, and
// run the test with TIDEMARK_UPDATE=1 to write the file of that one. Files of
// versions that were released are never written again.
//
// A view with a FoldVersion says that it remembers what that version did: states
// and log entries must be those committed for that one, too.
func Golden[S any](t *testing.T, view fold.View[S], sample []event.Fact) {
	t.Helper()
	got, err := folded(view, sample)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", fmt.Sprintf("%s-%d.json", view.Name, view.Version))
	if os.Getenv("TIDEMARK_UPDATE") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("version %d of view %s has no committed rows; run with TIDEMARK_UPDATE=1: %v", view.Version, view.Name, err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("view %s changed under version %d; give it a new one (-committed +now):\n%s", view.Name, view.Version, diff)
	}
	if view.FoldVersion > 0 && view.FoldVersion < view.Version {
		if err := remembers(view, got); err != nil {
			t.Error(err)
		}
	}
}

// folded is what a view makes of a sample.
func folded[S any](view fold.View[S], sample []event.Fact) ([]byte, error) {
	m := fold.NewMemory(view)
	for _, f := range sample {
		if err := m.Apply(f); err != nil {
			return nil, err
		}
	}
	if n, reason := m.Parked(); n > 0 {
		return nil, fmt.Errorf("%d facts of the sample parked: %s", n, reason)
	}
	var got bytes.Buffer
	encoder := json.NewEncoder(&got)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(map[string]any{"hash": view.Hash(), "rows": m.All(), "states": m.States()})
	return got.Bytes(), err
}

// goldenFile is what Golden commits.
type goldenFile struct {
	Rows   map[string][]any           `json:"rows"`
	States map[string]json.RawMessage `json:"states"`
}

// remembers reports where states or log entries of the sample are not those of the
// version since which the fold is said to be what it is. States are compared as
// bytes, because they are taken over as bytes.
func remembers[S any](view fold.View[S], now []byte) error {
	path := filepath.Join("testdata", fmt.Sprintf("%s-%d.json", view.Name, view.FoldVersion))
	then, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("view %s says that it folds as version %d, of which nothing is committed: %w", view.Name, view.FoldVersion, err)
	}
	var remembered [2]goldenFile
	for i, text := range [][]byte{then, now} {
		var file goldenFile
		if err := json.Unmarshal(text, &file); err != nil {
			return fmt.Errorf("read the committed sample of view %s: %w", view.Name, err)
		}
		remembered[i] = goldenFile{Rows: map[string][]any{}, States: file.States}
		for _, log := range view.Logs {
			remembered[i].Rows[log.Name()] = file.Rows[log.Name()]
		}
	}
	if len(remembered[0].States) == 0 {
		return fmt.Errorf("%s has no states to compare with", path)
	}
	if diff := cmp.Diff(remembered[0], remembered[1]); diff != "" {
		return fmt.Errorf("view %s says that it folds as version %d and does not; take FoldVersion away, or what changed (-version %d +now):\n%s",
			view.Name, view.FoldVersion, view.FoldVersion, diff)
	}
	return nil
}

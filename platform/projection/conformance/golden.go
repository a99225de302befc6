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
	"github.com/tidemark-dev/tidemark/platform/projection"
)

// Golden folds a sample and compares states and rows with those committed for
// this version of the view, in testdata/<name>-<version>.json. A difference
// means that the code of a version changed: give the view a new version, and
// run the test with TIDEMARK_UPDATE=1 to write the file of that one. Files of
// versions that were released are never written again.
func Golden[S any](t *testing.T, view projection.View[S], sample []event.Fact) {
	t.Helper()
	m := projection.NewMemory(view)
	for _, f := range sample {
		if err := m.Apply(f); err != nil {
			t.Fatal(err)
		}
	}
	if n, reason := m.Parked(); n > 0 {
		t.Fatalf("%d facts of the sample parked: %s", n, reason)
	}
	var got bytes.Buffer
	encoder := json.NewEncoder(&got)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(map[string]any{"hash": view.Hash(), "rows": m.All(), "states": m.States()}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", fmt.Sprintf("%s-%d.json", view.Name, view.Version))
	if os.Getenv("TIDEMARK_UPDATE") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("version %d of view %s has no committed rows; run with TIDEMARK_UPDATE=1: %v", view.Version, view.Name, err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("view %s changed under version %d; give it a new one (-committed +now):\n%s", view.Name, view.Version, diff)
	}
}

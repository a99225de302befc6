// Package fold has the pure part of a read model: a view, which its author
// writes, and the engine that runs it. Facts go in; states of orders and
// differences of rows come out. Nothing here knows where facts come from or
// where rows are kept: package projection does.
package fold

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// MaxState is the largest encoded state of one order, in bytes. An order that
// would grow beyond it parks; long lists belong in a [Log].
const MaxState = 64 << 10

// layout is the version of the kernel's own tables. It is part of what names a
// generation, so a kernel with other tables builds its own.
const layout = 1

// View is what the author of a read model writes: pure functions from facts to
// a state, and from a state to rows. None of them may read a clock, draw a
// random number, look anything up, call anybody or publish anything.
//
// The law, which package conformance tests: any interleaving of facts that
// keeps each aggregate's own order, cut into any batches, with duplicates,
// gives the same rows. It follows when S has one entry per aggregate, Fold
// touches only the entry of the fact's aggregate, and only Rows and Sums
// combine entries.
type View[S any] struct {
	// Name of the read model, lower case, for instance "timeline".
	Name string
	// Version must rise with any change to Fold, the tables, the logs, the
	// policy they use, or Schema.
	Version int
	// FoldVersion is the version since which Fold, Logs, Sources, S, and the
	// policy and the upcasters behind them are what they are now; 0 means
	// Version. Given, a new generation takes the states of a complete one with
	// the same FoldVersion, derives Tables from them, and reads facts from there
	// on only. Package conformance fails if the sample says otherwise.
	FoldVersion int
	// Schema is the SQL that makes the tables. It runs once, in the schema of
	// a new generation. There are no migrations.
	Schema string
	// Sources are the contexts the view copies, for instance "order".
	Sources []string
	// Fold is the only place that interprets facts. S must survive
	// encoding/json.
	Fold func(*S, event.Fact)
	// Tables are what queries read, derived from S.
	Tables []Table[S]
	// Logs are append-only entries that need nothing but their own fact.
	Logs []LogTable
	// Expected are the fields that this version shows differently from the one
	// before on purpose. A swap refuses all other differences.
	Expected []Expected
}

// Expected declares that a table may differ from the version before it, in some
// columns or, without columns, altogether.
type Expected struct {
	Table   string
	Columns []string
}

var viewName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,40}$`)

// Check reports what the author got wrong: names, tags, missing parts.
func (v View[S]) Check() error {
	if !viewName.MatchString(v.Name) {
		return fmt.Errorf("view name %q: lower-case letters, digits and underscores only", v.Name)
	}
	if v.Version < 1 {
		return fmt.Errorf("view %s: version %d is not positive", v.Name, v.Version)
	}
	if v.FoldVersion < 0 || v.FoldVersion > v.Version {
		return fmt.Errorf("view %s: fold version %d is not one of the versions up to %d", v.Name, v.FoldVersion, v.Version)
	}
	if v.Fold == nil {
		return fmt.Errorf("view %s: no Fold", v.Name)
	}
	if len(v.Sources) == 0 {
		return fmt.Errorf("view %s: no sources", v.Name)
	}
	var errs []error
	seen := map[string]bool{}
	for _, spec := range v.Specs() {
		if seen[spec.Name] {
			errs = append(errs, fmt.Errorf("table %s is declared twice", spec.Name))
		}
		seen[spec.Name] = true
		if spec.err != nil {
			errs = append(errs, fmt.Errorf("table %s: %w", spec.Name, spec.err))
		}
	}
	for _, e := range v.Expected {
		if !seen[e.Table] {
			errs = append(errs, fmt.Errorf("expected difference in table %q, which the view does not have", e.Table))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("view %s: %w", v.Name, err)
	}
	return nil
}

// Hash names the shape of the view's storage: its schema and the kernel's.
func (v View[S]) Hash() string {
	sum := sha256.Sum256([]byte(strconv.Itoa(layout) + "\x00" + v.Schema))
	return hex.EncodeToString(sum[:4])
}

// Generation names what this code writes, for instance "timeline/3-9f2c11ab".
func (v View[S]) Generation() string {
	return v.Name + "/" + strconv.Itoa(v.Version) + "-" + v.Hash()
}

// Remembers names what the states, logs and positions of a generation are made by:
// the kernel's layout and the version of the fold. Equal names are equal contents.
func (v View[S]) Remembers() string {
	fold := v.FoldVersion
	if fold == 0 {
		fold = v.Version
	}
	return strconv.Itoa(layout) + "." + strconv.Itoa(fold)
}

// Rederives reports whether the author said that an older version remembers the
// same.
func (v View[S]) Rederives() bool { return v.FoldVersion > 0 && v.FoldVersion < v.Version }

// Specs returns the shapes of the tables and then those of the logs, which is
// the order of everything that is kept per table.
func (v View[S]) Specs() []*Spec {
	var specs []*Spec
	for _, t := range v.Tables {
		specs = append(specs, t.spec())
	}
	for _, l := range v.Logs {
		specs = append(specs, l.spec)
	}
	return specs
}

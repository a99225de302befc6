package conformance

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection/contract"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// law tries the law on drawn histories, and shrinks what breaks it.
func (k *kit[S]) law(t *testing.T) error {
	return falsify(t, func(r *rapid.T) { lawful(r, k.View, k.History(r)) })
}

// falsify runs a property and returns what rapid found, instead of failing t.
func falsify(t *testing.T, property func(*rapid.T)) error {
	found := &findings{name: t.Name()}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		rapid.Check(found, property)
	}()
	<-ended
	if found.failed {
		return fmt.Errorf("%s", strings.Join(found.lines, "\n"))
	}
	return nil
}

// findings is a rapid.TB that keeps what it is told.
type findings struct {
	name   string
	failed bool
	lines  []string
}

func (f *findings) Helper()      {}
func (f *findings) Name() string { return f.name }
func (f *findings) Failed() bool { return f.failed }
func (f *findings) Fail()        { f.failed = true }
func (f *findings) FailNow()     { f.failed = true; runtime.Goexit() }
func (f *findings) SkipNow()     { runtime.Goexit() }

func (f *findings) Log(args ...any) { f.lines = append(f.lines, fmt.Sprint(args...)) }
func (f *findings) Logf(format string, args ...any) {
	f.lines = append(f.lines, fmt.Sprintf(format, args...))
}
func (f *findings) Error(args ...any) { f.Log(args...); f.Fail() }
func (f *findings) Fatal(args ...any) { f.Log(args...); f.FailNow() }
func (f *findings) Skip(args ...any)  { f.Log(args...); f.SkipNow() }
func (f *findings) Errorf(format string, args ...any) {
	f.Logf(format, args...)
	f.Fail()
}
func (f *findings) Fatalf(format string, args ...any) {
	f.Logf(format, args...)
	f.FailNow()
}
func (f *findings) Skipf(format string, args ...any) {
	f.Logf(format, args...)
	f.SkipNow()
}

// determinism folds the same facts again and again, one time under a clock that
// stands at the year 2000.
func (k *kit[S]) determinism(t *testing.T) error {
	const stories, times = 20, 8
	for n := range stories {
		facts := flat(k.draw(n).aggregates)
		want, err := fold.Reference(k.View, facts)
		if err != nil {
			return fmt.Errorf("story %d: %w", n, err)
		}
		for range times {
			again, err := fold.Reference(k.View, facts)
			if err != nil {
				return fmt.Errorf("story %d: %w", n, err)
			}
			if diff := cmp.Diff(want, again); diff != "" {
				return fmt.Errorf("story %d: the same facts again give other rows: chance, the order of a map, or memory outside the state (-first +again):\n%s", n, diff)
			}
		}
		var then map[string][]map[string]any
		synctest.Test(t, func(*testing.T) { then, err = fold.Reference(k.View, facts) })
		if err != nil {
			return fmt.Errorf("story %d: %w", n, err)
		}
		if diff := cmp.Diff(want, then); diff != "" {
			return fmt.Errorf("story %d: rows depend on the clock (-today +in the year 2000):\n%s", n, diff)
		}
	}
	return nil
}

// absent folds what says as little as its schema allows.
func (k *kit[S]) absent(t *testing.T) error {
	var all []sent
	for _, apart := range []bool{false, true} {
		for _, full := range []bool{false, true} {
			made, err := k.bytes.made(fmt.Sprintf("made-%v-%v", apart, full), k.View.Sources, full, apart)
			if err != nil {
				return err
			}
			all = append(all, made...)
		}
	}
	if err := k.unknown(); err != nil {
		return err
	}
	db := k.open(t)
	defer db.close()
	batches, facts := [][]sent{}, []event.Fact{}
	for _, one := range all {
		batches, facts = append(batches, []sent{one}), append(facts, one.fact)
	}
	if err := db.deliver(db.first, batches...); err != nil {
		return err
	}
	return db.agree("facts of which everything is given that may be, or nothing", facts)
}

// unknown folds facts that a newer program states.
func (k *kit[S]) unknown() error {
	m := fold.NewMemory(k.View)
	for _, source := range k.View.Sources {
		f := event.Fact{Envelope: envelope(source, "unknown", "o-unknown", 1), Body: &avro.Unknown{Name: "StatedLater", Version: 1}}
		f.Type = "StatedLater"
		if err := m.Apply(f); err != nil {
			return err
		}
	}
	if n, reason := m.Parked(); n > 0 {
		return fmt.Errorf("facts that this program does not know yet must fold nothing, %d parked: %s", n, reason)
	}
	return nil
}

// size has very much happen to the aggregates of an order.
func (k *kit[S]) size(*testing.T) error {
	const stories, long = 10, 3000
	for n := range stories {
		m := fold.NewMemory(k.View)
		for _, facts := range k.draw(n).aggregates {
			if len(facts) == 0 {
				continue
			}
			batch := make([]event.Fact, long)
			for i := range batch {
				batch[i] = facts[i%len(facts)]
				batch[i].Version, batch[i].ID = int64(i+1), fmt.Sprintf("%s-%d", facts[0].ID, i)
			}
			if err := m.Apply(batch...); err != nil {
				return err
			}
			if n, reason := m.Parked(); n > 0 {
				return fmt.Errorf("%s with %d facts parks: %s; long lists belong in a Log", facts[0].Aggregate, long, reason)
			}
		}
	}
	return nil
}

// personal plants marked texts wherever a schema says that something is
// personal, and looks where they are found again.
func (k *kit[S]) personal(*testing.T) error {
	text, err := os.ReadFile(k.file("readmodel.yaml"))
	if err != nil {
		return fmt.Errorf("a read model carries its contract: %w", err)
	}
	var promised contract.Contract
	if err := yaml.Unmarshal(text, &promised); err != nil {
		return fmt.Errorf("readmodel.yaml: %w", err)
	}
	named := map[string]bool{} // field → found
	for _, p := range promised.PersonalData {
		named[p.Field] = false
	}
	for _, apart := range []bool{true, false} {
		made, err := k.bytes.made("o-marked", k.View.Sources, true, apart)
		if err != nil {
			return err
		}
		for i := range made {
			if err := k.look(factsOf(made[:i+1]), named); err != nil {
				return err
			}
		}
	}
	for field, found := range named {
		if !found {
			return fmt.Errorf("readmodel.yaml names %s as personal data, and nothing personal is ever there", field)
		}
	}
	return nil
}

func factsOf(all []sent) []event.Fact {
	var facts []event.Fact
	for _, one := range all {
		facts = append(facts, one.fact)
	}
	return facts
}

func (k *kit[S]) look(facts []event.Fact, named map[string]bool) error {
	all, err := fold.Reference(k.View, facts)
	if err != nil {
		return err
	}
	var problem error
	for table, rows := range all {
		for _, r := range rows {
			for column, value := range r {
				leaves(table+"."+column, value, func(path, text string) {
					if !strings.Contains(text, marker) {
						return
					}
					known := false
					for field := range named {
						if path == field || strings.HasPrefix(path, field+".") {
							named[field], known = true, true
						}
					}
					if _, ordered := r["order_id"]; !known {
						problem = fmt.Errorf("%s holds personal data and readmodel.yaml does not name it", path)
					} else if !ordered {
						problem = fmt.Errorf("%s holds personal data and the table has no order_id to find it by", path)
					}
				})
			}
		}
	}
	return problem
}

// diff compares rows in any order of theirs, and JSON in any spelling.
func diff(want, got map[string][]map[string]any) string {
	return cmp.Diff(canonical(want), canonical(got))
}

func canonical(all map[string][]map[string]any) map[string]map[string]map[string]any {
	tables := map[string]map[string]map[string]any{}
	for table, rows := range all {
		tables[table] = map[string]map[string]any{}
		for _, r := range rows {
			plain := map[string]any{}
			for column, value := range r {
				if text, ok := value.(string); ok && strings.HasPrefix(strings.TrimSpace(text), "{") {
					var parsed any
					if json.Unmarshal([]byte(text), &parsed) == nil {
						value = parsed
					}
				}
				plain[column] = value
			}
			line, err := json.Marshal(plain)
			if err != nil {
				line = fmt.Append(nil, plain)
			}
			tables[table][string(line)] = plain
		}
	}
	return tables
}

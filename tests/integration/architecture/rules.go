// Package architecture states who may import whom in this repository, file by
// file, and checks it by reading import blocks and a few forbidden calls.
//
// The idea of a table of allowed imports with a test over it is pkgsite's.
package architecture

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// module is the prefix of every package of this repository.
const module = "github.com/tidemark-dev/tidemark/"

// Rule binds the files that match Files to the imports they may have.
type Rule struct {
	// Files are path.Match patterns, relative to the root of the repository. A
	// pattern that ends in "/..." matches everything below.
	Files []string
	// Except are patterns of files the rule does not bind.
	Except []string
	// Allow are import prefixes of this repository that may be used. Nil allows all.
	Allow []string
	// Forbid are import prefixes that may not be used, of any origin.
	Forbid []string
	// OnlyStandard refuses every import from outside the standard library, but
	// for those that Allow names.
	OnlyStandard bool
	// ForbidCalls are selector expressions such as "time.Now" that may not appear.
	ForbidCalls []string
	// Tests binds _test.go files too.
	Tests bool
	// Why is printed with a violation.
	Why string
}

// services and their contracts, which no other context may touch.
var contexts = []string{"order", "payment", "shipment"}

// Rules is the architecture of the repository.
func Rules() []Rule {
	const kafkaLib = "github.com/confluentinc/confluent-kafka-go"
	var own []string // the contracts of the read models' own queries
	for _, r := range readModels {
		own = append(own, "proto/"+r+"/")
	}
	rules := []Rule{
		{
			Files: []string{"proto/..."}, Allow: []string{"proto/"},
			Why: "contracts depend on contracts only",
		},
		{
			Files: []string{"schemas/..."}, Allow: []string{"schemas"},
			Why: "event contracts depend on nothing of ours",
		},
		{
			Files: []string{"platform/event/*", "platform/fault/*"}, OnlyStandard: true, Allow: []string{},
			Why: "pure domain code uses these; they stay standard library only",
		},
		{
			Files: []string{"platform/projection/fold/*"}, OnlyStandard: true,
			Allow:       []string{"platform/event", "platform/jsonscan", "schemas/control"},
			Forbid:      []string{"context", "os", "net", "math/rand", "database/sql", "io"},
			ForbidCalls: []string{"time.Now", "time.Since", "time.Until", "time.After", "time.Sleep"},
			Why:         "the same facts give the same rows, wherever they come from and wherever those go",
		},
		{
			Files: []string{"platform/projection/completeness/*"}, OnlyStandard: true, Allow: []string{"platform/event"},
			Why: "what is proven follows from what was counted, and from nothing else",
		},
		{
			Files: []string{"platform/projection/contract/*"}, Allow: []string{"proto/readmodel/"},
			Why: "a promise is read without what keeps it",
		},
		{
			Files: []string{"platform/..."},
			Allow: []string{"platform/", "proto/journal/", "proto/freshness/", "proto/readmodel/", "schemas"},
			Forbid: []string{
				module + "schemas/facts",
			},
			Why: "the platform knows how facts travel, never what they mean",
		},
		{
			Files: []string{"platform/...", "services/...", "projections/...", "cmd/..."}, Tests: true,
			// The relay's benchmark compares it with the least that could do its work.
			Except: []string{"platform/kafka/...", "platform/relay/*", "platform/consumer/*", "cmd/tidemark/bench/relay*.go"},
			Forbid: []string{kafkaLib},
			Why:    "one place configures Kafka clients; only relay and consumer hold one",
		},
		{
			Files: []string{"platform/...", "services/...", "projections/...", "cmd/..."}, Tests: true,
			Except:      []string{"platform/kafka/..."},
			ForbidCalls: []string{"kafka.ConfigMap"},
			Why:         "platform/kafka is the one place that configures a Kafka client",
		},
		{
			Files: []string{"projections/*/truth.go"},
			Allow: []string{
				"proto/order/", "proto/payment/", "proto/shipment/", "proto/commerce/", "platform/event", "platform/projection", "schemas/facts",
			},
			Forbid: []string{
				module + "platform/projection/conformance", "os", "net", "math/rand", "database/sql", "io", "github.com/jackc",
			},
			ForbidCalls: []string{"time.Now", "time.Since", "time.Until", "time.After", "time.Sleep"},
			Why:         "the file that compares a view with its owners asks their queries, and is pure otherwise",
		},
		{
			Files:  []string{"projections/..."},
			Except: []string{"projections/*/truth.go"}, // reconciling alone asks the owners
			Allow:  append([]string{"projections/", "platform/", "schemas", "proto/commerce/", "proto/freshness/"}, own...),
			Forbid: []string{module + "platform/journal", module + "platform/relay", module + "platform/process"},
			Why:    "a projection remembers: it never calls a service and never publishes",
		},
		{
			Files: []string{
				"projections/*/view.go", "projections/*/policy.go", "projections/timeline/document.go", "projections/timeline/entry.go",
				"projections/operations/work.go", "projections/operations/tables.go",
			},
			// entry.go and work.go take the numbers of their kinds from the contract.
			Allow: append([]string{"platform/event", "platform/projection/fold", "schemas/facts"}, own...), OnlyStandard: true,
			Forbid: []string{"context", "os", "net", "math/rand", "database/sql", "io"},
			ForbidCalls: []string{
				"time.Now", "time.Since", "time.Until", "time.After", "time.Sleep", "uuid.New",
			},
			Why: "a fold is a pure function of facts: no clock, no chance, no lookup",
		},
		{
			Files: []string{"platform/...", "services/...", "projections/..."},
			Forbid: []string{
				module + "cmd", module + "tests",
			},
			Why: "programs are built from parts, not the other way round",
		},
		{
			Files:  []string{"platform/...", "services/...", "projections/..."},
			Except: []string{"platform/testkit/...", "platform/projection/conformance/*"},
			Forbid: []string{module + "platform/testkit", module + "platform/projection/conformance", "testing"},
			Why:    "production code does not depend on test helpers",
		},
		{
			Files: []string{"platform/...", "services/...", "projections/...", "cmd/...", "tests/..."}, Tests: true,
			Forbid: []string{"github.com/golang/mock", "go.uber.org/mock", "github.com/stretchr/testify"},
			Why:    "tests use testing, go-cmp and rapid, and the real parts",
		},
		{
			Files: []string{
				"cmd/tidemark/olist/...", "cmd/tidemark/traffic/...",
			},
			Allow: []string{"proto/", "cmd/tidemark/"},
			Why:   "clients know the public contracts only",
		},
	}
	for _, r := range readModels {
		var others []string
		for _, o := range readModels {
			if o != r {
				others = append(others, module+"projections/"+o, module+"proto/"+o+"/")
			}
		}
		rules = append(rules, Rule{
			Files: []string{"projections/" + r + "/..."}, Forbid: others, Tests: true,
			Why: "projections do not know each other",
		})
	}
	for _, c := range contexts {
		var others []string
		for _, o := range contexts {
			if o != c {
				others = append(others, module+"services/"+o)
			}
		}
		rules = append(rules,
			Rule{
				Files: []string{"services/" + c + "/..."}, Forbid: append(others, module+"projections", module+"platform/projection"),
				Why: "a service decides alone and knows no read model",
			},
			Rule{
				Files: []string{"services/" + c + "/" + c + ".go", "services/" + c + "/decide.go"}, OnlyStandard: true, Allow: []string{"platform/fault"},
				Forbid:      []string{"context", "os", "net", "database/sql", "io", "math/rand"},
				ForbidCalls: []string{"time.Now", "time.Since", "time.Sleep"},
				Why:         "the deciding file is pure",
			})
	}
	return append(rules,
		Rule{
			Files:  []string{"services/payment/...", "services/shipment/..."},
			Forbid: []string{module + "proto/order/", module + "platform/consumer", module + "platform/process"},
			Why:    "only the order service hosts the fulfilment process; the others are called, they do not call",
		})
}

// Check returns one line per violation of the rules in the tree.
func Check(tree fs.FS, rules []Rule) ([]string, error) {
	var violations []string
	err := fs.WalkDir(tree, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && file != "." || entry.Name() == "testdata" || file == "bin") {
			return fs.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(file, ".go") {
			return nil
		}
		content, err := fs.ReadFile(tree, file)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, content, parser.SkipObjectResolution)
		if err != nil {
			return fmt.Errorf("parse %s: %w", file, err)
		}
		for _, rule := range rules {
			if rule.binds(file) {
				violations = append(violations, rule.check(file, parsed)...)
			}
		}
		return nil
	})
	return violations, err
}

func (r Rule) binds(file string) bool {
	if strings.HasSuffix(file, "_test.go") && !r.Tests {
		return false
	}
	return matchAny(r.Files, file) && !matchAny(r.Except, file)
}

func (r Rule) check(file string, parsed *ast.File) []string {
	var out []string
	for _, spec := range parsed.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		if !r.allows(name) {
			out = append(out, fmt.Sprintf("%s imports %s: %s", file, name, r.Why))
		}
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if left, ok := selector.X.(*ast.Ident); ok {
			for _, call := range r.ForbidCalls {
				if left.Name+"."+selector.Sel.Name == call {
					out = append(out, fmt.Sprintf("%s uses %s: %s", file, call, r.Why))
				}
			}
		}
		return true
	})
	return out
}

func (r Rule) allows(name string) bool {
	for _, f := range r.Forbid {
		if name == f || strings.HasPrefix(name, strings.TrimSuffix(f, "/")+"/") {
			return false
		}
	}
	ours, isOurs := strings.CutPrefix(name, module)
	if !isOurs {
		first, _, _ := strings.Cut(name, "/")
		return !r.OnlyStandard || !strings.Contains(first, ".")
	}
	if r.Allow == nil {
		return !r.OnlyStandard
	}
	for _, a := range r.Allow {
		if strings.HasPrefix(ours, a) {
			return true
		}
	}
	return false
}

func matchAny(patterns []string, file string) bool {
	for _, p := range patterns {
		if dir, ok := strings.CutSuffix(p, "/..."); ok {
			if strings.HasPrefix(file, dir+"/") {
				return true
			}
			continue
		}
		if ok, _ := path.Match(p, file); ok {
			return true
		}
	}
	return false
}

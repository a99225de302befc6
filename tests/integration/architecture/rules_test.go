package architecture

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"
)

const root = "../../.."

// TestArchitecture holds the tree against the table of allowed imports.
func TestArchitecture(t *testing.T) {
	violations, err := Check(os.DirFS(root), Rules())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range violations {
		t.Error(v)
	}
}

// TestEveryRuleBindsAFile keeps a rule from going blind when a folder is renamed.
func TestEveryRuleBindsAFile(t *testing.T) {
	for _, rule := range Rules() {
		seen := &counting{}
		probe := rule
		probe.Forbid, probe.Allow, probe.OnlyStandard = nil, nil, false
		if err := seen.count(probe); err != nil {
			t.Fatal(err)
		}
		if seen.files == 0 {
			t.Errorf("rule %q (%v) binds no file", rule.Why, rule.Files)
		}
	}
}

type counting struct{ files int }

func (c *counting) count(rule Rule) error {
	out, err := exec.Command("git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard", "*.go").Output()
	if err != nil {
		return err
	}
	for file := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
		if rule.binds(file) {
			c.files++
		}
	}
	return nil
}

// TestTheDecidingFilesArePureAllTheWayDown checks purity transitively: what the
// aggregates import must itself import nothing but the standard library, and
// what views are folded with nothing but that and packages of ours.
func TestTheDecidingFilesArePureAllTheWayDown(t *testing.T) {
	for pkg, ours := range map[string]bool{
		"platform/fault": false, "platform/event": false, "platform/projection/fold": true, "platform/projection/completeness": true,
	} {
		cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", module+pkg)
		cmd.Dir = root
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list %s: %v", pkg, err)
		}
		for dep := range strings.FieldsSeq(string(out)) {
			if dep != module+pkg && !(ours && strings.HasPrefix(dep, module)) {
				t.Errorf("%s depends on %s, outside the standard library", pkg, dep)
			}
		}
	}
}

// TestTheArchitectureTestCanFail plants one violation per kind of rule and
// expects each to be named.
func TestTheArchitectureTestCanFail(t *testing.T) {
	file := func(body string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(body)} }
	imports := func(names ...string) *fstest.MapFile {
		s := "package p\n"
		for _, n := range names {
			s += "import _ \"" + n + "\"\n"
		}
		return file(s)
	}
	tests := []struct {
		name string
		path string
		file *fstest.MapFile
	}{
		{"projection calls a service contract", "projections/timeline/server.go", imports(module + "proto/order/v1")},
		{"projection imports a service", "projections/timeline/store.go", imports(module + "services/order")},
		{"a file beside the truth calls a service contract", "projections/timeline/document.go", imports(module + "proto/payment/v1")},
		{"the truth imports a service", "projections/timeline/truth.go", imports(module + "services/order")},
		{"the truth has its own database", "projections/operations/truth.go", imports("github.com/jackc/pgx/v5")},
		{"the truth publishes", "projections/operations/truth.go", imports(module + "platform/relay")},
		{"the truth knows another read model", "projections/operations/truth.go", imports(module + "proto/timeline/v1")},
		{"the truth reads a clock", "projections/timeline/truth.go", file("package p\nimport \"time\"\nvar x = time.Now\n")},
		{"a truth in another place", "projections/internal/truth/truth.go", imports(module + "proto/order/v1")},
		{"projection publishes", "projections/operations/store.go", imports(module + "platform/relay")},
		{"projection knows another", "projections/operations/store.go", imports(module + "projections/timeline")},
		{"fold reads a clock", "projections/timeline/view.go", file("package p\nimport \"time\"\nvar x = time.Now\n")},
		{"fold does input and output", "projections/timeline/view.go", imports("context")},
		{"a view knows the kernel", "projections/timeline/view.go", imports(module + "platform/projection")},
		{"the engine asks a database", "platform/projection/fold/engine.go", imports("github.com/jackc/pgx/v5")},
		{"the engine knows where facts come from", "platform/projection/fold/engine.go", imports(module + "platform/consumer")},
		{"a proof asks a database", "platform/projection/completeness/book.go", imports("github.com/jackc/pgx/v5")},
		{"a proof knows the kernel", "platform/projection/completeness/book.go", imports(module + "platform/projection")},
		{"a promise knows who keeps it", "platform/projection/contract/contract.go", imports(module + "platform/projection")},
		{"aggregate imports a database driver", "services/order/order.go", imports("github.com/jackc/pgx/v5")},
		{"aggregate imports another part of the platform", "services/payment/payment.go", imports(module + "platform/journal")},
		{"aggregate reads a clock", "services/order/order.go", file("package p\nimport \"time\"\nvar x = time.Now\n")},
		{"service imports another", "services/order/service.go", imports(module + "services/payment")},
		{"service reads a read model", "services/order/store.go", imports(module + "platform/projection")},
		{"payment calls order", "services/payment/service.go", imports(module + "proto/order/v1")},
		{"platform knows a fact", "platform/journal/journal.go", imports(module + "schemas/facts")},
		{"platform knows a context", "platform/rpc/server.go", imports(module + "proto/payment/v1")},
		{"fault is no longer pure", "platform/fault/fault.go", imports("google.golang.org/grpc/codes")},
		{"event is no longer pure", "platform/event/event.go", imports(module + "platform/fault")},
		{"a second place talks to Kafka", "services/order/service.go", imports("github.com/confluentinc/confluent-kafka-go/v2/kafka")},
		{"a second place configures Kafka", "platform/relay/relay.go", file("package p\nimport \"github.com/confluentinc/confluent-kafka-go/v2/kafka\"\nvar c = kafka.ConfigMap{}\n")},
		{"schemas import the platform", "schemas/schemas.go", imports(module + "platform/event")},
		{"production code imports test helpers", "services/order/service.go", imports(module + "platform/testkit")},
		{"the importer goes behind the contracts", "cmd/tidemark/olist/import.go", imports(module + "services/order")},
		{"a mock library", "services/order/order_test.go", imports("go.uber.org/mock/gomock")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			violations, err := Check(fstest.MapFS{tt.path: tt.file}, Rules())
			if err != nil {
				t.Fatal(err)
			}
			if len(violations) == 0 {
				t.Errorf("%s passed", tt.path)
			}
		})
	}
	t.Run("an honest file passes", func(t *testing.T) {
		violations, err := Check(fstest.MapFS{
			"services/order/order.go":      imports("fmt", "time", module+"platform/fault"),
			"projections/timeline/view.go": imports("fmt", module+"schemas/facts", module+"platform/projection/fold"),
			"projections/timeline/truth.go": imports("context", "google.golang.org/grpc", module+"proto/order/v1", module+"proto/payment/v1",
				module+"platform/projection", module+"platform/projection/fold"),
		}, Rules())
		if err != nil || len(violations) > 0 {
			t.Errorf("got %v, %v", violations, err)
		}
	})
}

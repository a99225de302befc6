// Package deploy tests the files of deploy/ against the running code: a
// dashboard or an alert that asks for a metric nobody exports is silently empty,
// and a variable nobody reads is silently ignored.
package deploy

import (
	"bufio"
	"encoding/json"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	operationsv1 "github.com/tidemark-dev/tidemark/proto/operations/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"
)

// root is the repository's folder of deployment files.
const root = "../../../deploy"

// elsewhere are the metrics that dashboards and rules use and that are not
// exported by our own code, with who exports them.
var elsewhere = map[string]string{
	"up":                       "Prometheus itself",
	"kafka_consumer_group_lag": "the collector's kafkametrics receiver",
}

// TestEveryMetricNameExists scrapes a whole fleet after it has done some work
// and looks up every metric that a dashboard panel or a rule asks for.
func TestEveryMetricNameExists(t *testing.T) {
	asked := map[string][]string{}
	all, recorded := expressions(t)
	for where, expressions := range all {
		for _, expression := range expressions {
			for _, name := range metricNames(expression) {
				asked[name] = append(asked[name], where)
			}
		}
	}
	if len(asked) < 10 {
		t.Fatalf("only %d metrics are asked for; are the files read?", len(asked))
	}
	exported := scrape(t)
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if !exported[name] && !recorded[name] && elsewhere[name] == "" {
			t.Errorf("no part exports %s, which is asked for in %s", name, strings.Join(slices.Compact(asked[name]), ", "))
		}
	}
}

// TestUnknownNamesAreFound proves that the check can fail.
func TestUnknownNamesAreFound(t *testing.T) {
	for _, test := range []struct {
		expression string
		want       []string
	}{
		{`sum by (service, rpc_method) (rate(rpc_server_call_duration_seconds_count{rpc_method=~"a|b", code!="OK"}[5m]))`, []string{"rpc_server_call_duration_seconds_count"}},
		{`a > bool 0.5 and on(x) group_left (y) b offset 5m unless 3e2 * c{d="{f}"}`, []string{"a", "b", "c"}},
		{`histogram_quantile(0.99, sum by (le) (rate(no_such_bucket[$__rate_interval])))`, []string{"no_such_bucket"}},
		{"label_values(up, service)", []string{"up"}},
		{"time() - max(q:w_e) or vector(0) == Inf", []string{"q:w_e"}},
	} {
		if got := metricNames(test.expression); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.expression, got, test.want)
		}
	}
}

// expressions returns every PromQL expression by the file it is in, and the
// names that rules record.
func expressions(t *testing.T) (all map[string][]string, recorded map[string]bool) {
	t.Helper()
	all, recorded = map[string][]string{}, map[string]bool{}
	files, err := filepath.Glob(filepath.Join(root, "prometheus", "*.yml"))
	for _, rules := range files {
		text, err := os.ReadFile(rules)
		if err != nil {
			t.Fatal(err)
		}
		var parsed struct {
			Groups []struct {
				Rules []struct{ Record, Expr string }
			}
		}
		if err := yaml.Unmarshal(text, &parsed); err != nil {
			t.Fatalf("%s: %v", rules, err)
		}
		for _, group := range parsed.Groups {
			for _, rule := range group.Rules {
				all[filepath.Base(rules)] = append(all[filepath.Base(rules)], rule.Expr)
				recorded[rule.Record] = true
			}
		}
	}
	if err != nil || len(all) < 3 {
		t.Fatalf("rules in %d files only, %v", len(all), err)
	}
	err = fs.WalkDir(os.DirFS(filepath.Join(root, "grafana")), ".", func(file string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, ".json") {
			return err
		}
		text, err := os.ReadFile(filepath.Join(root, "grafana", file))
		if err != nil {
			return err
		}
		var dashboard any
		if err := json.Unmarshal(text, &dashboard); err != nil {
			return err
		}
		collect(dashboard, func(expression string) { all[file] = append(all[file], expression) })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, recorded
}

// collect finds every field named expr in a document.
func collect(document any, found func(string)) {
	switch d := document.(type) {
	case []any:
		for _, element := range d {
			collect(element, found)
		}
	case map[string]any:
		for name, value := range d {
			if text, ok := value.(string); ok && name == "expr" {
				found(text)
			}
			collect(value, found)
		}
	}
}

var (
	strippers = []*regexp.Regexp{
		regexp.MustCompile(`"(\\.|[^"\\])*"`), // strings, before the braces in them
		regexp.MustCompile(`\{[^}]*\}`),       // label matchers
		regexp.MustCompile(`\[[^\]]*\]`),      // ranges
		regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)`),
		regexp.MustCompile(`\boffset\s+\S+`),
		regexp.MustCompile(`\b\d[\w.]*`), // numbers and durations
	}
	word     = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*(\s*\()?`)
	keywords = []string{"and", "or", "unless", "bool", "inf", "nan", "by", "without", "on", "ignoring", "group_left", "group_right"}
)

// metricNames returns the metrics of a PromQL expression.
func metricNames(expression string) []string {
	if inner, ok := strings.CutPrefix(expression, "label_values("); ok { // Grafana's own
		name, _, _ := strings.Cut(inner, ",")
		return []string{name}
	}
	for _, strip := range strippers {
		expression = strip.ReplaceAllString(expression, " ")
	}
	var names []string
	for _, token := range word.FindAllString(expression, -1) {
		if strings.HasSuffix(token, "(") || slices.Contains(keywords, strings.ToLower(token)) {
			continue // a function
		}
		names = append(names, token)
	}
	return names
}

// scrape runs a fleet, uses it, and returns the names of all exported series.
func scrape(t *testing.T) map[string]bool {
	t.Helper()
	dir := testkit.Dir(t, "deploy")
	urls := map[string]string{}
	for _, part := range fleet.AllParts() {
		if part != fleet.Postgres && part != fleet.Broker && part != fleet.Registry {
			urls[part] = testkit.PostgresURL(t)
		}
	}
	running, err := fleet.Start(t.Context(), fleet.Options{Dir: dir, DatabaseURL: func(part string) string { return urls[part] }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
	work(t, running)
	names, series := map[string]bool{}, regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*`)
	for part := range urls {
		response, err := http.Get("http://" + running.MetricsAddr(part) + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if name := series.FindString(lines.Text()); name != "" {
				names[name] = true
			}
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// work has every part measure something: a command that succeeds, one that is
// refused, facts that travel, and queries of both read models that saw them.
func work(t *testing.T, running *fleet.Fleet) {
	t.Helper()
	dial := func(part string) *grpc.ClientConn {
		conn, err := grpc.NewClient(running.Addr(part), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	orders := orderv1.NewOrderServiceClient(dial(fleet.Order))
	placed, err := orders.PlaceOrder(t.Context(), &orderv1.PlaceOrderRequest{
		RequestId: uuid.NewString(), CustomerId: "ada", Fulfilment: commercev1.Fulfilment_FULFILMENT_EXTERNAL,
		ShippingFee: &commercev1.Money{Currency: "EUR"},
	})
	if err != nil {
		t.Fatal(err)
	}
	id := placed.GetOrder().GetOrderId()
	if _, err := orders.GetOrder(t.Context(), &orderv1.GetOrderRequest{OrderId: "nobody"}); err == nil {
		t.Fatal("there is an order nobody placed")
	}
	read := &freshnessv1.ReadOptions{
		Consistency: &freshnessv1.ReadOptions_AtLeast{AtLeast: &freshnessv1.AtLeast{Tokens: []*freshnessv1.Token{placed.GetToken()}}},
		WaitBudget:  durationpb.New(30 * time.Second),
	}
	_, err = timelinev1.NewTimelineServiceClient(dial(fleet.Timeline)).GetOrderStatus(t.Context(), &timelinev1.GetOrderStatusRequest{OrderId: id, Read: read})
	if err != nil {
		t.Fatal(err)
	}
	_, err = operationsv1.NewOperationsServiceClient(dial(fleet.Operations)).ListOpenOrders(t.Context(), &operationsv1.ListOpenOrdersRequest{Read: read})
	if err != nil {
		t.Fatal(err)
	}
}

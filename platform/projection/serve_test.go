package projection_test

import (
	"context"
	"log/slog"
	"maps"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"

	"github.com/tidemark-dev/tidemark/platform/postgres"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/contract"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/platform/testkit"
	"github.com/tidemark-dev/tidemark/schemas/control"
)

// served serves what every read model serves, and returns a connection to it.
func (s *subject) served() grpc.ClientConnInterface {
	s.t.Helper()
	srv, err := rpc.NewServer(rpc.Config{Addr: "127.0.0.1:0"}, telemetry.Off(), slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	s.Register(srv.GRPC())
	addr, err := srv.Listen()
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ctx) }()
	s.t.Cleanup(func() { cancel(); <-done })
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

const tallyContract = `
name: tally
version: 1
question: What was noted?
owner: tests
consumers: [these tests]
sources: [order, payment]
staleness_objective: 5s
queries: {GetTally: read-your-write, ListTallies: analytical}
rebuild: {strategy: from the topics, time_budget: 15m per million facts}
reconciliation: [parts equal the owner's]
personal_data: [{field: parts.doc.name, purpose: to call them}]
policy: {late: {after: 48h}}
`

func withContract(c *projection.Config, _ *fold.View[tally]) { c.Contract = tallyContract }

func TestDescribeServesThePromiseAndWhatIsTrueNow(t *testing.T) {
	s := fresh(t, withContract, func(c *projection.Config, _ *fold.View[tally]) { c.MaxParked = 1 })
	client := readmodelv1.NewReadModelServiceClient(s.served())
	describe := func() *readmodelv1.DescribeReadModelResponse {
		t.Helper()
		r, err := client.DescribeReadModel(t.Context(), &readmodelv1.DescribeReadModelRequest{Name: "tally"})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	c := describe().GetContract()
	if c.GetName() != "tally" || c.GetVersion() != 1 || c.GetOwner() != "tests" || c.GetStalenessObjective().AsDuration() != 5*time.Second ||
		len(c.GetQueries()) != 2 || c.GetQueries()[0].GetConsistency() != readmodelv1.Consistency_CONSISTENCY_READ_YOUR_WRITE ||
		c.GetPersonalData()[0].GetPurpose() != "to call them" || c.GetPolicy().AsMap()["late"].(map[string]any)["after"] != "48h" {
		t.Errorf("contract %v", c)
	}
	now := describe().GetStanding()
	if now.GetGeneration() != s.Generation() || now.GetAnswering() != s.Generation() || now.GetGenerationStatus() != "SERVING" || now.GetPartitions() != 1 {
		t.Errorf("standing %v", now)
	}
	if len(now.GetSources()) != 2 || now.GetSources()[0].GetStaleness() != nil || len(now.GetParked()) != 0 || now.GetPaused() != "" {
		t.Errorf("nothing was read: %v", now)
	}

	log := newTopics()
	s.handle(log.facts(fact("o1", "order/o1", 2, &note{Add: 1}), fact("o2", "order/o2", 1, &note{Text: "burst"}),
		fact("o2", "order/o2", 2, &note{Add: 1}), fact("o3", "order/o3", 1, &note{Text: "burst"}))...)
	if err := s.LookAtParked(t.Context()); err != nil {
		t.Fatal(err)
	}
	now = describe().GetStanding()
	got := map[string]int64{}
	for _, class := range now.GetParked() {
		got[class.GetVerdict()] = class.GetAggregates()
		if age := time.Since(class.GetOldest().AsTime()); age < 0 || age > time.Hour {
			t.Errorf("%s is parked for %v", class.GetVerdict(), age)
		}
	}
	if diff := cmp.Diff(map[string]int64{"gap": 1, "poison": 2}, got); diff != "" {
		t.Errorf("parked (-want +got):\n%s", diff)
	}
	if !strings.Contains(now.GetPaused(), "more than 1 aggregates are parked") {
		t.Errorf("paused %q", now.GetPaused())
	}
	list, err := client.ListReadModels(t.Context(), &readmodelv1.ListReadModelsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m := list.GetReadModels()[0]; m.GetName() != "tally" || m.GetQuestion() != "What was noted?" || m.GetParked() != 3 || !m.GetPaused() || m.GetStaleness() != nil {
		t.Errorf("list %v", m)
	}
	if _, err := client.DescribeReadModel(t.Context(), &readmodelv1.DescribeReadModelRequest{Name: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("another read model: %v", err)
	}
}

func TestDescribeAnswersWhileTheViewIsBuilt(t *testing.T) {
	s := open(t, testkit.UsedURL(t), withContract)
	r, err := readmodelv1.NewReadModelServiceClient(s.served()).DescribeReadModel(t.Context(), &readmodelv1.DescribeReadModelRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if now := r.GetStanding(); now.GetGenerationStatus() != "BUILDING" || len(now.GetSources()) != 0 || r.GetContract().GetName() != "tally" {
		t.Errorf("got %v", r)
	}
}

func TestAProgramWithAnotherContractDoesNotStart(t *testing.T) {
	cfg := projection.Config{Postgres: postgres.Config{URL: "postgres://nowhere"}, Codec: jsonCodec{}, Telemetry: telemetry.Off(), Contract: tallyContract}
	view := tallyView()
	view.Version = 2
	if _, err := projection.Open(t.Context(), cfg, view); err == nil || !strings.Contains(err.Error(), "readmodel.yaml is about tally 1") {
		t.Errorf("got %v", err)
	}
}

// TestAlertsAskForMetricsThatAreExported scrapes a projection and looks up every
// metric that the alerts of a contract ask for.
func TestAlertsAskForMetricsThatAreExported(t *testing.T) {
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{ServiceName: "tally"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Shutdown(context.Background()) })
	s := fresh(t, withContract, func(c *projection.Config, _ *fold.View[tally]) { c.Telemetry = tel })
	log := newTopics()
	for _, source := range []string{"order", "payment"} {
		s.handle(log.totals(control.ControlRecord{Source: source, Epoch: epoch1, Number: 1, Term: 1, AsOf: dawn, DataEndOffset: -1}))
	}
	answer := httptest.NewRecorder()
	tel.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	promised, err := contract.Parse([]byte(tallyContract))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := promised.Alerts()
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]bool{}
	for _, series := range regexp.MustCompile(`tidemark_projection_\w+\{`).FindAllString(string(rules), -1) {
		asked[series] = true
	}
	if len(asked) < 5 {
		t.Fatalf("the alerts ask for %d metrics only:\n%s", len(asked), rules)
	}
	for _, series := range slices.Sorted(maps.Keys(asked)) {
		if !strings.Contains(answer.Body.String(), "\n"+series) {
			t.Errorf("no projection exports %s…}, which the alerts ask for", series)
		}
	}
	for _, want := range []string{"> 5\n", `tidemark_generation=~"tally/.*"`, "< 2 or", `tidemark_state="violated"`, "owner: tests"} {
		if !strings.Contains(string(rules), want) {
			t.Errorf("the alerts do not say %q:\n%s", want, rules)
		}
	}
}

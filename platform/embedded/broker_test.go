package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark-dev/tidemark/platform/embedded"
	"github.com/tidemark-dev/tidemark/platform/kafka"
)

func start(t *testing.T, dir string) *embedded.Broker {
	t.Helper()
	broker, err := embedded.StartBroker(t.Context(), embedded.BrokerConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	return broker
}

func produce(t testing.TB, addr, value string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	record := &kgo.Record{Topic: kafka.TopicOrder, Partition: 3, Value: []byte(value)}
	if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func consume(t *testing.T, addr string, n int) []string {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		kafka.TopicOrder: {3: kgo.NewOffset().AtStart()},
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var values []string
	for len(values) < n {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("got %q of %d records: %v", values, n, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
	}
	return values
}

func TestBrokerMakesTheTopics(t *testing.T) {
	t.Parallel()
	broker := start(t, "")
	for _, topic := range kafka.Topics() {
		info := broker.Cluster().TopicInfo(topic)
		if info == nil {
			t.Fatalf("topic %s is missing", topic)
		}
		if got := len(broker.Cluster().PartitionInfos(topic)); got != kafka.DefaultPartitions {
			t.Errorf("topic %s has %d partitions, want %d", topic, got, kafka.DefaultPartitions)
		}
		policy := "delete"
		if topic == kafka.TopicControl {
			policy = "compact"
		}
		if got := info.Configs["cleanup.policy"]; got == nil || *got != policy {
			t.Errorf("topic %s has cleanup.policy %v, want %s", topic, got, policy)
		}
	}
}

func TestBrokerFindsItsData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, dir)
	produce(t, first.Addr(), "kept")
	id := first.Cluster().TopicInfo(kafka.TopicOrder).TopicID
	first.Close()

	second := start(t, dir)
	if got := consume(t, second.Addr(), 1); got[0] != "kept" {
		t.Errorf("after a restart the topic holds %q", got)
	}
	if got := second.Cluster().TopicInfo(kafka.TopicOrder).TopicID; got != id {
		t.Errorf("the topic id changed from %x to %x", id, got)
	}
}

// killedDir tells the re-executed test binary that it is the broker to be killed.
const killedDir = "TIDEMARK_TEST_KILLED_BROKER"

func TestAcknowledgedRecordsSurviveAKill(t *testing.T) {
	const records = 50
	if dir := os.Getenv(killedDir); dir != "" {
		broker := start(t, dir)
		for i := range records {
			produce(t, broker.Addr(), fmt.Sprint(i))
		}
		fmt.Println("acknowledged")
		<-context.Background().Done() // until killed
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestAcknowledgedRecordsSurviveAKill$")
	child.Env = append(os.Environ(), killedDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "acknowledged") {
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed: an error is what we want

	broker := start(t, dir)
	for i, got := range consume(t, broker.Addr(), records) {
		if got != fmt.Sprint(i) {
			t.Fatalf("record %d is %q", i, got)
		}
	}
}

func TestATakenPortIsNamed(t *testing.T) {
	t.Parallel()
	broker := start(t, "")
	_, port, _ := strings.Cut(broker.Addr(), ":")
	var taken int
	if _, err := fmt.Sscan(port, &taken); err != nil {
		t.Fatal(err)
	}
	other, err := embedded.StartBroker(t.Context(), embedded.BrokerConfig{Port: taken})
	if err == nil {
		other.Close()
		t.Fatal("a second broker started on the same port")
	}
	if !strings.Contains(err.Error(), port) {
		t.Errorf("error %q does not name port %s", err, port)
	}
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/schemas"
)

// setupCmd is for operators: what a deployment needs before its services start.
// Services themselves create no topic and register no schema.
type setupCmd struct {
	Topics  setupTopicsCmd  `cmd:"" help:"Create the topics that do not exist, and check those that do."`
	Schemas setupSchemasCmd `cmd:"" help:"Register every event schema, in the order of ids.lock."`
	Ready   setupReadyCmd   `cmd:"" help:"Ask a server whether it is ready: exit code 0 if so. For health checks."`
}

// setupTimeout bounds one setup; brokers and registries take a while to start.
const setupTimeout = 2 * time.Minute

type setupTopicsCmd struct {
	Brokers     string   `help:"Kafka bootstrap servers, comma separated." default:"127.0.0.1:7092" env:"TIDEMARK_KAFKA_BROKERS"`
	Partitions  int32    `help:"Partitions of every topic; fixed for ever in a deployment." default:"8" env:"TIDEMARK_KAFKA_PARTITIONS"`
	Replication int      `help:"Replication factor of topics that are created." default:"1" env:"TIDEMARK_KAFKA_REPLICATION"`
	Property    []string `help:"Further librdkafka properties (security.protocol=…)." sep:";" env:"TIDEMARK_KAFKA_PROPERTY"`
}

// Run creates what is missing. It may run any number of times.
func (c *setupTopicsCmd) Run(a *app) error {
	if c.Partitions < 1 || c.Replication < 1 {
		return usage("--partitions and --replication start at 1")
	}
	ctx, cancel := context.WithTimeout(a.ctx, setupTimeout)
	defer cancel()
	config := kafka.Config{Brokers: c.Brokers, Partitions: c.Partitions, Replication: c.Replication, Extra: c.Property}
	if err := kafka.CreateTopics(ctx, config); err != nil {
		return err
	}
	admin, err := kafka.NewAdmin(config, "tidemark-setup")
	if err != nil {
		return err
	}
	defer admin.Close()
	type created struct {
		Topic      string `json:"topic"`
		Partitions int32  `json:"partitions"`
		ID         string `json:"id"`
	}
	var topics []created
	rows := [][]string{{"TOPIC", "PARTITIONS", "ID"}}
	for _, name := range kafka.Topics() {
		topic, err := kafka.CheckTopic(ctx, config, admin, name)
		if err != nil {
			return err
		}
		topics = append(topics, created{topic.Name, topic.Partitions, topic.ID})
		rows = append(rows, []string{topic.Name, strconv.Itoa(int(topic.Partitions)), topic.ID})
	}
	if a.json() {
		return json.NewEncoder(a.out).Encode(topics)
	}
	return table(a.out, rows...)
}

type setupSchemasCmd struct {
	RegistryURL string `help:"Schema registry URL." default:"http://127.0.0.1:7081" env:"TIDEMARK_KAFKA_REGISTRY_URL"`
	SchemaIDs   string `name:"schema-ids" help:"Schema ids in frames: lock (ours; the registry must give the same) or registry (the registry's own)." default:"lock" enum:"lock,registry" env:"TIDEMARK_KAFKA_SCHEMA_IDS"`
}

// Run registers every schema. It may run any number of times.
func (c *setupSchemasCmd) Run(a *app) error {
	ctx, cancel := context.WithTimeout(a.ctx, setupTimeout)
	defer cancel()
	registry, err := avro.NewRegistry(c.RegistryURL, avro.Numbering(c.SchemaIDs))
	if err != nil {
		return usage("%v", err)
	}
	if err := awaitAnswer(ctx, strings.TrimRight(c.RegistryURL, "/")+"/subjects"); err != nil {
		return fmt.Errorf("the schema registry does not answer: %w", err)
	}
	set, err := registry.Register(ctx, schemas.Catalog())
	if err != nil {
		return err
	}
	type registered struct {
		ID       int      `json:"id"`
		Schema   string   `json:"schema"`
		Subjects []string `json:"subjects"`
	}
	var all []registered
	rows := [][]string{{"ID", "SCHEMA", "SUBJECTS"}}
	for _, s := range set.All() {
		all = append(all, registered{ID: s.ID, Schema: s.Key.String(), Subjects: s.Subjects()})
		for i, subject := range s.Subjects() {
			if i == 0 {
				rows = append(rows, []string{strconv.Itoa(s.ID), s.Key.String(), subject})
				continue
			}
			rows = append(rows, []string{"", "", subject})
		}
	}
	if a.json() {
		return json.NewEncoder(a.out).Encode(all)
	}
	if err := table(a.out, rows...); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%d schemas registered, FULL_TRANSITIVE\n", len(all))
	return err
}

type setupReadyCmd struct {
	HTTPAddr string        `name:"http-addr" help:"The server's address of /readyz; without a host, or with 0.0.0.0, this machine." default:"127.0.0.1:8101" env:"TIDEMARK_HTTP_ADDR"`
	For      string        `help:"A /readyz URL; instead of --http-addr." placeholder:"URL"`
	Wait     time.Duration `help:"How long to wait for it; 0 asks once."`
}

// Run asks once, or until it is so.
func (c *setupReadyCmd) Run(a *app) error {
	url := c.For
	if url == "" {
		host, port, err := net.SplitHostPort(c.HTTPAddr)
		if err != nil {
			return usage("--http-addr %q is not HOST:PORT", c.HTTPAddr)
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		url = "http://" + net.JoinHostPort(host, port) + "/readyz"
	}
	if c.Wait > 0 {
		ctx, cancel := context.WithTimeout(a.ctx, c.Wait)
		defer cancel()
		return awaitAnswer(ctx, url)
	}
	ctx, cancel := a.call()
	defer cancel()
	return answers(ctx, url)
}

// askAgain lies between two questions of awaitAnswer.
const askAgain = 250 * time.Millisecond

// awaitAnswer asks until the answer is 200, or ctx ends.
func awaitAnswer(ctx context.Context, url string) error {
	for {
		err := answers(ctx, url)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(askAgain):
		}
	}
}

// answers returns nil if the answer is 200, else what came instead.
func answers(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(response.Body, 500)) // the status says enough
	return fmt.Errorf("%s answers %s: %s", url, response.Status, strings.TrimSpace(string(text)))
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
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

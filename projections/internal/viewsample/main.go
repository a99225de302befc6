// Command viewsample records facts for `make view-diff`: Kafka records of the
// fact topics, one JSON object a line, packed. It writes drawn histories, which
// is what testdata/facts.jsonl.gz holds, or, with -kafka, all that a running
// fleet has in its topics.
package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/kafka"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/projections/internal/history"
	"github.com/tidemark-dev/tidemark/schemas"
)

func main() {
	out := flag.String("out", "projections/testdata/facts.jsonl.gz", "file to write")
	orders := flag.Int("stories", 30, "drawn histories of up to three orders each")
	brokers := flag.String("kafka", "", "HOST:PORT of a running fleet's broker, to record instead of drawing")
	partitions := flag.Int("partitions", 8, "partitions of its topics")
	flag.Parse()
	if err := run(*out, *orders, *brokers, int32(*partitions)); err != nil {
		fmt.Fprintln(os.Stderr, "view-sample:", err)
		os.Exit(1)
	}
}

// record is one line.
type record struct {
	Key     string      `json:"key"`
	Headers [][2]string `json:"headers"`
	Value   []byte      `json:"value"`
}

func run(out string, stories int, brokers string, partitions int32) (err error) {
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	packed := gzip.NewWriter(file)
	defer func() { err = errors.Join(err, packed.Close()) }()
	lines := &recorder{to: json.NewEncoder(packed)}
	if brokers == "" {
		err = lines.draw(stories)
	} else {
		err = lines.read(kafka.Config{Brokers: brokers, Partitions: partitions})
	}
	if err == nil {
		fmt.Printf("%s: %d facts\n", out, lines.n)
	}
	return err
}

// recorder writes lines; it is also the handler of a consumer that reads all.
type recorder struct {
	codec *avro.Codec
	mu    sync.Mutex
	to    *json.Encoder
	n     int
	left  map[string]int64 // offsets to reach, by topic and partition
	done  context.CancelFunc
	err   error
}

func (r *recorder) write(key []byte, headers []event.Header, value []byte) error {
	line := record{Key: string(key), Value: value}
	for _, h := range headers {
		line.Headers = append(line.Headers, [2]string{h.Key, string(h.Value)})
	}
	r.n++
	return r.to.Encode(line)
}

// draw writes histories as a relay would.
func (r *recorder) draw(stories int) error {
	codec, err := avro.NewCodec(schemas.Catalog())
	if err != nil {
		return err
	}
	draw := rapid.Custom(history.Draw)
	all := history.NewStory("o-1").All()
	for n := range stories {
		for _, facts := range draw.Example(n + 1) {
			for _, f := range facts {
				f.Key, f.Aggregate.ID = fmt.Sprintf("%s-%d", f.Key, n), fmt.Sprintf("%s-%d", f.Aggregate.ID, n)
				all = append(all, f)
			}
		}
	}
	for _, f := range all {
		f.ID = uuid.NewSHA1(uuid.Nil, []byte(f.Aggregate.String()+f.ID)).String()
		name, version, bare, err := codec.Encode(f.Body)
		if err != nil {
			return err
		}
		id, _ := codec.ID(name, version)
		if err := r.write([]byte(f.Key), f.Headers(), avro.Frame(id, bare)); err != nil {
			return err
		}
	}
	return nil
}

// renumbered frames a value anew with the schema's number in ids.lock, which is
// what `make view-diff` reads without a registry: a fleet may run with the numbers
// that its registry gave. What names no schema of ours stays as it is.
func renumbered(codec *avro.Codec, headers []event.Header, value []byte) []byte {
	e, err := event.ParseHeaders(headers)
	if err != nil {
		return value
	}
	id, known := codec.ID(e.Type, e.SchemaVersion)
	_, bare, err := avro.Unframe(value)
	if !known || err != nil {
		return value
	}
	return avro.Frame(id, bare)
}

// read writes all that the fact topics hold now.
func (r *recorder) read(cfg kafka.Config) (err error) {
	if r.codec, err = avro.NewCodec(schemas.Catalog()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	topics := []string{kafka.TopicOrder, kafka.TopicPayment, kafka.TopicShipment}
	bounds, err := consumer.LogBounds(ctx, cfg, topics)
	if err != nil {
		return err
	}
	r.left, r.done = map[string]int64{}, cancel
	for topic, of := range bounds {
		for number, b := range of {
			if b.End > b.Start {
				r.left[place(topic, number)] = b.End
			}
		}
	}
	if len(r.left) == 0 {
		return errors.New("the topics are empty")
	}
	c, err := consumer.New(consumer.Config{
		Kafka: cfg, Group: "tidemark.view-sample." + uuid.NewString(), Topics: topics, Telemetry: telemetry.Off(),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}, r)
	if err != nil {
		return err
	}
	return errors.Join(c.Run(ctx), r.err)
}

func place(topic string, number int32) string { return fmt.Sprintf("%s/%d", topic, number) }

// Claim implements [consumer.Handler]: from the beginning.
func (r *recorder) Claim(context.Context, int32, map[string]string) (map[string]int64, error) {
	return nil, nil
}

// Handle implements [consumer.Handler].
func (r *recorder) Handle(_ context.Context, number int32, records []consumer.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, record := range records {
		at := place(record.Topic, number)
		if end, wanted := r.left[at]; !wanted || record.Offset >= end {
			continue
		}
		if !event.IsControl(record.Headers) {
			if err := r.write(record.Key, record.Headers, renumbered(r.codec, record.Headers, record.Value)); err != nil {
				r.err = err
				r.done()
				return err
			}
		}
		if record.Offset+1 >= r.left[at] {
			delete(r.left, at)
		}
	}
	if len(r.left) == 0 {
		r.done()
	}
	return nil
}

package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"strings"
)

// dumper is the program that folds recorded facts with the views of a tree. It
// uses only what there has been from the beginning, so that it builds over old
// commits; views are in the package named.
func dumper(kernel string, views []string) string {
	const module = "github.com/tidemark-dev/tidemark/"
	var imports, dumps strings.Builder
	for _, v := range views {
		fmt.Fprintf(&imports, "\t%q\n", module+"projections/"+v)
		fmt.Fprintf(&dumps, "\tout[%q] = dump(%s.View(), facts)\n", v, v)
	}
	return strings.NewReplacer("«imports»", imports.String(), "«dumps»", dumps.String(), "«kernel»", module+kernel).Replace(dumperSource)
}

const dumperSource = `package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/tidemark-dev/tidemark/platform/avro"
	"github.com/tidemark-dev/tidemark/platform/event"
	kernel "«kernel»"
	"github.com/tidemark-dev/tidemark/schemas"
«imports»)

type record struct {
	Key     string      ` + "`json:\"key\"`" + `
	Headers [][2]string ` + "`json:\"headers\"`" + `
	Value   []byte      ` + "`json:\"value\"`" + `
}

type result struct {
	Generation string                      ` + "`json:\"generation\"`" + `
	Schema     string                      ` + "`json:\"schema\"`" + `
	Facts      int                         ` + "`json:\"facts\"`" + `
	Parked     int                         ` + "`json:\"parked\"`" + `
	Reason     string                      ` + "`json:\"reason\"`" + `
	Tables     map[string][]map[string]any ` + "`json:\"tables\"`" + `
}

func main() {
	codec, err := avro.NewCodec(schemas.Catalog())
	check(err)
	var facts []event.Fact
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var r record
		check(json.Unmarshal(lines.Bytes(), &r))
		var headers []event.Header
		for _, h := range r.Headers {
			headers = append(headers, event.Header{Key: h[0], Value: []byte(h[1])})
		}
		if event.IsControl(headers) {
			continue
		}
		f, err := codec.DecodeRecord(headers, []byte(r.Key), r.Value)
		if err != nil {
			fmt.Fprintln(os.Stderr, "left out:", err)
			continue
		}
		facts = append(facts, f)
	}
	check(lines.Err())
	out := map[string]result{}
«dumps»	check(json.NewEncoder(os.Stdout).Encode(out))
}

func dump[S any](view kernel.View[S], facts []event.Fact) result {
	m := kernel.NewMemory(view)
	r := result{Generation: view.Generation(), Schema: view.Schema}
	for batch := range slices.Chunk(facts, 500) {
		var own []event.Fact
		for _, f := range batch {
			if slices.Contains(view.Sources, f.Source) {
				own = append(own, f)
			}
		}
		check(m.Apply(own...))
		r.Facts += len(own)
	}
	r.Parked, r.Reason = m.Parked()
	r.Tables = m.All()
	return r
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
`

// unpack reads recorded facts, one JSON object a line, packed or not.
func unpack(file string) ([]byte, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("recorded facts: %w", err)
	}
	if !strings.HasSuffix(file, ".gz") {
		return raw, nil
	}
	packed, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("recorded facts %s: %w", file, err)
	}
	text, err := io.ReadAll(packed)
	if err != nil {
		return nil, fmt.Errorf("recorded facts %s: %w", file, err)
	}
	return text, nil
}

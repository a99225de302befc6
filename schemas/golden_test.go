package schemas_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/linkedin/goavro/v2"

	"github.com/tidemark-dev/tidemark/schemas"
)

var update = flag.Bool("update", false, "write golden files that are missing; never change one")

// golden is bytes of a released version, with what they say in Avro's JSON.
type golden struct {
	Case  string          `json:"case"`
	Hex   string          `json:"hex"`
	Value json.RawMessage `json:"value"`
}

// Bytes of every released version stay readable for ever, and mean what they
// meant; and what today's version writes does not change by a bit.
func TestGoldenBytes(t *testing.T) {
	for _, schema := range schemas.Catalog().All() {
		t.Run(schema.Key.String(), func(t *testing.T) {
			codec, err := goavro.NewCodec(schema.Text)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", "golden", strings.ReplaceAll(schema.Key.String(), "/", ".v")+".json")
			text, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) && *update {
				text = writeGolden(t, schema, codec, path)
			} else if err != nil {
				t.Fatalf("%v: a released version needs golden bytes, run go test . -update", err)
			}
			var cases []golden
			if err := json.Unmarshal(text, &cases); err != nil {
				t.Fatal(err)
			}
			if len(cases) < 2 {
				t.Errorf("%d cases, want at least full and least", len(cases))
			}
			for _, c := range cases {
				bare, err := hex.DecodeString(c.Hex)
				if err != nil {
					t.Fatal(err)
				}
				got, rest, err := codec.NativeFromBinary(bare)
				if err != nil || len(rest) > 0 {
					t.Fatalf("%s: %v, %d bytes left", c.Case, err, len(rest))
				}
				want, _, err := codec.NativeFromTextual(c.Value)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("%s: %s", c.Case, diff)
				}
				again, err := codec.BinaryFromNative(nil, got)
				if err != nil || hex.EncodeToString(again) != c.Hex {
					t.Errorf("%s: written as other bytes: %x, %v", c.Case, again, err)
				}
			}
		})
	}
}

func writeGolden(t *testing.T, schema schemas.Schema, codec *goavro.Codec, path string) []byte {
	var cases []golden
	for name, choose := range map[string]chooser{"full": full(), "least": least()} {
		value := choose.value(schema.Root, "", nil)
		bare, err := codec.BinaryFromNative(nil, value)
		if err != nil {
			t.Fatal(err)
		}
		text, err := codec.TextualFromNative(nil, value)
		if err != nil {
			t.Fatal(err)
		}
		var sorted map[string]json.RawMessage // goavro writes fields in any order
		if err := json.Unmarshal(text, &sorted); err != nil {
			t.Fatal(err)
		}
		if text, err = json.Marshal(sorted); err != nil {
			t.Fatal(err)
		}
		cases = append(cases, golden{name, hex.EncodeToString(bare), text})
	}
	slices.SortFunc(cases, func(a, b golden) int { return strings.Compare(a.Case, b.Case) })
	text, err := json.MarshalIndent(cases, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	return text
}

package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/schemas/internal/lock"
)

const root = "../.."

// What is committed is what the generator makes of the schema files.
func TestGeneratedCodeIsUpToDate(t *testing.T) {
	if err := run(root, true); err != nil {
		t.Fatal(err)
	}
}

// released is a copy of the schema files and the lock in memory.
func released(t *testing.T) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !(strings.HasSuffix(name, ".avsc") || name == lock.File) {
			return err
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		files[name] = &fstest.MapFile{Data: text}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func add(files fstest.MapFS, name, text string) { files[name] = &fstest.MapFile{Data: []byte(text)} }

const aardvark = `{"type":"record","name":"Aardvark","namespace":"tidemark.order","doc":"It came.","fields":[` +
	`{"name":"order_id","type":"string","doc":"Which."}]}`

// A new file gets the next id, wherever its name sorts; no other id moves.
func TestNewSchemaShiftsNoID(t *testing.T) {
	files := released(t)
	before := string(files[lock.File].Data)
	add(files, "avro/Aardvark/v1.avsc", aardvark)
	out, err := Generate(files)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s%d Aardvark 1 %s\n", before, strings.Count(before, "\n"), lock.Sum([]byte(aardvark)))
	if diff := cmp.Diff(want, string(out[lock.File])); diff != "" {
		t.Error(diff)
	}
}

func TestGeneratorRefuses(t *testing.T) {
	const held = "avro/OrderHeld/v1.avsc"
	for _, c := range []struct {
		name   string
		change func(files fstest.MapFS)
		want   string
	}{
		{"released schema changed", func(f fstest.MapFS) {
			add(f, held, strings.Replace(string(f[held].Data), "few", "dozen", 1))
		}, "changed since: write the change as version 2"},
		{"released schema gone", func(f fstest.MapFS) { delete(f, held) }, "gone"},
		{"version skipped", func(f fstest.MapFS) { add(f, "avro/OrderHeld/v3.avsc", string(f[held].Data)) }, "version 2 does not exist"},
		{"id shifted", func(f fstest.MapFS) {
			add(f, lock.File, strings.Replace(string(f[lock.File].Data), "\n6 ", "\n60 ", 1))
		}, "ids count up"},
		{"version twice", func(f fstest.MapFS) {
			add(f, lock.File, string(f[lock.File].Data)+"99 OrderHeld 1 x\n")
		}, "no version appears twice"},
		{"garbage in the lock", func(f fstest.MapFS) { add(f, lock.File, "1 OrderHeld\n") }, "want id, name, version and sha256"},
		{"file in the wrong place", func(f fstest.MapFS) { add(f, "avro/OrderHeld.avsc", "{}") }, "a schema is called"},
		{"not a schema", func(f fstest.MapFS) { add(f, "avro/Aardvark/v1.avsc", "{}") }, "avro/Aardvark/v1.avsc"},
		{"another name", func(f fstest.MapFS) { add(f, "avro/Badger/v1.avsc", aardvark) }, "want a record Badger"},
		{"no doc", func(f fstest.MapFS) {
			add(f, "avro/Aardvark/v1.avsc", strings.Replace(aardvark, `,"doc":"Which."`, "", 1))
		}, "Aardvark.order_id: no doc"},
		{"shared type in two forms", func(f fstest.MapFS) {
			text := string(f["avro/PaymentVoided/v1.avsc"].Data)
			add(f, "avro/PaymentVoided/v2.avsc", strings.Replace(text, "Minor units", "Units", 1))
		}, "tidemark.types.Money differs"},
		{"type without a Go form", func(f fstest.MapFS) {
			add(f, "avro/Aardvark/v1.avsc", strings.Replace(aardvark, `"string"`, `"double"`, 1))
		}, "double is not supported"},
		{"union without null", func(f fstest.MapFS) {
			add(f, "avro/Aardvark/v1.avsc", strings.Replace(aardvark, `"string"`, `["string","int"]`, 1))
		}, "a union is null and one type"},
		{"type in a fact's namespace", func(f fstest.MapFS) {
			add(f, "avro/Aardvark/v1.avsc", strings.Replace(aardvark, `"string"`, `{"type":"enum","name":"E","doc":"E.","symbols":["A"]}`, 1))
		}, "belongs into namespace tidemark.types"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := released(t)
			c.change(files)
			_, err := Generate(files)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// The check notices an edited, a missing and a left-over generated file, and
// writing mends all three.
func TestCheckNoticesDrift(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, file := range released(t) {
		write(name, string(file.Data))
	}
	write("facts/facts.go", "package facts\n")
	for _, drift := range []struct{ name, file, text string }{
		{"missing", "control/control.go", "package control\n"},
		{"edited", "facts/order.gen.go", "package facts\n"},
		{"left over", "facts/stray.gen.go", "package facts\n"},
		{"not in the lock", "avro/Aardvark/v1.avsc", aardvark},
	} {
		write(drift.file, drift.text)
		if err := run(dir, true); err == nil {
			t.Errorf("%s: not noticed", drift.name)
		}
		if err := run(dir, false); err != nil {
			t.Fatalf("%s: %v", drift.name, err)
		}
		if err := run(dir, true); err != nil {
			t.Errorf("%s: still there after writing: %v", drift.name, err)
		}
	}
}

package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-dev/tidemark/schemas/internal/lock"
)

const root = "../../.."

func TestCommittedSchemasPass(t *testing.T) {
	report, err := run(root)
	if err != nil {
		t.Errorf("%v\n%s", err, report)
	}
}

// committed is a copy of the schema files in memory.
func committed(t *testing.T) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	err := fs.WalkDir(os.DirFS(root+"/schemas"), "avro", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(root, "schemas", name))
		files[name] = &fstest.MapFile{Data: text}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A schema that is broken on purpose is told with whoever it breaks: those that
// read the field, by line; those that only handle the event; in the direction
// in which it breaks; and nobody else.
func TestABrokenSchemaNamesItsConsumers(t *testing.T) {
	files := committed(t)
	change := func(event string, version int, old, new string) {
		t.Helper()
		before := string(files[lock.Key{Name: event, Version: version - 1}.Path()].Data)
		after := strings.Replace(before, old, new, 1)
		if after == before {
			t.Fatalf("%s has no %q", event, old)
		}
		files[lock.Key{Name: event, Version: version}.Path()] = &fstest.MapFile{Data: []byte(after)}
	}
	change("OrderPlaced", 2, `"channel"`, `"sales_channel"`)
	change("PaymentDeclined", 3, `{"name": "retryable", "type": "boolean"`, `{"name": "retryable", "type": "string"`)
	change("ShipmentStalled", 2, `{"name": "reason", "type": "string"`, `{"name": "reason", "type": "int"`)
	for name, file := range files { // the defaults follow their types
		text := strings.Replace(string(file.Data), `final, or nobody said.", "default": false`, `final, or nobody said.", "default": ""`, 1)
		if strings.HasSuffix(name, "PaymentDeclined/v3.avsc") {
			files[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if strings.HasSuffix(name, "ShipmentStalled/v2.avsc") {
			files[name] = &fstest.MapFile{Data: []byte(strings.Replace(string(file.Data), `"default": ""}`, `"default": 0}`, 1))}
		}
	}
	breaks, _, err := incompatible(files)
	if err != nil {
		t.Fatal(err)
	}
	var got [][4]any
	for _, b := range breaks {
		got = append(got, [4]any{b.event, b.writer, b.reader, b.field})
	}
	want := [][4]any{
		{"OrderPlaced", 1, 2, "sales_channel"}, {"OrderPlaced", 2, 1, "channel"},
		{"PaymentDeclined", 2, 3, "retryable"}, {"PaymentDeclined", 3, 2, "retryable"},
		{"ShipmentStalled", 1, 2, "reason"}, {"ShipmentStalled", 2, 1, "reason"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	consumers, err := readers(root)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct{ has, lacks []string }{
		{[]string{"version 2 cannot read what was written so far", "projection timeline handles OrderPlaced at "}, []string{"reads OrderPlaced"}},
		{[]string{"version 1 cannot read what is written from now on", "projection timeline reads OrderPlaced.channel at projections/timeline/",
			"projection operations reads OrderPlaced.channel at projections/operations/view.go:", "service order handles OrderPlaced at services/order/process"}, nil},
		{[]string{"projection operations reads PaymentDeclined.retryable at projections/operations/view.go:"}, []string{"service payment"}},
		{nil, nil},
		{[]string{"projection timeline reads ShipmentStalled.reason at projections/timeline/entry.go:", "projection operations handles ShipmentStalled"}, []string{"service"}},
		{nil, nil},
	} {
		told := breaks[i].tell(consumers)
		for _, words := range c.has {
			if !strings.Contains(told, words) {
				t.Errorf("no %q in\n%s", words, told)
			}
		}
		for _, words := range c.lacks {
			if strings.Contains(told, words) {
				t.Errorf("%q in\n%s", words, told)
			}
		}
	}
	// What every fact carries is read through facts.Common.
	common := broken{event: "OrderHeld", writer: 2, reader: 1, field: "customer_id"}
	if told := common.tell(consumers); !strings.Contains(told, "projection timeline reads customer_id of any fact, through facts.Common, at projections/timeline/") {
		t.Error(told)
	}
	if told := (broken{event: "Nobodys", field: "x"}).tell(consumers); !strings.Contains(told, "nobody in this repository") {
		t.Error(told)
	}
}

// What is released is compared with the commits that released it, so editing a
// schema and its hash together does not pass.
func TestReleasedFilesAndLinesDoNotChange(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Fatalf("what was released is known from git alone: %v", err)
	}
	dir := t.TempDir()
	const a, b = `{"type":"record","name":"A","fields":[]}`, `{"type":"record","name":"B","fields":[]}`
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, "schemas", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ids := func(texts ...string) {
		var entries []lock.Entry
		for i, text := range texts {
			entries = append(entries, lock.Entry{ID: i + 1, Name: string("AB"[i]), Version: 1, SHA256: lock.Sum([]byte(text))})
		}
		write(lock.File, lock.Format(entries))
	}
	commit := func() {
		t.Helper()
		for _, args := range [][]string{
			{"init", "-q"}, {"add", "."}, {"-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false", "commit", "-qm", "x"},
		} {
			if _, err := git(dir, args...); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(name string, commits int, want string) {
		t.Helper()
		n, changed, err := released(dir, os.DirFS(filepath.Join(dir, "schemas")))
		if err != nil || n != commits || (want == "") != (len(changed) == 0) || !strings.Contains(strings.Join(changed, "\n"), want) {
			t.Errorf("%s: %d commits, %q, %v", name, n, changed, err)
		}
	}
	write("avro/A/v1.avsc", a)
	ids(a)
	check("before the first commit", 0, "")
	commit()
	check("unchanged", 1, "")
	write("avro/B/v1.avsc", b)
	check("not in the lock", 1, "B is not in ids.lock yet")
	ids(a, b)
	check("grown", 1, "")
	commit()
	write("avro/A/v1.avsc", a+" ")
	check("file edited", 2, "changed since: write the change as version 2")
	ids(a+" ", b)
	check("file and hash edited", 2, "lost or changed a line")
	write("avro/A/v1.avsc", a)
	ids(a)
	if err := os.RemoveAll(filepath.Join(dir, "schemas/avro/B")); err != nil {
		t.Fatal(err)
	}
	check("taken back", 2, "lost or changed a line")
}

// Package lock reads and extends ids.lock, the append-only list that gives
// every released schema its number for ever.
package lock

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// File is the name of the list, beside the folder avro.
const File = "ids.lock"

// Entry is one line: a released version of a record's schema.
type Entry struct {
	ID      int // 1, 2, 3 … in the order of the lines
	Name    string
	Version int
	SHA256  string // of the schema file's bytes, in hex
}

// Key names a version of a record's schema.
type Key struct {
	Name    string
	Version int
}

// Path returns where the schema file of the key is.
func (k Key) Path() string { return fmt.Sprintf("avro/%s/v%d.avsc", k.Name, k.Version) }

// Sum returns the hash that the list keeps of a schema file.
func Sum(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Parse reads the list. Ids must count up from 1, and no version may appear
// twice.
func Parse(text string) ([]Entry, error) {
	var entries []Entry
	seen := map[Key]bool{}
	for n, line := range strings.Split(text, "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var e Entry
		if _, err := fmt.Sscanf(line, "%d %s %d %s", &e.ID, &e.Name, &e.Version, &e.SHA256); err != nil || format(e) != line {
			return nil, fmt.Errorf("%s line %d: want id, name, version and sha256", File, n+1)
		}
		key := Key{e.Name, e.Version}
		if e.ID != len(entries)+1 || seen[key] {
			return nil, fmt.Errorf("%s line %d: id %d of %s version %d: ids count up from 1 and no version appears twice", File, n+1, e.ID, e.Name, e.Version)
		}
		seen[key] = true
		entries = append(entries, e)
	}
	return entries, nil
}

func format(e Entry) string {
	return fmt.Sprintf("%d %s %d %s", e.ID, e.Name, e.Version, e.SHA256)
}

// Format writes the list.
func Format(entries []Entry) string {
	var b strings.Builder
	b.WriteString("# Registry id, name, version and SHA-256 of every released schema. Lines are only ever appended.\n")
	for _, e := range entries {
		b.WriteString(format(e) + "\n")
	}
	return b.String()
}

var file = regexp.MustCompile(`^avro/([A-Za-z]+)/v([1-9][0-9]*)\.avsc$`)

// Extend checks the list against the schema files and returns it with a new
// entry for each new file. It refuses a released file that changed or is gone,
// and a version whose predecessor does not exist.
func Extend(entries []Entry, files fs.FS) ([]Entry, error) {
	texts := map[Key][]byte{}
	err := fs.WalkDir(files, "avro", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		match := file.FindStringSubmatch(name)
		if match == nil {
			return fmt.Errorf("%s: a schema is called avro/Name/v1.avsc", name)
		}
		version, _ := strconv.Atoi(match[2])
		texts[Key{path.Base(path.Dir(name)), version}], err = fs.ReadFile(files, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		key := Key{e.Name, e.Version}
		text, ok := texts[key]
		switch {
		case !ok:
			return nil, fmt.Errorf("%s: released as id %d and gone: a released schema stays for ever", key.Path(), e.ID)
		case Sum(text) != e.SHA256:
			return nil, fmt.Errorf("%s: released as id %d and changed since: write the change as version %d", key.Path(), e.ID, e.Version+1)
		}
	}
	released := map[Key]bool{}
	for _, e := range entries {
		released[Key{e.Name, e.Version}] = true
	}
	var fresh []Key
	for key := range texts {
		if key.Version > 1 && texts[Key{key.Name, key.Version - 1}] == nil {
			return nil, fmt.Errorf("%s: version %d does not exist", key.Path(), key.Version-1)
		}
		if !released[key] {
			fresh = append(fresh, key)
		}
	}
	slices.SortFunc(fresh, func(a, b Key) int {
		if a.Name != b.Name {
			return strings.Compare(a.Name, b.Name)
		}
		return a.Version - b.Version
	})
	extended := slices.Clone(entries)
	for _, key := range fresh {
		extended = append(extended, Entry{ID: len(extended) + 1, Name: key.Name, Version: key.Version, SHA256: Sum(texts[key])})
	}
	return extended, nil
}

package embedded

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

// Schema is one version of one subject.
type Schema struct {
	ID      int    `json:"id"`
	Subject string `json:"subject"`
	Version int    `json:"version"`
	Schema  string `json:"schema"` // Avro, JSON
}

// RegistryConfig describes an embedded schema registry.
type RegistryConfig struct {
	// Dir keeps what clients register. Empty means memory only.
	Dir string
	// Port is the TCP port on 127.0.0.1; 0 takes a free one.
	Port int
	// Schemas are there from the start, under exactly these ids: the committed
	// catalogue. Two subjects may share one id if their schema is the same.
	Schemas []Schema
}

// FirstRuntimeID is the lowest id given to a schema that a client registers.
// Ids below belong to the committed catalogue, so that a schema added to it
// later never finds its id taken.
const FirstRuntimeID = 100_001

// Registry is a running schema registry that speaks Confluent's REST protocol.
// Unlike the fake it reads with, it parses every schema (422 for garbage) and
// refuses (409) what is not compatible with all earlier versions in both
// directions: FULL_TRANSITIVE, for every subject, and not to be switched off.
type Registry struct {
	read   *srfake.Registry
	server *http.Server
	url    string

	mu       sync.Mutex
	subjects map[string][]stored // in version order
	ids      map[string]int      // by normal form
	nextID   int
	file     *os.File // nil without a directory
}

type stored struct {
	Schema
	normal string
	parsed *avro.Schema
}

// StartRegistry starts a registry with the catalogue's schemas and those that
// clients registered in earlier runs on the same directory.
func StartRegistry(config RegistryConfig) (*Registry, error) {
	r := &Registry{
		read:     srfake.NewRegistry(srfake.WithGlobalCompat(sr.CompatFullTransitive)),
		subjects: make(map[string][]stored),
		ids:      make(map[string]int),
		nextID:   FirstRuntimeID,
	}
	for _, schema := range config.Schemas {
		if err := r.add(schema); err != nil {
			return nil, fmt.Errorf("catalogue: %w", err)
		}
	}
	if config.Dir != "" {
		if err := r.load(config.Dir); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(config.Port)))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("registry port %d: %w", config.Port, err), r.closeFile())
	}
	r.url = "http://" + listener.Addr().String()
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = r.server.Serve(listener) }() // ends with Close
	return r, nil
}

// URL returns the registry's base URL.
func (r *Registry) URL() string { return r.url }

// Close stops serving, at the latest when ctx ends.
func (r *Registry) Close(ctx context.Context) error {
	err := r.server.Shutdown(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(err, r.closeFile())
}

func (r *Registry) closeFile() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// Register adds a schema under the next version of subject, or finds it there.
// A schema that does not parse, or is incompatible, is refused with an error.
func (r *Registry) Register(subject, schema string) (id int, err error) {
	parsed, normal, err := parse(schema)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	versions := r.subjects[subject]
	for _, earlier := range versions {
		if earlier.normal == normal {
			return earlier.ID, nil
		}
	}
	if err := compatible(versions, parsed); err != nil {
		return 0, err
	}
	version := 1
	if len(versions) > 0 {
		version = versions[len(versions)-1].Version + 1
	}
	id, known := r.ids[normal]
	if !known {
		id = r.nextID
	}
	added := Schema{ID: id, Subject: subject, Version: version, Schema: schema}
	if err := r.save(added); err != nil {
		return 0, err
	}
	return id, r.addLocked(added, parsed, normal)
}

// IncompatibleError says which earlier version a schema does not fit.
type IncompatibleError struct {
	Subject string
	Version int
	Err     error
}

// Error tells the subject, its version, and what does not fit.
func (e *IncompatibleError) Error() string {
	return fmt.Sprintf("incompatible with %s version %d: %v", e.Subject, e.Version, e.Err)
}

// Unwrap returns what does not fit.
func (e *IncompatibleError) Unwrap() error { return e.Err }

func compatible(versions []stored, schema *avro.Schema) error {
	for _, earlier := range versions {
		err := errors.Join(
			prefixed("the new schema cannot read old data", avro.CheckCompatibility(earlier.parsed, schema)),
			prefixed("the old schema cannot read new data", avro.CheckCompatibility(schema, earlier.parsed)))
		if err != nil {
			return &IncompatibleError{Subject: earlier.Subject, Version: earlier.Version, Err: err}
		}
	}
	return nil
}

func prefixed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// errInvalid marks schemas that are none.
var errInvalid = errors.New("invalid Avro schema")

func parse(schema string) (*avro.Schema, string, error) {
	parsed, err := avro.Parse(schema)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", errInvalid, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(schema)); err != nil {
		return nil, "", fmt.Errorf("%w: %w", errInvalid, err)
	}
	return parsed, compact.String(), nil
}

func (r *Registry) add(schema Schema) error {
	parsed, normal, err := parse(schema.Schema)
	if err != nil {
		return fmt.Errorf("%s version %d: %w", schema.Subject, schema.Version, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addLocked(schema, parsed, normal)
}

func (r *Registry) addLocked(schema Schema, parsed *avro.Schema, normal string) error {
	raw := sr.Schema{Schema: schema.Schema, Type: sr.TypeAvro}
	versions := r.subjects[schema.Subject]
	if len(versions) > 0 && schema.Version <= versions[len(versions)-1].Version {
		return fmt.Errorf("%s version %d comes after version %d", schema.Subject, schema.Version, versions[len(versions)-1].Version)
	}
	if known, ok := r.ids[normal]; !ok {
		for _, other := range r.ids {
			if other == schema.ID {
				return fmt.Errorf("%s version %d: id %d belongs to another schema", schema.Subject, schema.Version, schema.ID)
			}
		}
		r.read.SeedSchema(schema.Subject, schema.Version, schema.ID, raw)
		r.ids[normal] = schema.ID
	} else if known != schema.ID {
		return fmt.Errorf("%s version %d: the same schema has id %d already, not %d", schema.Subject, schema.Version, known, schema.ID)
	} else if _, _, err := r.read.RegisterSchema(schema.Subject, raw); err != nil {
		return fmt.Errorf("%s version %d: %w", schema.Subject, schema.Version, err)
	}
	r.subjects[schema.Subject] = append(versions, stored{Schema: schema, normal: normal, parsed: parsed})
	r.nextID = max(r.nextID, schema.ID+1)
	return nil
}

// load reads the file of registered schemas, one JSON object a line, and keeps
// it open for more. An unfinished last line is what a kill leaves: nobody was
// told that it is there, so it is cut off.
func (r *Registry) load(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the registry's directory: %w", err)
	}
	path := filepath.Join(dir, "schemas.jsonl")
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the registered schemas: %w", err)
	}
	whole := content[:bytes.LastIndexByte(content, '\n')+1]
	lines := bufio.NewScanner(bytes.NewReader(whole))
	lines.Buffer(nil, maxBody*2)
	for lines.Scan() {
		var schema Schema
		if err := json.Unmarshal(lines.Bytes(), &schema); err != nil {
			return fmt.Errorf("read the registered schemas: %w", err)
		}
		if r.has(schema) {
			continue // the catalogue caught up with it
		}
		if err := r.add(schema); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the registered schemas: %w", err)
	}
	if r.file, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644); err != nil {
		return fmt.Errorf("open the registered schemas: %w", err)
	}
	if err := r.file.Truncate(int64(len(whole))); err != nil {
		return errors.Join(fmt.Errorf("cut the registered schemas: %w", err), r.closeFile())
	}
	if _, err := r.file.Seek(int64(len(whole)), 0); err != nil {
		return errors.Join(fmt.Errorf("open the registered schemas: %w", err), r.closeFile())
	}
	return nil
}

func (r *Registry) has(schema Schema) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, known := range r.subjects[schema.Subject] {
		if known.ID == schema.ID && known.Version == schema.Version {
			return true
		}
	}
	return false
}

func (r *Registry) save(schema Schema) error {
	if r.file == nil {
		return nil
	}
	line, err := json.Marshal(schema)
	if err != nil {
		return fmt.Errorf("save a schema: %w", err)
	}
	if _, err := r.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("save a schema: %w", err)
	}
	if err := r.file.Sync(); err != nil {
		return fmt.Errorf("save a schema: %w", err)
	}
	return nil
}

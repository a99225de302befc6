package avro

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/linkedin/goavro/v2"
	tavro "github.com/twmb/avro"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas"
)

// Unknown is the body of a fact that this program has no type for: it was
// released after the program was built, and the registry vouches for it. A view
// or process of this program cannot depend on it, so it folds nothing and
// advances its aggregate's version; code that reads it is another version of
// the view.
type Unknown struct {
	Name    string
	Version int
}

// FactName returns the name of the fact.
func (u *Unknown) FactName() string { return u.Name }

// learned is what a codec was told by a registry: schemas released after this
// program was built. Readers take the maps as they are; a lesson replaces them.
type learned struct {
	registry *Registry
	writers  atomic.Pointer[map[schemas.Key]*writer]

	mu     sync.Mutex
	absent map[string]time.Time // by subject and version: asked for in vain, and until when not again
}

const (
	// absentFor is how long a registry's no is believed.
	absentFor = 30 * time.Second
	// maxLearned bounds both what is learned and what is remembered as absent.
	maxLearned = 1024
)

// LearnFrom lets the codec ask a registry for schemas it does not have. Without
// it, or without a registry behind it, Learn does nothing. It must be called
// before the codec is used.
func (c *Codec) LearnFrom(registry *Registry) { c.learned.registry = registry }

// Learn makes sure that a schema is known, if the registry has it, so that an
// older program reads what a newer one writes: a later version of an event it
// knows is projected to its own type, and a fact of a new name becomes
// [*Unknown]. Source states the event: "order", "payment" or "shipment".
//
// An error means that the registry did not answer: try again later and park
// nothing. If it answers that there is no such schema, Learn returns nil and
// decoding says UnknownSchema.
func (c *Codec) Learn(ctx context.Context, source, name string, version int) error {
	key := schemas.Key{Name: name, Version: version}
	if c.learned.registry == nil || c.learned.registry.client == nil || c.writer(key) != nil || !c.plausible(source, key) {
		return nil
	}
	c.learned.mu.Lock()
	defer c.learned.mu.Unlock() // one question at a time, however many partitions ask
	subject, fullName := c.subject(source, name)
	question := subject + " version " + strconv.Itoa(version)
	if c.writer(key) != nil || time.Now().Before(c.learned.absent[question]) {
		return nil
	}
	id, text, err := c.learned.registry.schema(ctx, subject, version)
	if errors.Is(err, ErrNotRegistered) {
		if len(c.learned.absent) >= maxLearned {
			clear(c.learned.absent)
		}
		c.learned.absent[question] = time.Now().Add(absentFor)
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask the schema registry for %s: %w", key, err)
	}
	w, err := c.foreign(key, fullName, source, id, text)
	if err != nil {
		w = &writer{Schema: schemas.Schema{Key: key, ID: id, FullName: fullName, Source: source}, unusable: err}
	}
	writers := map[schemas.Key]*writer{}
	if known := *c.learned.writers.Load(); len(known) < maxLearned {
		writers = maps.Clone(known)
	}
	writers[key] = w
	c.learned.writers.Store(&writers)
	return nil
}

// LearnRecord is Learn for the schema that a record's headers name, be it a fact
// or a control record. It is cheap when the schema is known.
func (c *Codec) LearnRecord(ctx context.Context, headers []event.Header) error {
	if c.learned.registry == nil {
		return nil
	}
	source, schema := event.SchemaOf(headers)
	if c.names[string(schema)] || len(schema) > maxSchemaName {
		return nil
	}
	name, number, _ := strings.Cut(string(schema), "/")
	version, err := strconv.Atoi(number)
	if err != nil {
		return nil
	}
	return c.Learn(ctx, string(source), name, version)
}

// maxSchemaName bounds what is looked at as the name and version of a schema.
const maxSchemaName = 80

var eventName = regexp.MustCompile(`^[A-Z][A-Za-z]{0,63}$`)

// plausible spares the registry questions that can only be forged.
func (c *Codec) plausible(source string, key schemas.Key) bool {
	if !eventName.MatchString(key.Name) || key.Version < 1 || key.Version > 10_000 {
		return false
	}
	if known := c.latest[key.Name]; known != nil {
		return known.statedBy(source) || known.Source == schemas.SourceControl
	}
	return source == "order" || source == "payment" || source == "shipment"
}

// subject returns where the registry keeps the schemas of an event.
func (c *Codec) subject(source, name string) (subject, fullName string) {
	if known := c.latest[name]; known != nil {
		return known.Subjects()[0], known.FullName
	}
	fullName = "tidemark." + source + "." + name
	return "tidemark." + source + ".events-" + fullName, fullName
}

// foreign prepares a schema from a registry. It must be of the event it was
// asked for, of types whose bytes can be walked, and readable as today's
// version here, if there is one.
func (c *Codec) foreign(key schemas.Key, fullName, source string, id int, text string) (*writer, error) {
	parsed, err := tavro.Parse(text)
	if err != nil {
		return nil, err
	}
	root := parsed.Root().ExpandReferences()
	if got := root.Namespace + "." + root.Name; root.Type != "record" || got != fullName {
		return nil, fmt.Errorf("the registry's schema is of %.100s, not of %s", got, fullName)
	}
	w := &writer{Schema: schemas.Schema{Key: key, ID: id, FullName: fullName, Source: source, Text: text, Root: root}}
	if w.shape, err = shapeOf(root); err != nil {
		return nil, err
	}
	if w.goavro, err = goavro.NewCodec(text); err != nil {
		return nil, err
	}
	own := c.latest[key.Name]
	if own == nil {
		return w, nil
	}
	w.Source, w.project = own.Source, own
	reader, err := tavro.Parse(own.Text)
	if err != nil {
		return nil, err
	}
	if err := tavro.CheckCompatibility(parsed, reader); err != nil {
		return nil, fmt.Errorf("version %d cannot be read as version %d: %w", key.Version, own.Version, err)
	}
	return w, nil
}

// writer returns the schema of the key, if it came with the program or was
// learned.
func (c *Codec) writer(key schemas.Key) *writer {
	if w := c.byKey[key]; w != nil {
		return w
	}
	return (*c.learned.writers.Load())[key]
}

// newLearned returns the state of a codec that was taught nothing.
func newLearned() *learned {
	l := &learned{absent: map[string]time.Time{}}
	l.writers.Store(&map[schemas.Key]*writer{})
	return l
}

// schema asks for one version of a subject. ErrNotRegistered says that the
// registry has none; any other error, that it did not answer.
func (r *Registry) schema(ctx context.Context, subject string, version int) (id int, text string, err error) {
	found, err := r.client.SchemaByVersion(ctx, subject, version)
	if notFound(err) {
		return 0, "", fmt.Errorf("%w: %s version %d", ErrNotRegistered, subject, version)
	}
	if err != nil {
		return 0, "", err
	}
	return found.ID, strings.TrimSpace(found.Schema.Schema), nil
}

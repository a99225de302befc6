package avro

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/tidemark-dev/tidemark/schemas"
)

// Numbering says whose schema ids go into frames.
type Numbering string

const (
	// LockNumbering uses the ids of ids.lock everywhere. The registry must
	// agree; while it cannot be reached, work goes on without it. This is for
	// a registry of our own, which gets its schemas in the order of ids.lock.
	LockNumbering Numbering = "lock"
	// RegistryNumbering uses the ids that the registry gave. Nothing starts
	// before it has answered once, because a frame with another id would be
	// unreadable for ever. This is for a registry shared with others.
	RegistryNumbering Numbering = "registry"
)

// The delays between attempts to reach a registry, and how many attempts are
// made before LockNumbering goes on without it.
const (
	retryFirst      = 50 * time.Millisecond
	retryMost       = 2 * time.Second
	offlineAttempts = 4
	requestTimeout  = 5 * time.Second
)

var (
	// ErrNotRegistered reports schemas that the registry does not have.
	ErrNotRegistered = errors.New("not registered")
	// ErrOtherIDs reports that the registry's ids contradict ids.lock, or each
	// other.
	ErrOtherIDs = errors.New("registry has other ids")
)

// Registry is a client of a schema registry. It holds no schemas: what it
// learns is in the set that Resolve returns, so nothing asks the registry once
// a process has started, but for schemas that were released after it was built
// ([Codec.Learn]).
type Registry struct {
	client    *sr.Client // nil if there is no registry
	numbering Numbering
}

// NewRegistry returns a client of the registry at the URL, or at any of several
// URLs separated by commas. Without a URL only LockNumbering is possible.
func NewRegistry(urls string, numbering Numbering) (*Registry, error) {
	if numbering != LockNumbering && numbering != RegistryNumbering {
		return nil, fmt.Errorf("registry numbering %q: want %q or %q", numbering, LockNumbering, RegistryNumbering)
	}
	if urls == "" {
		if numbering == RegistryNumbering {
			return nil, fmt.Errorf("registry numbering %q needs the URL of a registry", numbering)
		}
		return &Registry{numbering: numbering}, nil
	}
	client, err := sr.NewClient(sr.URLs(strings.Split(urls, ",")...), sr.HTTPClient(&http.Client{Timeout: requestTimeout}))
	if err != nil {
		return nil, fmt.Errorf("schema registry: %w", err)
	}
	return &Registry{client: client, numbering: numbering}, nil
}

// Connect returns the codec of a process: the schemas that it was built with,
// under the ids of the registry at the URLs, from which it learns later ones.
// While no registry answers, the ids of ids.lock are used and logged.
func Connect(ctx context.Context, urls string, numbering Numbering, catalog *schemas.Set, log *slog.Logger) (*Codec, error) {
	registry, err := NewRegistry(urls, numbering)
	if err != nil {
		return nil, err
	}
	set, confirmed, err := registry.Resolve(ctx, catalog)
	if err != nil {
		return nil, err
	}
	if !confirmed {
		log.InfoContext(ctx, "schema registry not reached, using the ids of ids.lock")
	}
	codec, err := NewCodec(set)
	if err != nil {
		return nil, err
	}
	codec.LearnFrom(registry)
	return codec, nil
}

// Resolve looks up every schema of the set and returns the set under the ids
// to use. It registers nothing: a schema the registry does not have gives
// ErrNotRegistered, an id that contradicts ids.lock under LockNumbering gives
// ErrOtherIDs; both name the schemas.
//
// While the registry cannot be reached, RegistryNumbering tries until the
// context is done; LockNumbering tries a few times, then returns the set as it
// is with confirmed false.
func (r *Registry) Resolve(ctx context.Context, set *schemas.Set) (resolved *schemas.Set, confirmed bool, err error) {
	if r.client == nil {
		return set, false, nil
	}
	delay := retryFirst
	for attempt := 1; ; attempt++ {
		resolved, err = r.number(ctx, set, r.client.LookupSchema)
		if err == nil {
			return resolved, true, nil
		}
		if !unreachable(err) || ctx.Err() != nil {
			return nil, false, fmt.Errorf("resolve schemas: %w", err)
		}
		if r.numbering == LockNumbering && attempt == offlineAttempts {
			return set, false, nil
		}
		select {
		case <-ctx.Done():
			return nil, false, fmt.Errorf("resolve schemas: %w (last attempt: %w)", ctx.Err(), err)
		case <-time.After(delay):
			delay = min(2*delay, retryMost)
		}
	}
}

// Register gives the registry every schema of the set, in the order of
// ids.lock, under FULL_TRANSITIVE compatibility, and returns the set under the
// ids to use. Registering again changes nothing. Services never call it: it is
// for tools, for the embedded run and for tests.
func (r *Registry) Register(ctx context.Context, set *schemas.Set) (*schemas.Set, error) {
	if r.client == nil {
		return nil, errors.New("register schemas: no registry")
	}
	prepared := map[string]bool{}
	register := func(ctx context.Context, subject string, schema sr.Schema) (sr.SubjectSchema, error) {
		if !prepared[subject] {
			level := sr.SetCompatibility{Level: sr.CompatFullTransitive}
			for _, result := range r.client.SetCompatibility(ctx, level, subject) {
				if result.Err != nil {
					return sr.SubjectSchema{}, result.Err
				}
			}
			prepared[subject] = true
		}
		id, err := r.client.RegisterSchema(ctx, subject, schema, -1, -1)
		return sr.SubjectSchema{Subject: subject, ID: id}, err
	}
	registered, err := r.number(ctx, set, register)
	if err != nil {
		return nil, fmt.Errorf("register schemas: %w", err)
	}
	return registered, nil
}

// number asks for the id of every schema under every subject and returns the
// set under the ids to use.
func (r *Registry) number(ctx context.Context, set *schemas.Set, ask func(context.Context, string, sr.Schema) (sr.SubjectSchema, error)) (*schemas.Set, error) {
	ids := map[schemas.Key]int{}
	var missing, others []string
	for _, schema := range set.All() {
		for _, subject := range schema.Subjects() {
			answer, err := ask(ctx, subject, sr.Schema{Schema: schema.Text, Type: sr.TypeAvro})
			switch {
			case notFound(err):
				missing = append(missing, subject+" version "+fmt.Sprint(schema.Version))
				continue
			case err != nil:
				return nil, fmt.Errorf("subject %s: %w", subject, err)
			}
			want, known := ids[schema.Key]
			if r.numbering == LockNumbering {
				want, known = schema.ID, true
			}
			if known && want != answer.ID {
				others = append(others, fmt.Sprintf("%s has id %d, not %d", subject, answer.ID, want))
			}
			ids[schema.Key] = answer.ID
		}
	}
	switch {
	case len(missing) > 0:
		return nil, fmt.Errorf("%w: %s", ErrNotRegistered, strings.Join(missing, ", "))
	case len(others) > 0:
		return nil, fmt.Errorf("%w: %s", ErrOtherIDs, strings.Join(others, ", "))
	}
	return set.WithIDs(ids), nil
}

func notFound(err error) bool {
	var refused *sr.ResponseError
	return errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound
}

// unreachable tells a registry that did not answer, or is not well, from one
// that said no.
func unreachable(err error) bool {
	var refused *sr.ResponseError
	if errors.As(err, &refused) {
		return refused.StatusCode >= 500 || refused.StatusCode == http.StatusTooManyRequests
	}
	return !errors.Is(err, ErrNotRegistered) && !errors.Is(err, ErrOtherIDs)
}

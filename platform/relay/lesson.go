package relay

import (
	"context"
	"log/slog"
	"time"

	"github.com/tidemark-dev/tidemark/schemas"
)

// lessons are the schemas that the registry is being asked for: a newer service
// beside this relay wrote events in versions that the relay was built without.
type lessons map[schemas.Key]*lesson

type lesson struct {
	answer chan error
	again  time.Time // not before; zero while the answer is awaited
}

// learned reports whether all is known that can be known of a row's schema. It
// asks aside, so that an event whose registry does not answer holds up nobody
// but its own aggregate; when an answer comes, the unsent set is read again.
func (o *owner) learned(r *row) bool {
	key := schemas.Key{Name: r.Type, Version: r.SchemaVersion}
	l := o.lessons[key]
	if l != nil && l.again.IsZero() {
		select {
		case err := <-l.answer:
			if err == nil {
				delete(o.lessons, key)
				return true
			}
			o.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "events wait for their schema; the registry does not answer",
				slog.String("source", o.cfg.Source), slog.String("schema", key.String()), slog.Any("error", err))
			l.again = time.Now().Add(o.tuning.Poll)
		default:
		}
		return false
	}
	if l != nil && time.Now().Before(l.again) {
		return false
	}
	l = &lesson{answer: make(chan error, 1)}
	o.lessons[key] = l
	o.background(func(ctx context.Context) {
		l.answer <- o.cfg.Codec.Learn(ctx, o.cfg.Source, key.Name, key.Version)
		signal(o.hints.take)
	})
	return false
}

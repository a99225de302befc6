package lifecycle

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type recorder struct {
	mu    sync.Mutex
	names []string
}

func (r *recorder) add(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names = append(r.names, name)
}

func (r *recorder) part(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		r.add(name)
		return ctx.Err()
	}
}

func TestPartsStopInReverseOrder(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var stopped recorder
	err := Run(ctx, func(_ context.Context, g *Group) error {
		g.OnStop("pool", func(context.Context) error { stopped.add("pool"); return nil })
		g.Go("relay", stopped.part("relay"))
		g.Go("server", stopped.part("server"))
		cancel()
		return nil
	})
	if err != nil {
		t.Fatalf("Run() = %v, want nil after an asked-for stop", err)
	}
	if diff := cmp.Diff([]string{"server", "relay", "pool"}, stopped.names); diff != "" {
		t.Errorf("stop order (-want +got):\n%s", diff)
	}
}

func TestDeadPartStopsTheOthers(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name string
		dies func(context.Context) error
		want error
	}{
		{"with an error", func(context.Context) error { return boom }, boom},
		{"without an error", func(context.Context) error { return nil }, ErrStoppedByItself},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stopped recorder
			err := Run(t.Context(), func(ctx context.Context, g *Group) error {
				g.Go("server", stopped.part("server"))
				g.Go("relay", tt.dies)
				return nil
			})
			if !errors.Is(err, tt.want) {
				t.Errorf("Run() = %v, want %v", err, tt.want)
			}
			if n := strings.Count(err.Error(), tt.want.Error()); n != 1 {
				t.Errorf("Run() = %q names the cause %d times, want once", err, n)
			}
			if !slices.Equal(stopped.names, []string{"server"}) {
				t.Errorf("stopped = %v, want the server", stopped.names)
			}
		})
	}
}

func TestDeadPartEndsAWaitingSetup(t *testing.T) {
	boom := errors.New("boom")
	err := Run(t.Context(), func(ctx context.Context, g *Group) error {
		g.Go("relay", func(context.Context) error { return boom })
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, boom) {
		t.Errorf("Run() = %v, want %v", err, boom)
	}
}

func TestFailedSetupStopsWhatItStarted(t *testing.T) {
	boom := errors.New("no database")
	var stopped recorder
	err := Run(t.Context(), func(_ context.Context, g *Group) error {
		g.Go("broker", stopped.part("broker"))
		return boom
	})
	if !errors.Is(err, boom) || !slices.Equal(stopped.names, []string{"broker"}) {
		t.Errorf("Run() = %v, stopped %v; want %v and the broker", err, stopped.names, boom)
	}
}

func TestAPartThatDoesNotStopIsLeftBehind(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	var stopped recorder
	err := Run(ctx, func(_ context.Context, g *Group) error {
		g.timeout = 10 * time.Millisecond
		g.Go("first", stopped.part("first"))
		g.Go("stuck", func(context.Context) error { <-release; return nil })
		cancel()
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "stuck") {
		t.Errorf("Run() = %v, want an error naming the stuck part", err)
	}
	if !slices.Equal(stopped.names, []string{"first"}) {
		t.Errorf("stopped = %v, want the first part all the same", stopped.names)
	}
}

func TestDefaults(t *testing.T) {
	type config struct {
		Addr  string        `default:"127.0.0.1:0"`
		Wait  time.Duration `default:"1s"`
		Ready func(string)  `kong:"-"`
	}
	got, err := Defaults[config]()
	if err != nil {
		t.Fatal(err)
	}
	if got.Addr != "127.0.0.1:0" || got.Wait != time.Second {
		t.Errorf("Defaults() = %+v", got)
	}
}

// Package asked puts every query of a read model to the freshness contract: all
// demands, every choice on violation, limits, and etags. A read model's own
// tests say what its answers show; this says that no query forgot what it owes.
package asked

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/testkit/feed"
)

// Query is one query of a read model, that answers with something.
type Query struct {
	Method  string // in full, as in "/timeline.v1.TimelineService/GetOrderStatus"
	Request proto.Message
	// OneOrder says that the answer is about one order, and so has an etag.
	OneOrder bool
}

// World is a running read model that has copied something, before any of its
// sources has sent a control record.
type World struct {
	Conn grpc.ClientConnInterface
	Feed *feed.Feed
	// Sources the view copies, in its order.
	Sources []string
	// Seen is a token of a fact that was published.
	Seen *freshnessv1.Token
}

const ample = 30 * time.Second // the most that may be asked for; only a defect uses it up

// Test puts the queries to the contract. It fails if a service of theirs has a
// query with read options that is not among them.
func Test(t *testing.T, w World, queries []Query) {
	complete(t, queries)
	each := func(name string, check func(*asking)) {
		for _, q := range queries {
			title := string(q.Request.ProtoReflect().Descriptor().Name())
			if q.OneOrder {
				title += " of one order"
			}
			t.Run(name+"/"+title, func(t *testing.T) { check(&asking{t, w, q}) })
		}
	}
	last := len(w.Sources) - 1
	each("a write of the caller's", (*asking).writes)
	each("no source has spoken", func(a *asking) { a.isStale(w.Sources...) })
	for _, source := range w.Sources[:last] {
		w.Feed.Totals(source, time.Now())
	}
	each("one source has stopped", func(a *asking) {
		a.await(w.Sources[:last])
		a.isStale(w.Sources[last])
	})
	w.Feed.Totals(w.Sources[last], time.Now())
	each("every source has spoken", func(a *asking) { a.is(fresher(time.Hour, ample), met) })
	each("limits", (*asking).limits)
	each("etag", (*asking).etag)
}

// complete finds queries that were left out.
func complete(t *testing.T, queries []Query) {
	var methods []string
	services := map[protoreflect.FullName]bool{}
	for _, q := range queries {
		methods = append(methods, q.Method)
		service, _, _ := strings.Cut(strings.TrimPrefix(q.Method, "/"), "/")
		services[protoreflect.FullName(service)] = true
	}
	for name := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		all := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range all.Len() {
			m := all.Get(i)
			full := fmt.Sprintf("/%s/%s", name, m.Name())
			if m.Input().Fields().ByName("read") != nil && !slices.Contains(methods, full) {
				t.Errorf("%s is not put to the contract", full)
			}
		}
	}
}

// asking is one query that is asked.
type asking struct {
	*testing.T
	World
	Query
}

// ask returns the freshness of the answer, and whether the rest of it is empty.
func (a *asking) ask(read *freshnessv1.ReadOptions) (f *freshnessv1.Freshness, empty bool, err error) {
	request := proto.Clone(a.Request)
	if read != nil {
		request.ProtoReflect().Set(request.ProtoReflect().Descriptor().Fields().ByName("read"), protoreflect.ValueOfMessage(read.ProtoReflect()))
	}
	service, method, _ := strings.Cut(strings.TrimPrefix(a.Method, "/"), "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + method))
	if err != nil {
		return nil, false, err
	}
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.(protoreflect.MethodDescriptor).Output().FullName())
	if err != nil {
		return nil, false, err
	}
	ctx, cancel := context.WithTimeout(a.Context(), 2*ample)
	defer cancel()
	answer := typ.New()
	if err := a.Conn.Invoke(ctx, a.Method, request, answer.Interface()); err != nil {
		return nil, false, err
	}
	field := answer.Descriptor().Fields().ByName("freshness")
	f, ok := answer.Get(field).Message().Interface().(*freshnessv1.Freshness)
	if !ok {
		return nil, false, errors.New("the answer has no freshness")
	}
	answer.Clear(field)
	if len(f.GetSources()) != len(a.Sources) || f.GetGeneration() == "" {
		a.Errorf("freshness: %v", f)
	}
	return f, proto.Size(answer.Interface()) == 0, nil
}

func fresher(limit, budget time.Duration) *freshnessv1.ReadOptions {
	return &freshnessv1.ReadOptions{
		Consistency: &freshnessv1.ReadOptions_MaxStaleness{MaxStaleness: durationpb.New(limit)}, WaitBudget: durationpb.New(budget),
	}
}

func atLeast(budget time.Duration, tokens ...*freshnessv1.Token) *freshnessv1.ReadOptions {
	return &freshnessv1.ReadOptions{
		Consistency: &freshnessv1.ReadOptions_AtLeast{AtLeast: &freshnessv1.AtLeast{Tokens: tokens}}, WaitBudget: durationpb.New(budget),
	}
}

const (
	met   = true
	unmet = false
)

// is says that the query answers with something, and whether that meets the
// demand.
func (a *asking) is(read *freshnessv1.ReadOptions, want bool) {
	a.Helper()
	if f, empty, err := a.ask(read); err != nil || f.GetDemandMet() != want || empty {
		a.Errorf("asked %v: %v, nothing in it: %v; %v", read, f, empty, err)
	}
}

// fails says that the query fails, and that on request it answers with what
// there is.
func (a *asking) fails(read *freshnessv1.ReadOptions, reason, key, value string) {
	a.Helper()
	_, _, err := a.ask(read)
	var info *errdetails.ErrorInfo
	for _, d := range status.Convert(err).Details() {
		if d, ok := d.(*errdetails.ErrorInfo); ok {
			info = d
		}
	}
	if status.Code(err) != codes.DeadlineExceeded || info.GetReason() != reason || info.GetMetadata()[key] != value {
		a.Errorf("asked %v: %v, want %s with %s %s", read, err, reason, key, value)
	}
	read.OnViolation = freshnessv1.OnViolation_ON_VIOLATION_RETURN_STALE
	a.is(read, unmet)
}

// writes demands a fact that is there, one that is not, and one of a source that
// the view does not copy.
func (a *asking) writes() {
	next, foreign := proto.CloneOf(a.Seen), proto.CloneOf(a.Seen)
	next.Version, next.EventId, foreign.AggregateType = a.Seen.GetVersion()+1, uuid.NewString(), "invoice"
	a.is(atLeast(ample, a.Seen), met)
	a.is(atLeast(ample, a.Seen, foreign), met)
	a.is(nil, met)
	a.fails(atLeast(0, a.Seen, next), "NOT_YET_PROJECTED", "aggregates", next.GetAggregateType()+"/"+next.GetAggregateId())
}

// isStale says that exactly these sources are named as too stale.
func (a *asking) isStale(sources ...string) {
	a.Helper()
	a.fails(fresher(time.Hour, 0), "TOO_STALE", "stale_sources", strings.Join(sources, ","))
}

// await asks until the sources have an as_of.
func (a *asking) await(sources []string) {
	for {
		f, _, err := a.ask(nil)
		if err != nil {
			a.Fatal(err)
		}
		if !slices.ContainsFunc(f.GetSources(), func(s *freshnessv1.SourceFreshness) bool {
			return s.GetAsOf() == nil && slices.Contains(sources, s.GetSource())
		}) {
			return
		}
	}
}

// limits are refused with the name of the field.
func (a *asking) limits() {
	bad := proto.CloneOf(a.Seen)
	bad.Version = 0
	many := make([]*freshnessv1.Token, 51)
	for i := range many {
		many[i] = a.Seen
	}
	for name, c := range map[string]struct {
		read  *freshnessv1.ReadOptions
		field string
	}{
		"no staleness at all":  {fresher(0, 0), "read.max_staleness"},
		"negative staleness":   {fresher(-time.Second, 0), "read.max_staleness"},
		"more than a day":      {fresher(24*time.Hour+1, 0), "read.max_staleness"},
		"negative budget":      {fresher(time.Second, -1), "read.wait_budget"},
		"more than 30 seconds": {fresher(time.Second, 30*time.Second+1), "read.wait_budget"},
		"no token":             {atLeast(0), "read.at_least.tokens"},
		"51 tokens":            {atLeast(0, many...), "read.at_least.tokens"},
		"version 0":            {atLeast(0, bad), "read.at_least.tokens[0].version"},
		"a long etag":          {&freshnessv1.ReadOptions{IfNoneMatch: strings.Repeat("x", 65)}, "read.if_none_match"},
		"an unknown choice":    {&freshnessv1.ReadOptions{OnViolation: 9}, "read.on_violation"},
	} {
		_, _, err := a.ask(c.read)
		field := ""
		for _, d := range status.Convert(err).Details() {
			if d, ok := d.(*errdetails.BadRequest); ok {
				field = d.GetFieldViolations()[0].GetField()
			}
		}
		if status.Code(err) != codes.InvalidArgument || field != c.field {
			a.Errorf("%s: %v names %q, want %q", name, err, field, c.field)
		}
	}
}

// etag asks again with what it has.
func (a *asking) etag() {
	first, empty, err := a.ask(nil)
	if err != nil || empty || first.GetNotModified() || (first.GetEtag() != "") != a.OneOrder {
		a.Fatalf("%v, nothing in it: %v; %v", first, empty, err)
	}
	again, empty, err := a.ask(&freshnessv1.ReadOptions{IfNoneMatch: first.GetEtag()})
	if err != nil || again.GetEtag() != first.GetEtag() || again.GetNotModified() != a.OneOrder || empty != a.OneOrder {
		a.Errorf("with the etag: %v, nothing in it: %v; %v", again, empty, err)
	}
	other, empty, err := a.ask(&freshnessv1.ReadOptions{IfNoneMatch: "another"})
	if err != nil || other.GetNotModified() || empty {
		a.Errorf("with another etag: %v, nothing in it: %v; %v", other, empty, err)
	}
}

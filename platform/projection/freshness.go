package projection

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"

	"github.com/tidemark-dev/tidemark/platform/projection/completeness"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// maxBlocked is how many aggregates a source names that it holds back. With
// more, nobody can tell which answers are whole.
const maxBlocked = 32

// freshness writes what every answer says of itself.
func (p *Projection[S]) freshness(from *reading, got found, q *question) *freshnessv1.Freshness {
	f := &freshnessv1.Freshness{Generation: from.generation.String()}
	partitions := 1
	if q.order == "" {
		partitions = int(p.cfg.Kafka.PartitionCount())
	}
	now, seen := time.Now(), p.answering().seen
	for _, source := range p.view.Sources {
		s := &freshnessv1.SourceFreshness{Source: source}
		var all []completeness.Book
		var asOf time.Time
		var staleness time.Duration
		for m := range got.known.of(q.partition, source) {
			if len(all) == 0 || m.asOf.Before(asOf) {
				asOf = m.asOf
			}
			all = append(all, m.book)
			staleness = max(staleness, now.Sub(m.asOf), seen.note(m.partition, source, m.epoch, m.asOf))
			s.Epoch = max(s.Epoch, m.epoch)
		}
		if len(all) == partitions { // a partition without a mark is fully behind
			s.AsOf = timestamppb.New(asOf)
			s.Staleness = durationpb.New(staleness + p.cfg.ClockSkew)
		}
		prove(s, all, partitions, now.Add(p.cfg.ClockSkew))
		f.Sources = append(f.Sources, s)
	}
	f.Skipped = got.known.skipped(q.partition).all
	if q.order != "" {
		entity(f, got.entity, q.order)
		f.Skipped = 0
		for _, v := range f.GetEntityVersions() {
			f.Skipped += v.GetSkipped()
		}
		var passed *time.Time
		if q.passed != nil {
			passed = *q.passed
		}
		f.Etag = etag(f, got.entity, passed)
	}
	return f
}

// etag names what an answer about one order shows. The fingerprints of event ids
// are part of it, because a refold may put another event in a version's place.
func etag(f *freshnessv1.Freshness, doc *fold.Versions, passed *time.Time) string {
	text := make([]byte, 0, 512)
	word := func(s string) { text = append(append(text, s...), 0) }
	number := func(n int64) { text = append(strconv.AppendInt(text, n, 10), 0) }
	word(f.GetGeneration())
	number(int64(f.GetEntityStatus()))
	for _, v := range f.GetEntityVersions() {
		record := doc.Aggregates[v.GetAggregateType()+"/"+v.GetAggregateId()]
		word(v.GetAggregateType())
		word(v.GetAggregateId())
		word(v.GetEpoch())
		number(v.GetVersion())
		number(int64(v.GetStatus()))
		number(v.GetSkipped())
		text = append(hex.AppendEncode(text, record.Recent), 0)
	}
	if passed != nil {
		number(passed.UnixMicro())
	}
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// prove says what the books of the partitions behind an answer amount to: no
// more than the worst of them.
func prove(s *freshnessv1.SourceFreshness, all []completeness.Book, partitions int, now time.Time) {
	s.Completeness, s.CompletenessReason = freshnessv1.Completeness_COMPLETENESS_PROVEN, ""
	worse := func(c freshnessv1.Completeness, reason string) {
		if c > s.GetCompleteness() {
			s.Completeness, s.CompletenessReason = c, reason
		}
	}
	if len(all) < partitions {
		worse(freshnessv1.Completeness_COMPLETENESS_UNPROVEN, "not every partition was compared yet")
	}
	var until time.Time
	for i, b := range all {
		if i == 0 || b.Until.Before(until) {
			until = b.Until
		}
		switch b.State {
		case completeness.Violated:
			worse(freshnessv1.Completeness_COMPLETENESS_VIOLATED, b.Reason)
		case completeness.Proven:
		default:
			worse(freshnessv1.Completeness_COMPLETENESS_UNPROVEN, b.Reason)
		}
		s.BlockedCount += b.Names
		if room := maxBlocked - len(s.GetBlocked()); room > 0 {
			s.Blocked = append(s.Blocked, b.Blocked[:min(room, len(b.Blocked))]...)
		}
	}
	if len(all) == partitions && !until.IsZero() {
		s.ProvenUntil = timestamppb.New(until)
	}
	if s.GetBlockedCount() > maxBlocked {
		worse(freshnessv1.Completeness_COMPLETENESS_UNPROVEN, "the source holds back more aggregates than it can name")
	}
	if s.GetAsOf() != nil && s.GetAsOf().AsTime().After(now) {
		worse(freshnessv1.Completeness_COMPLETENESS_UNPROVEN, "as_of is in the future")
	}
}

// entity adds how the answered order stands.
func entity(f *freshnessv1.Freshness, doc *fold.Versions, order string) {
	held := map[string]bool{}
	for _, source := range f.GetSources() {
		for _, name := range source.GetBlocked() {
			held[name] = true
			if _, id, _ := strings.Cut(name, "/"); id == order {
				f.EntityStatus = freshnessv1.EntityStatus_ENTITY_STATUS_QUARANTINED
			}
		}
	}
	if doc == nil {
		return
	}
	f.EntityStatus = max(f.EntityStatus, freshnessv1.EntityStatus_ENTITY_STATUS_CURRENT)
	for key, record := range doc.Aggregates {
		typ, id, _ := strings.Cut(key, "/")
		status := freshnessv1.EntityStatus_ENTITY_STATUS_CURRENT
		switch {
		case record.Parked == fold.Gap || record.Parked == fold.NewerEpoch:
			status = freshnessv1.EntityStatus_ENTITY_STATUS_WAITING_FOR_GAP
		case record.Parked != "" || doc.Blocked != "" || held[key]:
			status = freshnessv1.EntityStatus_ENTITY_STATUS_QUARANTINED
		}
		f.EntityStatus = max(f.EntityStatus, status)
		f.EntityVersions = append(f.EntityVersions, &freshnessv1.EntityVersion{
			AggregateType: typ, AggregateId: id, Version: record.Version, Epoch: record.Epoch, Status: status, Skipped: record.Skipped,
		})
	}
	slices.SortFunc(f.EntityVersions, func(a, b *freshnessv1.EntityVersion) int {
		return strings.Compare(a.GetAggregateType()+"/"+a.GetAggregateId(), b.GetAggregateType()+"/"+b.GetAggregateId())
	})
}

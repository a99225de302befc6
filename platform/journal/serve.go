package journal

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/platform/rpc"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
)

const (
	defaultPage = 500
	maxPage     = 1000
	// maxPageBytes keeps a page well below the largest message.
	maxPageBytes = rpc.MaxMessageBytes * 3 / 4
)

// Server serves a journal to those who heal or rebuild copies of it.
type Server struct {
	journalpb.UnimplementedJournalServiceServer
	journal *Journal
	pager   *rpc.Pager
}

// NewServer returns the JournalService of one journal.
func NewServer(j *Journal, pager *rpc.Pager) *Server { return &Server{journal: j, pager: pager} }

const eventColumns = `event_id::text, name, schema_version, aggregate_type, aggregate_id, version, epoch, key, partition,
	sequence, occurred_at, recorded_at, causation_id, correlation_id, traceparent, tracestate, payload`

// GetEvents returns the events of one aggregate, by version.
func (s *Server) GetEvents(ctx context.Context, r *journalpb.GetEventsRequest) (*journalpb.GetEventsResponse, error) {
	limit := pageSize(r.GetPageSize())
	events, err := s.query(ctx, `SELECT `+eventColumns+` FROM journal
		WHERE aggregate_type = $1 AND aggregate_id = $2 AND version >= $3 AND ($4::bigint = 0 OR version <= $4)
		ORDER BY version LIMIT $5`, r.GetAggregateType(), r.GetAggregateId(), r.GetFromVersion(), r.GetToVersion(), limit+1)
	if err != nil {
		return nil, err
	}
	events, next := page(events, limit)
	return &journalpb.GetEventsResponse{Events: events, NextVersion: next.GetVersion()}, nil
}

// ListEvents returns the events of one partition, by sequence. An event that is
// committed late may carry a lower sequence than one that was listed before.
func (s *Server) ListEvents(ctx context.Context, r *journalpb.ListEventsRequest) (*journalpb.ListEventsResponse, error) {
	limit := pageSize(r.GetPageSize())
	events, err := s.query(ctx, `SELECT `+eventColumns+` FROM journal
		WHERE partition = $1 AND sequence >= $2 AND ($3::bigint = 0 OR sequence <= $3)
		ORDER BY sequence LIMIT $4`, r.GetPartition(), r.GetFromSequence(), r.GetToSequence(), limit+1)
	if err != nil {
		return nil, err
	}
	events, next := page(events, limit)
	return &journalpb.ListEventsResponse{Events: events, NextSequence: next.GetSequence()}, nil
}

type headPosition struct{ Type, ID string }

// ListHeads returns the last event of every aggregate of one partition. It
// walks the whole journal once, so it is for the rare moments when a copy
// doubts everything.
func (s *Server) ListHeads(ctx context.Context, r *journalpb.ListHeadsRequest) (*journalpb.ListHeadsResponse, error) {
	heads, next, err := rpc.Page(s.pager, r, rpc.List[*journalpb.Head, headPosition]{
		Default: defaultPage,
		Read: func(behind headPosition, limit int) ([]*journalpb.Head, error) {
			rows, err := s.journal.pool.Query(ctx, `
				SELECT DISTINCT ON (aggregate_type, aggregate_id) aggregate_type, aggregate_id, epoch, version, event_id::text
				  FROM journal WHERE partition = $1 AND (aggregate_type, aggregate_id) > ($2, $3)
				 ORDER BY aggregate_type, aggregate_id, version DESC LIMIT $4`, r.GetPartition(), behind.Type, behind.ID, limit)
			if err != nil {
				return nil, err
			}
			return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*journalpb.Head, error) {
				h := &journalpb.Head{}
				err := row.Scan(&h.AggregateType, &h.AggregateId, &h.Epoch, &h.Version, &h.EventId)
				return h, err
			})
		},
		Place: func(h *journalpb.Head) headPosition { return headPosition{h.GetAggregateType(), h.GetAggregateId()} },
	})
	if err != nil {
		return nil, Explain(fmt.Errorf("list heads: %w", err))
	}
	return &journalpb.ListHeadsResponse{Heads: heads, NextPageToken: next}, nil
}

func (s *Server) query(ctx context.Context, sql string, args ...any) ([]*journalpb.JournalEvent, error) {
	rows, err := s.journal.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, Explain(fmt.Errorf("read the journal: %w", err))
	}
	defer rows.Close()
	var events []*journalpb.JournalEvent
	for size := 0; size < maxPageBytes && rows.Next(); {
		e := &journalpb.JournalEvent{Source: s.journal.cfg.Source}
		var occurred, recorded time.Time
		err := rows.Scan(&e.Id, &e.Type, &e.SchemaVersion, &e.AggregateType, &e.AggregateId, &e.Version, &e.Epoch, &e.Key, &e.Partition,
			&e.Sequence, &occurred, &recorded, &e.CausationId, &e.CorrelationId, &e.Traceparent, &e.Tracestate, &e.Payload)
		if err != nil {
			return nil, Explain(fmt.Errorf("read the journal: %w", err))
		}
		e.OccurredAt, e.RecordedAt = timestamppb.New(occurred), timestamppb.New(recorded)
		events = append(events, e)
		size += len(e.Payload) + 512
	}
	if err := rows.Err(); err != nil {
		return nil, Explain(fmt.Errorf("read the journal: %w", err))
	}
	return events, nil
}

// page cuts what query returned to the asked size. Query stops early when a
// message would grow too large, and then its last event is the next page's first.
func page(events []*journalpb.JournalEvent, limit int) (these []*journalpb.JournalEvent, next *journalpb.JournalEvent) {
	size := 0
	for i, e := range events {
		if size += len(e.GetPayload()) + 512; i == limit || i > 0 && size >= maxPageBytes {
			return events[:i], e
		}
	}
	return events, nil
}

func pageSize(asked int32) int {
	if asked <= 0 {
		return defaultPage
	}
	return min(int(asked), maxPage)
}

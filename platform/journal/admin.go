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

// Admin serves a journal to its operators.
type Admin struct {
	journalpb.UnimplementedJournalAdminServiceServer
	journal *Journal
	pager   *rpc.Pager
}

// NewAdmin returns the JournalAdminService of one journal.
func NewAdmin(j *Journal, pager *rpc.Pager) *Admin { return &Admin{journal: j, pager: pager} }

// GetSource returns the state of the source.
func (a *Admin) GetSource(ctx context.Context, _ *journalpb.GetSourceRequest) (*journalpb.GetSourceResponse, error) {
	r := &journalpb.GetSourceResponse{Source: a.journal.cfg.Source, State: journalpb.SourceState_SOURCE_STATE_RUNNING}
	var minted time.Time
	var oldest *time.Time
	err := a.journal.pool.QueryRow(ctx, `
		SELECT e.epoch, e.predecessor, e.minted_at, coalesce(e.system_identifier || '/' || e.timeline, ''), `+systemIdentifier+` || '/' || `+timeline+`,
		       (SELECT count(*) FROM outbox),
		       (SELECT recorded_at FROM journal WHERE sequence = (SELECT min(sequence) FROM outbox)),
		       (SELECT count(DISTINCT (aggregate_type, aggregate_id)) FROM blocked), coalesce((SELECT min(topic_id) FROM source_topic), '')
		  FROM source_epoch e ORDER BY ordinal DESC LIMIT 1`).
		Scan(&r.Epoch, &r.Predecessor, &minted, &r.MintedIdentity, &r.Identity, &r.Unsent, &oldest, &r.Blocked, &r.TopicId)
	if err != nil {
		return nil, Explain(fmt.Errorf("read the source: %w", err))
	}
	r.MintedAt = timestamppb.New(minted)
	if oldest != nil {
		r.OldestUnsent = timestamppb.New(*oldest)
	}
	var stopped []struct {
		State, Reason string
		At            time.Time
	}
	rows, err := a.journal.pool.Query(ctx, `SELECT state, reason, stopped_at AS at FROM source_stop`)
	if err == nil {
		stopped, err = pgx.AppendRows(stopped, rows, pgx.RowToStructByName[struct {
			State, Reason string
			At            time.Time
		}])
	}
	if err != nil {
		return nil, Explain(fmt.Errorf("read whether the source is stopped: %w", err))
	}
	for _, s := range stopped {
		r.State, r.Reason, r.StoppedAt = journalpb.SourceState_SOURCE_STATE_STOPPED_WENT_BACK, s.Reason, timestamppb.New(s.At)
		if s.State == TopicReplaced {
			r.State = journalpb.SourceState_SOURCE_STATE_STOPPED_TOPIC_REPLACED
		}
	}
	rows, err = a.journal.pool.Query(ctx, `
		SELECT s.partition, CASE WHEN s.expires_at > clock_timestamp() THEN s.holder ELSE '' END, s.term, coalesce(t.count, 0), coalesce(t.number, 0)
		  FROM relay_shard s LEFT JOIN control_totals t ON t.partition = s.partition AND t.epoch = $1 ORDER BY s.partition`, r.GetEpoch())
	if err == nil {
		r.Shards, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*journalpb.Shard, error) {
			s := &journalpb.Shard{}
			return s, row.Scan(&s.Partition, &s.Holder, &s.Term, &s.Count, &s.Number)
		})
	}
	if err != nil {
		return nil, Explain(fmt.Errorf("read the partitions: %w", err))
	}
	return r, nil
}

// NewEpoch begins a new epoch.
func (a *Admin) NewEpoch(ctx context.Context, r *journalpb.NewEpochRequest) (*journalpb.NewEpochResponse, error) {
	m, err := a.journal.newEpoch(ctx, order{reason: r.GetReason(), actor: r.GetActor(), dryRun: r.GetDryRun()}, r.GetForce())
	if err != nil {
		return nil, err
	}
	response := &journalpb.NewEpochResponse{Epoch: m.epoch, Predecessor: m.predecessor, Restamped: m.events}
	if r.GetDryRun() {
		response.Epoch = ""
	}
	return response, nil
}

// Republish sends every event of the journal again.
func (a *Admin) Republish(ctx context.Context, r *journalpb.RepublishRequest) (*journalpb.RepublishResponse, error) {
	m, err := a.journal.republish(ctx, order{reason: r.GetReason(), actor: r.GetActor(), dryRun: r.GetDryRun()})
	if err != nil {
		return nil, err
	}
	response := &journalpb.RepublishResponse{Epoch: m.epoch, Predecessor: m.predecessor, Events: m.events}
	if r.GetDryRun() {
		response.Epoch = ""
	}
	return response, nil
}

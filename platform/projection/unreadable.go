package projection

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"

	"github.com/tidemark-dev/tidemark/platform/rpc"
)

const selectUnreadable = `SELECT topic, topic_id, partition, record_offset, reason, code_version, parked_at FROM parked
	WHERE aggregate_type = '' AND aggregate_id = '' AND (topic, topic_id, partition, record_offset) > ($1, $2, $3, $4)
	ORDER BY topic, topic_id, partition, record_offset LIMIT $5`

// recordPlace is where a page of records ended.
type recordPlace struct {
	Topic, ID string
	Partition int32
	Offset    int64
}

// ListUnreadable implements readmodel.v1.QuarantineService.
func (s *quarantineServer[S]) ListUnreadable(ctx context.Context, r *readmodelv1.ListUnreadableRequest) (*readmodelv1.ListUnreadableResponse, error) {
	p := s.p.answering()
	page, next, err := rpc.Page(p.pager, r, rpc.List[*readmodelv1.UnreadableRecord, recordPlace]{
		Bound: p.own.String(),
		Read: func(behind recordPlace, limit int) ([]*readmodelv1.UnreadableRecord, error) {
			rows, err := p.pool.Query(ctx, selectUnreadable, behind.Topic, behind.ID, behind.Partition, behind.Offset, limit)
			if err != nil {
				return nil, fmt.Errorf("list unreadable records: %w", err)
			}
			return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*readmodelv1.UnreadableRecord, error) {
				u, at := &readmodelv1.UnreadableRecord{}, time.Time{}
				err := row.Scan(&u.Topic, &u.TopicId, &u.Partition, &u.Offset, &u.Reason, &u.CodeVersion, &at)
				u.ParkedAt = timestamppb.New(at)
				return u, err
			})
		},
		Place: func(u *readmodelv1.UnreadableRecord) recordPlace {
			return recordPlace{u.GetTopic(), u.GetTopicId(), u.GetPartition(), u.GetOffset()}
		},
	})
	if err != nil {
		return nil, err
	}
	return &readmodelv1.ListUnreadableResponse{Records: page, NextPageToken: next}, nil
}

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
	binding := append(rpc.Binding(r, "page_size", "page_token"), p.own.String()...)
	behind, size := recordPlace{}, int(r.GetPageSize())
	if r.GetPageToken() != "" {
		if err := p.pager.Position(binding, r.GetPageToken(), &behind); err != nil {
			return nil, err
		}
	}
	if size == 0 {
		size = defaultListed
	}
	rows, err := p.pool.Query(ctx, selectUnreadable, behind.Topic, behind.ID, behind.Partition, behind.Offset, size+1)
	if err != nil {
		return nil, fmt.Errorf("list unreadable records: %w", err)
	}
	page, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*readmodelv1.UnreadableRecord, error) {
		u, at := &readmodelv1.UnreadableRecord{}, time.Time{}
		err := row.Scan(&u.Topic, &u.TopicId, &u.Partition, &u.Offset, &u.Reason, &u.CodeVersion, &at)
		u.ParkedAt = timestamppb.New(at)
		return u, err
	})
	if err != nil {
		return nil, fmt.Errorf("list unreadable records: %w", err)
	}
	answer := &readmodelv1.ListUnreadableResponse{Records: page}
	if len(page) > size {
		answer.Records = page[:size]
		last := page[size-1]
		if answer.NextPageToken, err = p.pager.Token(binding, recordPlace{last.GetTopic(), last.GetTopicId(), last.GetPartition(), last.GetOffset()}); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

package journal

import "context"

// ShrinkOutbox is the housekeeping of the outbox, with a limit of the test's choice.
func (j *Journal) ShrinkOutbox(ctx context.Context, limit int64) error {
	return j.shrinkOutbox(ctx, limit)
}

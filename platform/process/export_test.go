package process

import "context"

// Fire fires timers as a scheduler does that saw them due a moment ago.
func (m *Manager[S]) Fire(ctx context.Context, instance, name string) error {
	return m.fire(ctx, []dueTimer{{instance, name}})
}

package process

import "context"

// Fire fires timers as a scheduler does that saw them due a moment ago.
func (m *Manager[S]) Fire(ctx context.Context, instance, name string) error {
	return m.fire(ctx, []dueTimer{{instance, name}})
}

// ForgetEnded tells participants once.
func (m *Manager[S]) ForgetEnded(ctx context.Context) (more bool, err error) {
	return m.forgetEnded(ctx)
}

// RenewClaims is what keeps claims from lapsing.
const RenewClaims = renewClaims

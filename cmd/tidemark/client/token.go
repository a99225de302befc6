package client

import (
	"fmt"
	"strconv"
	"strings"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
)

// FormatToken writes a consistency token as one word that a shell leaves alone:
// type/id/version/epoch/event-id. A nil token is "".
func FormatToken(t *freshnessv1.Token) string {
	if t == nil {
		return ""
	}
	return strings.Join([]string{
		t.GetAggregateType(), t.GetAggregateId(), strconv.FormatInt(t.GetVersion(), 10), t.GetEpoch(), t.GetEventId(),
	}, "/")
}

// ParseToken reads what FormatToken writes.
func ParseToken(text string) (*freshnessv1.Token, error) {
	parts := strings.Split(text, "/")
	if len(parts) != 5 {
		return nil, fmt.Errorf("token %q: want type/id/version/epoch/event-id, as a command prints it", text)
	}
	for _, p := range parts {
		if p == "" {
			return nil, fmt.Errorf("token %q: a part is empty", text)
		}
	}
	version, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || version < 1 {
		return nil, fmt.Errorf("token %q: version %q is not a positive number", text, parts[2])
	}
	return &freshnessv1.Token{
		AggregateType: parts[0], AggregateId: parts[1], Version: version, Epoch: parts[3], EventId: parts[4],
	}, nil
}

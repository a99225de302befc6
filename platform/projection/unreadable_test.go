package projection_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"

	"github.com/tidemark-dev/tidemark/platform/kafka"
)

// Records that name no fact are listed one page after another, each once, by
// their place in the log.
func TestUnreadableRecordsAreListed(t *testing.T) {
	w := newWard(t)
	l := w.from.l
	topic := kafka.EventsTopic("order")
	w.handle(append(w.from.send(about("o", 1, 1)...), l.put(topic, nil, []byte("o"), []byte("not ours")))...)
	w.handle(append(w.from.send(about("o", 2, 2)...), l.put(topic, nil, nil, nil), l.put(topic, nil, []byte("p"), []byte("nor this")))...)
	w.handle(w.from.send(broken("q")...)...) // parks, and is no unreadable record

	var offsets []int64
	request := &readmodelv1.ListUnreadableRequest{PageSize: 2}
	for first := true; first || request.PageToken != ""; first = false {
		page, err := w.ListUnreadable(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range page.GetRecords() {
			if u.GetTopic() != topic || u.GetTopicId() == "" || u.GetReason() == "" || u.GetCodeVersion() != 1 || !u.GetParkedAt().IsValid() {
				t.Errorf("a record is shown as %v", u)
			}
			offsets = append(offsets, u.GetOffset())
		}
		request.PageToken = page.GetNextPageToken()
	}
	if len(offsets) != 3 || offsets[0] != 1 || offsets[1] != 3 || offsets[2] != 4 {
		t.Errorf("listed are the offsets %v, want 1, 3 and 4", offsets)
	}
	if _, err := w.ListUnreadable(t.Context(), &readmodelv1.ListUnreadableRequest{PageSize: 2, PageToken: "made up"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("with a token that was made up: %v", err)
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// errEndedOtherwise says that an operation that was waited for did not succeed.
var errEndedOtherwise = errors.New("the operation did not do what it was to do; see above")

// wait shows an operation until it ends. The operation does not need anybody to
// wait: Ctrl-C leaves it running, and a server that restarts is waited for.
func (v viewFlag) wait(a *app, o *readmodelv1.Operation) error {
	show, finish := shower(a.err)
	defer finish()
	for {
		err := v.follow(a, &o, show)
		if o.GetFinishedAt() != nil {
			break
		}
		if a.ctx.Err() != nil {
			finish()
			fmt.Fprintf(a.err, "left; operation %s goes on without you:\n  tidemark view operations %s --view %s --wait\n  tidemark view pause|cancel %s --view %s\n",
				o.GetId(), o.GetId(), v.View, o.GetId(), v.View)
			return nil
		}
		if code := status.Code(err); err != nil && code != codes.Unavailable && code != codes.DeadlineExceeded {
			return err
		}
		select { // the server restarts
		case <-a.ctx.Done():
		case <-time.After(time.Second):
		}
	}
	finish()
	if err := a.operation(o); err != nil {
		return err
	}
	if o.GetState() != readmodelv1.OperationState_OPERATION_STATE_SUCCEEDED {
		return errEndedOtherwise
	}
	return nil
}

func (v viewFlag) follow(a *app, o **readmodelv1.Operation, show func(*readmodelv1.Operation)) error {
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	stream, err := v.operators(a).WatchOperation(ctx, &readmodelv1.WatchOperationRequest{Id: (*o).GetId()})
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		*o = r.GetOperation()
		show(*o)
	}
}

// shower shows progress: a bar on a terminal, else a line now and then.
func shower(w io.Writer) (show func(*readmodelv1.Operation), finish func()) {
	if file, ok := w.(*os.File); ok {
		if info, err := file.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return showBar(w)
		}
	}
	var last time.Time
	return func(o *readmodelv1.Operation) {
		if time.Since(last) > 2*time.Second || o.GetFinishedAt() != nil {
			last = time.Now()
			fmt.Fprintf(w, "%s: %s\n", word(o.GetKind(), "OPERATION_KIND_"), far(o))
		}
	}, func() {}
}

func showBar(w io.Writer) (show func(*readmodelv1.Operation), finish func()) {
	bars := mpb.New(mpb.WithOutput(w), mpb.WithWidth(40))
	text, ended := "", false
	b := bars.AddBar(0, mpb.AppendDecorators(decor.Percentage(), decor.Any(func(decor.Statistics) string { return " " + text })))
	return func(o *readmodelv1.Operation) {
			text = clean(far(o))
			b.SetTotal(max(o.GetTotal(), 1), false)
			b.SetCurrent(o.GetDone())
		}, func() {
			if !ended {
				ended = true
				b.Abort(false)
				bars.Wait()
			}
		}
}

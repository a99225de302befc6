package session_test

import (
	"context"
	"net/http"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
	timelinev1 "github.com/tidemark-dev/tidemark/proto/timeline/v1"

	"github.com/tidemark-dev/tidemark/platform/session"
)

func dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(session.UnaryClientInterceptor),
		grpc.WithChainStreamInterceptor(session.StreamClientInterceptor))
}

func cancelAndShow(ctx context.Context, orders orderv1.OrderServiceClient, timeline timelinev1.TimelineServiceClient, id string) (string, error) {
	ctx = session.NewContext(ctx, &session.Session{}) // one for each user, not for each call
	_, err := orders.CancelOrder(ctx, &orderv1.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: id})
	if err != nil {
		return "", err
	}
	status, err := timeline.GetOrderStatus(ctx, &timelinev1.GetOrderStatusRequest{OrderId: id})
	return status.GetOrder().GetHeadline(), err // says that it is cancelled
}

const cookie = "tidemark_session"

// remember gives every request of a browser its session.
func remember(pages http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &session.Session{}
		if c, err := r.Cookie(cookie); err == nil {
			if known, err := session.Parse(c.Value); err == nil {
				s = known
			}
		}
		pages.ServeHTTP(&writing{ResponseWriter: w, session: s}, r.WithContext(session.NewContext(r.Context(), s)))
	})
}

// writing sets the cookie before the first byte of the answer.
type writing struct {
	http.ResponseWriter
	session *session.Session
	began   bool
}

func (w *writing) WriteHeader(code int) {
	w.began = true
	http.SetCookie(w, &http.Cookie{Name: cookie, Value: w.session.String(), Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode})
	w.ResponseWriter.WriteHeader(code)
}

func (w *writing) Write(b []byte) (int, error) {
	if !w.began {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Example_portal is what a portal's backend does: dial once, give every call the
// session of its user.
func Example_portal() {
	orders, err := dial("127.0.0.1:7101")
	if err != nil {
		panic(err)
	}
	timeline, err := dial("127.0.0.1:7201")
	if err != nil {
		panic(err)
	}
	pages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headline, err := cancelAndShow(r.Context(), orderv1.NewOrderServiceClient(orders), timelinev1.NewTimelineServiceClient(timeline), r.PathValue("order"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = w.Write([]byte(headline))
	})
	_ = remember(pages)
}

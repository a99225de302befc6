package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/postgres"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
)

// RequestServer makes the outcomes of a service's requests definite.
type RequestServer struct {
	journalpb.UnimplementedRequestServiceServer
	journal   *Journal
	undecided Undecided
}

// Undecided reports whether a request that was accepted, and answered like this
// so far, still depends on somebody outside: it has neither taken effect nor
// been refused.
type Undecided func(ctx context.Context, requestID, method string, answer []byte) (bool, error)

// NewRequestServer returns the RequestService of one journal. undecided may be
// nil: then whatever was accepted took effect.
func NewRequestServer(j *Journal, undecided Undecided) *RequestServer {
	return &RequestServer{journal: j, undecided: undecided}
}

// insertRefusal records a refusal: an idempotency row without a fingerprint,
// which no request matches. The insert waits for a transaction that is about to
// commit the same request id; a SELECT would answer "absent" meanwhile.
const insertRefusal = `INSERT INTO idempotency (request_id, method, fingerprint) VALUES ($1, $2, '') ON CONFLICT (request_id) DO NOTHING`

// resolved is what a request gets that arrives after it was refused.
func resolved(requestID string) error {
	return fault.New(fault.KindFailedPrecondition, fault.ReasonRequestResolved,
		"request %s was resolved as refused before it arrived", requestID)
}

// ResolveRequest says whether a request took effect, and refuses it for ever if
// it did not.
func (s *RequestServer) ResolveRequest(ctx context.Context, r *journalpb.ResolveRequestRequest) (*journalpb.ResolveRequestResponse, error) {
	const outcomeEffective, outcomeRefused = journalpb.RequestOutcome_REQUEST_OUTCOME_EFFECTIVE, journalpb.RequestOutcome_REQUEST_OUTCOME_REFUSED
	for range maxAttempts {
		known, err := s.refuse(ctx, r.GetRequestId(), r.GetMethod())
		if err != nil {
			return nil, Explain(err)
		}
		if known.refused {
			return &journalpb.ResolveRequestResponse{Outcome: outcomeRefused}, nil
		}
		if known.method != r.GetMethod() {
			return nil, fault.RequestIDReused(r.GetRequestId())
		}
		if s.undecided == nil {
			return &journalpb.ResolveRequestResponse{Outcome: outcomeEffective, Answer: known.answer}, nil
		}
		open, err := s.undecided(ctx, r.GetRequestId(), known.method, known.answer)
		if err != nil {
			return nil, Explain(err)
		}
		if open {
			return nil, fault.Unavailable("request %s waits for an answer from outside; ask again", r.GetRequestId())
		}
		// It is decided now. Was it refused, its row is gone, and is looked for again.
		err = s.journal.pool.QueryRow(ctx, selectAnswer, r.GetRequestId()).Scan(&known.method, &known.fingerprint, &known.answer)
		if err == nil && len(known.fingerprint) > 0 {
			return &journalpb.ResolveRequestResponse{Outcome: outcomeEffective, Answer: known.answer}, nil
		}
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, Explain(fmt.Errorf("read request %s: %w", r.GetRequestId(), err))
		}
	}
	return nil, fault.Conflict("request %s keeps changing; ask again", r.GetRequestId())
}

type knownRequest struct {
	refused             bool
	method              string
	fingerprint, answer []byte
}

// refuse records a refusal unless the request is known, and says which.
func (s *RequestServer) refuse(ctx context.Context, id, method string) (known knownRequest, err error) {
	err = postgres.InTx(ctx, s.journal.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, insertRefusal, id, method)
		if err != nil {
			return fmt.Errorf("refuse request %s: %w", id, err)
		}
		if tag.RowsAffected() == 1 {
			known = knownRequest{refused: true}
			return nil
		}
		// A statement of its own: its snapshot is younger than what was waited for.
		if err := tx.QueryRow(ctx, selectAnswer, id).Scan(&known.method, &known.fingerprint, &known.answer); err != nil {
			return fmt.Errorf("read request %s: %w", id, err)
		}
		known.refused = len(known.fingerprint) == 0
		return nil
	})
	if errors.Is(err, pgx.ErrNoRows) { // deleted in between by a refusal from outside
		err = fault.Conflict("request %s was refused this moment; ask again", id).Because(err)
	}
	return known, err
}

// ForgetRequests lets answers to requests go that a process, which has ended,
// will not make again. It keeps what is younger than RequestMemory: a copy of
// the request may still be on its way.
func (s *RequestServer) ForgetRequests(ctx context.Context, r *journalpb.ForgetRequestsRequest) (*journalpb.ForgetRequestsResponse, error) {
	tag, err := s.journal.pool.Exec(ctx, `DELETE FROM idempotency WHERE request_id = ANY ($1::text[]) AND created_at < clock_timestamp() - $2::interval`,
		r.GetRequestIds(), RequestMemory)
	if err != nil {
		return nil, Explain(fmt.Errorf("forget requests: %w", err))
	}
	return &journalpb.ForgetRequestsResponse{Forgotten: int32(tag.RowsAffected())}, nil
}

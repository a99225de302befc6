package journal

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/postgres"
)

// again says whether running the command once more may help. Conflicts were
// tried again already. A broken connection leaves the outcome unknown; only a
// request id makes that safe.
func again(err error, idempotent bool) bool {
	return postgres.ViolatedUnique(err) != "" || idempotent && disconnected(err)
}

// disconnected says whether err is about the connection or the server's state
// and not about the statement.
func disconnected(err error) bool {
	if fault.As(err) != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		switch refused.Code[:2] {
		case "08", "57": // connection exceptions, operator intervention
			return true
		}
		return refused.Code == "53300" || refused.Code == "25006" // too many connections, read-only
	}
	var connecting *pgconn.ConnectError
	var network net.Error
	return errors.Is(err, postgres.ErrNoConnection) || errors.As(err, &connecting) || errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// Explain classifies an error of the database: what trying again helps against
// becomes a Conflict or Unavailable fault, anything else stays as it is. Faults
// and nil are returned unchanged.
func Explain(err error) error {
	switch {
	case err == nil || fault.As(err) != nil:
		return err
	case postgres.IsConflict(err) || postgres.ViolatedUnique(err) != "":
		return fault.Conflict("somebody else changed the same thing at the same time; try again").Because(err)
	case disconnected(err):
		return fault.Unavailable("the database does not answer; try again with the same request id").Because(err)
	}
	return err
}

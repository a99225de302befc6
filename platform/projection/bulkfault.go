package projection

import (
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// errBroken says that copying in bulk does not keep its own rules: trying again
// cannot help, and somebody must look at the code.
var errBroken = errors.New("copying in bulk is at fault itself")

// bulkIdle is how many rounds in a row may do nothing although something is left.
// One may, when another process dies at what it was at.
const bulkIdle = 20

// bulkForgets is how many passes may be forgotten after they were done.
const bulkForgets = 3

func brokenf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errBroken}, args...)...)
}

// copiedTo is how far a partition was copied here, as a share of its keys.
type copiedTo struct{ done, buckets int64 }

// goes notes that a part was copied.
func (b *bulk[S]) goes(part bulkPart) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.copied[part.number] = copiedTo{part.done + 1, part.buckets}
}

// went fails if the part, or one behind it, was copied here before. A server that
// crashes can forget a pass; one that forgets pass after pass does not.
func (b *bulk[S]) went(part bulkPart) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, ok := b.copied[part.number]
	if !ok || part.done*at.buckets >= at.done*part.buckets {
		return nil
	}
	err := fmt.Errorf("part %d of %d of partition %d was copied and is to be copied again", part.done, part.buckets, part.number)
	if b.forgot++; b.forgot > bulkForgets {
		err = errors.Join(errBroken, err)
	}
	return err
}

// asFault tells an error that says that a statement of ours is wrong from one
// about the database, or about a generation that is being dropped.
func asFault(err error) error {
	var pg *pgconn.PgError
	passes := []string{"42501", "42P01"} // no privilege, no table
	if errors.As(err, &pg) && pg.Code[:2] == "42" && !slices.Contains(passes, pg.Code) && !errors.Is(err, errUnfit) {
		return errors.Join(errBroken, err)
	}
	return err
}

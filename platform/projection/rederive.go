package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-dev/tidemark/platform/consumer"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// A version that only shows otherwise what it remembers needs no facts. Its author
// says so, and the passes of its first build take over what another generation
// remembers, partition by partition, and derive rows and sums from it:
//
//	one snapshot of the other generation ─▶ states, members, parked facts, marks, log entries: INSERT … SELECT
//	      ─▶ rows and sums of every state, a page at a time ─▶ where its position stood
//
// The other generation goes on meanwhile; nothing of it is locked. The rest is as
// in any copying in bulk: a pass is a transaction, indexes come back, positions
// are written by the last one, and from there on facts come the ordinary way.

// derivedLogs stands in the place of logs until a part is taken over. It is no
// object, so that a program that knows nothing of it fails instead of reading
// nothing.
const derivedLogs = `"derived"`

const (
	// baseOf lists the complete generations that remember the same, the one that
	// answers first. What kernels before this column made remembers what its version
	// folds, with the first layout.
	baseOf = `SELECT g.schema, p.schema IS NOT NULL AS answers FROM tidemark.generation g LEFT JOIN tidemark.pointer p ON p.schema = g.schema
		WHERE g.name = $1 AND g.version <> $2 AND g.partitions = $3 AND coalesce(nullif(g.remembers, ''), '1.' || g.version) = $4
		AND g.status IN ('READY', 'SERVING', 'RETIRED') AND (p.schema IS NOT NULL OR g.followed_at > now() - interval '10 seconds')
		ORDER BY answers DESC, g.version DESC, g.attempt DESC`
	ownBase = `SELECT operation <> '' OR derived_from IS NOT NULL, coalesce(derived_from, '') FROM tidemark.generation WHERE schema = $1`
	setBase = `UPDATE tidemark.generation SET derived_from = $2 WHERE schema = $1`
	// columnsApart counts the columns that only one of two tables has.
	columnsApart = `SELECT count(*) FROM (SELECT FROM pg_attribute WHERE attrelid IN (to_regclass($1), to_regclass($2)) AND attnum > 0 AND NOT attisdropped
		GROUP BY attname, atttypid, atttypmod HAVING count(*) <> 2) apart`
	derivedSkips = `UPDATE position p SET skipped = t.skipped FROM %s.position t WHERE p.partition = $1 AND t.partition = $1`
	basePosition = `SELECT revision, term, offsets, books FROM %s.position WHERE partition = $1`
	baseIDs      = `SELECT partition, topic_ids FROM %s.position ORDER BY partition`
	derivedPart  = `UPDATE bulk_part SET done = buckets, logs = $2, topic_ids = $3, books = $4, progress = $5 WHERE partition = $1`
)

// errDerives says that states were not written by this fold.
var errDerives = errors.New("states are not what this version would remember")

// beginDerived begins to take over the states of another generation, if there is
// one that remembers the same.
func (b *bulk[S]) beginDerived(ctx context.Context, tx pgx.Tx, partitions int) (begun bool, err error) {
	p := b.p
	if !p.view.Rederives() {
		return false, nil
	}
	var decided bool
	var base string
	if err := tx.QueryRow(ctx, ownBase, p.own.schema).Scan(&decided, &base); err != nil || decided {
		return false, err // an operator's rebuild is made from facts, and so is what was tried
	}
	rows, err := tx.Query(ctx, baseOf, p.view.Name, p.own.version, partitions, p.view.Remembers())
	if err != nil {
		return false, err
	}
	candidates, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (schema string, err error) {
		var answers bool
		return schema, r.Scan(&schema, &answers)
	})
	if err != nil {
		return false, err
	}
	for _, base = range candidates {
		why, err := b.unlike(ctx, tx, base)
		if err != nil {
			return false, err
		}
		if why != "" {
			p.cfg.Log.Info("states of a generation are not taken over", "generation", p.own.String(), "from", base, "why", why)
			continue
		}
		for number := range partitions {
			if _, err := tx.Exec(ctx, planPart, number, derivedLogs, "{}", 1); err != nil {
				return false, err
			}
		}
		if _, err := tx.Exec(ctx, setBase, p.own.schema, base); err != nil {
			return false, err
		}
		p.cfg.Log.Info("states of another generation are taken over and rows derived from them", "generation", p.own.String(), "from", base)
		return true, b.dropIndexes(ctx, tx)
	}
	return false, nil
}

// unlike says what a generation has otherwise than this one needs it, or "".
func (b *bulk[S]) unlike(ctx context.Context, tx pgx.Tx, base string) (why string, err error) {
	p := b.p
	for _, log := range p.view.Specs()[len(p.view.Tables):] {
		apart := 0
		own, other := pgx.Identifier{p.own.schema, log.Name}.Sanitize(), pgx.Identifier{base, log.Name}.Sanitize()
		if err := tx.QueryRow(ctx, columnsApart, own, other).Scan(&apart); err != nil {
			return "", fmt.Errorf("compare the columns of a log: %w", err)
		}
		if apart > 0 {
			return "log " + log.Name + " has other columns there", nil
		}
	}
	rows, err := tx.Query(ctx, fmt.Sprintf(baseIDs, pgx.Identifier{base}.Sanitize()))
	if err != nil {
		return "", err
	}
	var number int32
	var text []byte
	_, err = pgx.ForEachRow(rows, []any{&number, &text}, func() error {
		ids := map[string]string{}
		if err := json.Unmarshal(text, &ids); err != nil {
			return err
		}
		delete(ids, p.cfg.ControlTopic)
		for _, topic := range p.dataTopics() {
			if _, ok := ids[topic]; !ok {
				why = "it does not read " + topic
			}
			delete(ids, topic)
		}
		for topic := range ids {
			why = "it also reads " + topic
		}
		return nil
	})
	return why, err
}

// derivedFrom is the schema of the generation whose states are taken over, or "".
func (b *bulk[S]) derivedFrom(ctx context.Context, tx pgx.Tx) (base string, err error) {
	var decided bool
	return base, tx.QueryRow(ctx, ownBase, b.p.own.schema).Scan(&decided, &base)
}

// forgo gives up taking states over: the generation is built from facts.
func (b *bulk[S]) forgo(ctx context.Context, tx pgx.Tx, _ []position) error {
	if err := b.empty(ctx, tx); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, setBase, b.p.own.schema, "")
	return err
}

// isolation is that of a pass: what is taken over is as it was at one instant.
func (b *bulk[S]) isolation() pgx.TxOptions {
	if b.base != "" {
		return pgx.TxOptions{IsoLevel: pgx.RepeatableRead}
	}
	return pgx.TxOptions{}
}

// takeOver lists what is taken over as it is, and which of it is a partition's.
func (b *bulk[S]) takeOver() (copies []struct{ table, columns, of string }) {
	const byOrder = "EXISTS (SELECT FROM %[1]s.state s WHERE s.order_id = t.order_id AND s.partition = $1)"
	add := func(table, of string, columns ...string) {
		copies = append(copies, struct{ table, columns, of string }{table, strings.Join(columns, ", "), of})
	}
	add("state", "t.partition = $1", "order_id", "partition", "state", "applied")
	add("member", byOrder, "aggregate_type", "aggregate_id", "order_id")
	add("quarantine", "t.partition = $1", "aggregate_type", "aggregate_id", "order_id", "partition", "verdict", "reason", "since", "attempts", "next_attempt_at")
	add("parked", "t.partition = $1", "reference", "partition", "topic", "topic_id", "record_offset", "order_id", "aggregate_type", "aggregate_id",
		"epoch", "version", "event_id", "verdict", "reason", "code_version", "parked_at")
	add("source_mark", "t.partition = $1", "partition", "source", "epoch", "term", "number", "as_of", "blocked_count")
	for _, log := range b.p.view.Specs()[len(b.p.view.Tables):] {
		var names []string
		for _, col := range log.All {
			names = append(names, col.Name)
		}
		add(log.Name, byOrder, names...)
	}
	return copies
}

// derivePart takes one partition over.
func (b *bulk[S]) derivePart(ctx context.Context, tx pgx.Tx, part bulkPart) (did *fold.Delta, err error) {
	defer func() {
		if gone(err) {
			err = fmt.Errorf("%w: something of %s is not there any more: %w", errUnfit, b.base, err)
		}
	}()
	if err := b.p.fail("derive begins"); err != nil {
		return nil, err
	}
	base := pgx.Identifier{b.base}.Sanitize()
	if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = off; SET LOCAL statement_timeout = 0"); err != nil {
		return nil, err
	}
	at, err := b.p.scanPosition(tx.QueryRow(ctx, fmt.Sprintf(basePosition, base), part.number))
	if err != nil {
		return nil, err
	}
	var ids []byte
	if err := tx.QueryRow(ctx, "SELECT topic_ids FROM "+base+".position WHERE partition = $1", part.number).Scan(&ids); err != nil {
		return nil, err
	}
	for _, c := range b.takeOver() {
		if err := b.standIn(ctx, tx); err != nil {
			return nil, err
		}
		sql := fmt.Sprintf("INSERT INTO %[2]s (%[3]s) SELECT %[3]s FROM %[1]s.%[2]s t WHERE "+c.of, base, c.table, c.columns)
		if _, err := tx.Exec(ctx, sql, part.number); err != nil {
			return nil, fmt.Errorf("take over table %s: %w", c.table, err)
		}
		if err := b.p.fail("derive " + c.table); err != nil {
			return nil, err
		}
	}
	pass := b.newPass(part)
	orders, err := pass.deriveAll(ctx, tx, base)
	if err != nil {
		return nil, err
	}
	logs := map[string]consumer.Bounds{}
	for topic, next := range at.offsets {
		logs[topic] = consumer.Bounds{End: next}
	}
	logsText, err := json.Marshal(logs)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(at.books)
	if err != nil {
		return nil, err
	}
	batch := &pgx.Batch{}
	queueDelta(batch, pass.delta, b.p.sql, part.number, b.p.own.version)
	batch.Queue(fmt.Sprintf(derivedSkips, base), part.number)
	batch.Queue(derivedPart, part.number, logsText, ids, text, orders)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		if err = asRefusal(err); refused(err) {
			err = errors.Join(errUnfit, err)
		}
		return nil, fmt.Errorf("write the rest of a pass: %w", err)
	}
	return pass.delta, b.p.fail("bulk pass")
}

// derivePage is how many states are in memory at once.
const derivePage = 500

// deriveAll writes what the states of the part come to. It returns how many orders
// there are.
func (b *bulkPass[S]) deriveAll(ctx context.Context, tx pgx.Tx, base string) (orders int64, err error) {
	b.put = func(ctx context.Context, chunk bulkChunk) error { return b.copyIn(ctx, tx, chunk) }
	if _, err := tx.Exec(ctx, fmt.Sprintf("DECLARE derived NO SCROLL CURSOR FOR SELECT order_id, state, applied FROM %s.state WHERE partition = %d", base, b.part.number)); err != nil {
		return 0, fmt.Errorf("read states: %w", err)
	}
	for more := true; more; {
		if err := b.standIn(ctx, tx); err != nil {
			return 0, err
		}
		rows, err := tx.Query(ctx, fmt.Sprintf("FETCH %d FROM derived", derivePage))
		if err != nil {
			return 0, fmt.Errorf("read states: %w", err)
		}
		page, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (s fold.StateRow, err error) {
			return s, r.Scan(&s.Order, &s.Encoded.State, &s.Encoded.Applied)
		})
		if err != nil {
			return 0, fmt.Errorf("read states: %w", err)
		}
		for _, s := range page {
			if err := b.deriveOne(ctx, s); err != nil {
				return 0, err
			}
		}
		orders += int64(len(page))
		more = len(page) == derivePage
		if err := b.p.fail("derive rows"); err != nil {
			return 0, err
		}
	}
	for _, t := range b.copies {
		if t != nil {
			if err := b.send(ctx, t); err != nil {
				return 0, err
			}
		}
	}
	return orders, nil
}

// deriveOne derives the rows of one state, which must be one that this code would
// write.
func (b *bulkPass[S]) deriveOne(ctx context.Context, s fold.StateRow) error {
	o, err := fold.OpenOrder[S](s.Order, s.Encoded)
	if err != nil {
		return fmt.Errorf("%w: %w: order %s: %w", errUnfit, errDerives, s.Order, err)
	}
	again, err := o.Encode()
	if err != nil || !slices.Equal(again.State, s.Encoded.State) {
		return fmt.Errorf("%w: %w: order %s is encoded otherwise", errUnfit, errDerives, s.Order)
	}
	tables, err := b.tablesOf(&bulkOrder[S]{Order: *o})
	if err != nil {
		return fmt.Errorf("%w: order %s: %w", errUnfit, s.Order, err)
	}
	return b.rows(ctx, tables)
}

// standIn stands still while something holds the reader, and has the server know
// that the transaction lives.
func (b *bulk[S]) standIn(ctx context.Context, tx pgx.Tx) error {
	for since := time.Now(); b.p.brake.holds() != ""; {
		if time.Since(since) > bulkPatience {
			return errStood
		}
		if err := b.p.fail("derive stands"); err != nil {
			return err
		}
		bounded, cancel := context.WithTimeout(ctx, copyAlive)
		_ = b.p.brake.wait(bounded) // asked again above
		cancel()
		if _, err := tx.Exec(ctx, "SELECT"); err != nil {
			return fmt.Errorf("stand still: %w", err)
		}
	}
	return nil
}

// gone reports whether a schema, a table or a column is not there.
func gone(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && slices.Contains([]string{"3F000", "42P01", "42703"}, pg.Code)
}

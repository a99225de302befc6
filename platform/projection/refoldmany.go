package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-dev/tidemark/platform/fault"
)

// A refold of many orders does them one by one, each in a transaction of its
// own, and keeps its place in the operation's row: after a restart at most a page
// is done again, which changes nothing.

const refoldPage = 100

// clockSlack is how far recorded times of one journal may be out of the order of
// its sequence: commands that commit at the same time draw the two apart.
const clockSlack = 10 * time.Minute

// refoldPlace is where a refold goes on.
type refoldPlace struct {
	Order     string `json:"o,omitempty"` // behind this one
	Source    int    `json:"s,omitempty"`
	Partition int32  `json:"p,omitempty"`
	Sequence  int64  `json:"n,omitempty"`
}

func (p *Projection[S]) refoldMany(ctx context.Context, o *operation) error {
	if p.cfg.Journal == nil {
		return fault.New(fault.KindFailedPrecondition, fault.ReasonUnavailable, "this program does not know the owners' journals")
	}
	at := p.member(o.schema)
	if at == nil {
		return fault.New(fault.KindFailedPrecondition, fault.ReasonNotFound, "generation %s is not kept here any more", o.schema)
	}
	if err := p.at(ctx, o, phaseRefolds); err != nil {
		return err
	}
	switch {
	case o.request.Order != "":
		o.total = 1
		if err := at.refold(ctx, o.request.Order); err != nil {
			return err
		}
		o.done = 1
		return nil
	case o.request.Partition != nil:
		return p.refoldPartition(ctx, o, at)
	}
	return p.refoldRange(ctx, o, at)
}

func (o *operation) goOn() (at refoldPlace, err error) {
	if o.place != "" {
		err = json.Unmarshal([]byte(o.place), &at)
	}
	return at, err
}

// reached writes the place down.
func (p *Projection[S]) reached(ctx context.Context, o *operation, meter *rateMeter, place refoldPlace) error {
	text, err := json.Marshal(place)
	if err != nil {
		return err
	}
	o.place, o.rate = string(text), meter.rate(o.done, time.Now())
	return p.at(ctx, o, phaseRefolds)
}

// refoldPartition refolds every order of a partition.
func (p *Projection[S]) refoldPartition(ctx context.Context, o *operation, at *member[S]) error {
	place, err := o.goOn()
	if err != nil {
		return err
	}
	if err := at.pool.QueryRow(ctx, "SELECT count(*) FROM state WHERE partition = $1", *o.request.Partition).Scan(&o.total); err != nil {
		return fmt.Errorf("count orders: %w", err)
	}
	var meter rateMeter
	for {
		rows, err := at.pool.Query(ctx, "SELECT order_id FROM state WHERE partition = $1 AND order_id > $2 ORDER BY order_id LIMIT $3",
			*o.request.Partition, place.Order, refoldPage)
		if err != nil {
			return fmt.Errorf("list orders: %w", err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("list orders: %w", err)
		}
		for _, id := range ids {
			if err := at.refold(ctx, id); err != nil {
				return err
			}
			o.done++
		}
		if len(ids) < refoldPage {
			return nil
		}
		place.Order = ids[len(ids)-1]
		if err := p.reached(ctx, o, &meter, place); err != nil {
			return err
		}
	}
}

// refoldRange refolds the orders that have a fact committed in a range of time,
// as the owners' journals tell: a copy that lost a fact could not.
func (p *Projection[S]) refoldRange(ctx context.Context, o *operation, at *member[S]) error {
	place, err := o.goOn()
	if err != nil {
		return err
	}
	from, to := *o.request.From, o.createdAt
	if o.request.To != nil {
		to = *o.request.To
	}
	var meter rateMeter
	seed, seen := maphash.MakeSeed(), map[uint64]struct{}{}
	for ; place.Source < len(p.view.Sources); place.Source++ {
		for ; place.Partition < p.cfg.Kafka.PartitionCount(); place.Partition++ {
			clear(seen)
			for next := max(place.Sequence, 1); next > 0; {
				facts, behind, err := p.cfg.Journal.Range(ctx, p.view.Sources[place.Source], place.Partition, next, 0)
				if err != nil {
					return err
				}
				for _, f := range facts {
					if f.RecordedAt.Before(from) || !f.RecordedAt.Before(to) {
						continue
					}
					key := hashOf(seed, f.Key)
					if _, done := seen[key]; done {
						continue
					}
					seen[key] = struct{}{}
					if err := at.refold(ctx, f.Key); err != nil {
						return err
					}
					o.done++
				}
				if next = behind; len(facts) > 0 && facts[0].RecordedAt.After(to.Add(clockSlack)) {
					next = 0
				}
				place.Sequence = next
				if err := p.reached(ctx, o, &meter, place); err != nil {
					return err
				}
			}
			place.Sequence = 0
		}
		place.Partition = 0
	}
	return nil
}

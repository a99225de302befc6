package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/olist"
)

type importCmd struct {
	Olist importOlistCmd `cmd:"" help:"The CSV files of the public Olist dataset, as commands through the public APIs. Running it again changes nothing."`
}

type importOlistCmd struct {
	Dir         string        `arg:"" help:"Directory with the CSV files." type:"existingdir"`
	Channel     string        `help:"Channel under which the orders are placed." default:"olist"`
	Concurrency int           `help:"Orders under way at once." default:"32"`
	Patience    time.Duration `help:"How long a server may be out of reach before the import stops." default:"2m"`
	Settle      time.Duration `help:"How long the report waits for read models to catch up with other writers." default:"15s"`
	ReportOnly  bool          `help:"Send nothing; compare the read models with the files."`
}

func (c *importOlistCmd) Run(a *app) error {
	source, err := olist.Load(c.Dir)
	if err != nil {
		return fmt.Errorf("read %s: %w", c.Dir, err)
	}
	fmt.Fprintf(a.err, "%d orders read, %d rows refused\n", len(source.Orders), len(source.Refused))
	options := olist.Options{
		Channel: c.Channel, Concurrency: c.Concurrency, Patience: c.Patience, Settle: c.Settle,
		Phase: func(name string, total int) (func(), func()) { return progress(a.err, name, "orders", total) },
	}
	var sent *olist.Sent
	if !c.ReportOnly {
		if sent, err = olist.Import(a.ctx, a.Fleet, source, options); err != nil {
			return c.stopped(a, sent, len(source.Orders), err)
		}
	}
	report, err := olist.Compare(a.ctx, a.Fleet, source, sent, options)
	if err != nil {
		return err
	}
	write := report.WriteText
	if a.json() {
		write = report.WriteJSON
	}
	if err := write(a.out); err != nil {
		return err
	}
	if !report.Balances {
		return errors.New("the read models do not balance with the files; see the report")
	}
	return nil
}

// stopped says how far an import came and how to go on.
func (c *importOlistCmd) stopped(a *app, sent *olist.Sent, total int, cause error) error {
	channel := ""
	if c.Channel != "olist" {
		channel = " --channel " + c.Channel
	}
	fmt.Fprintf(a.err, "stopped: %d of %d orders are in. Nothing is lost: the same command resumes, what is in stays as it is:\n  tidemark import olist %s%s\n",
		sent.Orders, total, c.Dir, channel)
	return cause
}

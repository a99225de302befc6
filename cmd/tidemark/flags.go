package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	"github.com/tidemark-dev/tidemark/cmd/tidemark/money"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
)

// moment is a business time on the command line.
type moment struct{ time.Time }

// UnmarshalText reads a time, a date, or a distance from now such as 72h.
func (m *moment) UnmarshalText(text []byte) error {
	s := string(text)
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02T15:04:05", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.UTC); err == nil {
			m.Time = t
			return nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil {
		m.Time = time.Now().Add(d)
		return nil
	}
	return fmt.Errorf("%q is neither a time like 2026-11-30T10:15:00Z or 2026-11-30 nor a distance like 72h or -1h", s)
}

func (m *moment) proto() *timestamppb.Timestamp {
	if m == nil || m.IsZero() {
		return nil
	}
	return timestamppb.New(m.Time)
}

// writeFlags are the flags of every command that changes something.
type writeFlags struct {
	RequestID string `help:"Repeat a command safely: the same id with the same body takes effect once. Default: a new one." placeholder:"UUID" group:"Command"`
	Actor     string `help:"Who acts: customer, carrier, operator:NAME …" placeholder:"WHO" group:"Command"`
	At        moment `help:"Business time: a time, a date, or a distance from now such as -1h. Default: now." placeholder:"TIME" group:"Command"`
	Estimated bool   `help:"The business time is an estimate." group:"Command"`
}

// id returns the request id of the command, the same at every call.
func (f *writeFlags) id() string {
	if f.RequestID == "" {
		f.RequestID = uuid.NewString()
	}
	return f.RequestID
}

// written is the answer of every command.
type written interface {
	proto.Message
	GetToken() *freshnessv1.Token
	GetReplayed() bool
}

// write sends a command and shows what came of it: names and values, the token,
// and commands to try next. The function show also names the order.
func write[Req proto.Message, Resp written](
	a *app, f *writeFlags, send func(context.Context, Req, ...grpc.CallOption) (Resp, error), request Req,
	show func(Resp) (lines []string, orderID string),
) error {
	ctx, cancel := a.call()
	defer cancel()
	response, err := send(ctx, request)
	if err != nil {
		return &writeError{requestID: f.id(), cause: err}
	}
	if a.json() {
		return a.printJSON(response, false)
	}
	lines, orderID := show(response)
	token := client.FormatToken(response.GetToken())
	lines = append(lines, "token", token, "request", f.id())
	if response.GetReplayed() {
		lines = append(lines, "note", "this request id had taken effect before; nothing new happened")
	}
	if err := pairs(a.out, lines...); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "next: tidemark timeline status %s --token %s\n      tidemark timeline order %s\n", orderID, token, orderID)
	return err
}

// readFlags are the demands on freshness of every query.
type readFlags struct {
	Token        []string      `help:"See at least this write: the token that a command printed. Repeatable." placeholder:"TOKEN" sep:"none" group:"Freshness"`
	MaxStaleness time.Duration `help:"No source in the answer may be staler." group:"Freshness"`
	Wait         time.Duration `help:"How long the query may wait for the demand, at most 30s. Default 2s." group:"Freshness"`
	Stale        bool          `help:"If the demand cannot be met, answer what there is, flagged." group:"Freshness"`
}

// options turns the flags into what the query carries.
func (f *readFlags) options() (*freshnessv1.ReadOptions, error) {
	if len(f.Token) > 0 && f.MaxStaleness > 0 {
		return nil, usage("--token and --max-staleness exclude each other")
	}
	options := &freshnessv1.ReadOptions{}
	switch {
	case len(f.Token) > 0:
		tokens := make([]*freshnessv1.Token, len(f.Token))
		for i, text := range f.Token {
			t, err := client.ParseToken(text)
			if err != nil {
				return nil, usage("%v", err)
			}
			tokens[i] = t
		}
		options.Consistency = &freshnessv1.ReadOptions_AtLeast{AtLeast: &freshnessv1.AtLeast{Tokens: tokens}}
	case f.MaxStaleness > 0:
		options.Consistency = &freshnessv1.ReadOptions_MaxStaleness{MaxStaleness: durationpb.New(f.MaxStaleness)}
	}
	if f.Wait > 0 {
		options.WaitBudget = durationpb.New(f.Wait)
	}
	if f.Stale {
		options.OnViolation = freshnessv1.OnViolation_ON_VIOLATION_RETURN_STALE
	}
	return options, nil
}

// read sends a query; its deadline leaves room for the wait budget.
func read[Req, Resp proto.Message](
	a *app, f *readFlags, send func(context.Context, Req, ...grpc.CallOption) (Resp, error), request Req,
) (Resp, error) {
	ctx, cancel := context.WithTimeout(a.ctx, a.globals.Timeout+f.Wait)
	defer cancel()
	return send(ctx, request)
}

// pageFlags page through a list.
type pageFlags struct {
	Limit int32  `help:"At most this many." default:"50" short:"n"`
	Page  string `help:"Token of the next page, as the page before printed it." placeholder:"TOKEN"`
}

// more tells how to get the next page.
func (a *app) more(token string) {
	if token != "" {
		fmt.Fprintf(a.out, "more: --page %s\n", token)
	}
}

// parseMoney reads an amount of a currency.
func parseMoney(text, currency string) (*commercev1.Money, error) {
	amount, err := money.Parse(text, currency)
	if err != nil {
		return nil, usage("amount: %v", err)
	}
	return &commercev1.Money{Amount: amount, Currency: currency}, nil
}

// parseQuantity reads a number of pieces.
func parseQuantity(text string) (int32, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		return 0, usage("quantity %q is not a positive number", text)
	}
	return int32(n), nil
}

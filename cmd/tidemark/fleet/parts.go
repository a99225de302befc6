package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/platform/telemetry"
	"github.com/tidemark-dev/tidemark/services/order"
	"github.com/tidemark-dev/tidemark/services/payment"
	"github.com/tidemark-dev/tidemark/services/shipment"
)

// The parts of the fleet.
const (
	Postgres   = "postgres"
	Broker     = "broker"
	Registry   = "registry"
	Payment    = "payment"
	Shipment   = "shipment"
	Order      = "order"
	Timeline   = "timeline"
	Operations = "operations"
)

// AllParts returns the parts in the order in which they start.
func AllParts() []string {
	all := []string{Postgres, Broker, Registry, Payment, Shipment, Order}
	for _, m := range readModels() {
		all = append(all, m.name)
	}
	return all
}

// metricsOffset lies between a part's gRPC port and its HTTP port.
const metricsOffset = 1000

// part is how one part is started.
type part struct {
	port     int // added to the port base
	database bool
	start    func(ctx context.Context, f *Fleet, name string) (*running, error)
}

// table says how every part is started. It is a function because the starters
// look their neighbours up in it.
func table() map[string]part {
	parts := map[string]part{
		Postgres: {port: 432, start: startPostgres},
		Broker:   {port: 92, start: startBroker},
		Registry: {port: 81, start: startRegistry},
		Payment: {port: 102, database: true, start: program(payment.Run, func(f *Fleet, ready func(string)) (payment.Config, error) {
			c, err := lifecycle.Defaults[payment.Config]()
			c.Postgres.URL, c.Kafka, c.Telemetry = f.database(Payment), f.kafka(), f.telemetry(c.Telemetry)
			c.RPC.Addr, c.RPC.HTTPAddr, c.Ready = f.Addr(Payment), f.MetricsAddr(Payment), ready
			return c, err
		})},
		Shipment: {port: 103, database: true, start: program(shipment.Run, func(f *Fleet, ready func(string)) (shipment.Config, error) {
			c, err := lifecycle.Defaults[shipment.Config]()
			c.Postgres.URL, c.Kafka, c.Telemetry = f.database(Shipment), f.kafka(), f.telemetry(c.Telemetry)
			c.RPC.Addr, c.RPC.HTTPAddr, c.Ready = f.Addr(Shipment), f.MetricsAddr(Shipment), ready
			return c, err
		})},
		Order: {port: 101, database: true, start: program(order.Run, func(f *Fleet, ready func(string)) (order.Config, error) {
			c, err := lifecycle.Defaults[order.Config]()
			c.Postgres.URL, c.Kafka, c.Telemetry = f.database(Order), f.kafka(), f.telemetry(c.Telemetry)
			c.RPC.Addr, c.RPC.HTTPAddr, c.Ready = f.Addr(Order), f.MetricsAddr(Order), ready
			c.Fulfilment.PaymentAddr, c.Fulfilment.ShipmentAddr = f.Addr(Payment), f.Addr(Shipment)
			return c, err
		})},
	}
	for _, m := range readModels() {
		parts[m.name] = part{port: m.port, database: true, start: m.start}
	}
	return parts
}

// telemetry keeps a part's own defaults and sets where to export to.
func (f *Fleet) telemetry(c telemetry.Config) telemetry.Config {
	c.OTLPEndpoint, c.TracesPerSecond = f.opts.OTLPEndpoint, f.opts.TracesPerSecond
	return c
}

// program makes a starter of a service's Run: it runs in a goroutine until it
// is stopped, and counts as started once it says that it is ready.
func program[C any](run func(context.Context, C) error, build func(*Fleet, func(string)) (C, error)) func(context.Context, *Fleet, string) (*running, error) {
	return func(ctx context.Context, f *Fleet, name string) (*running, error) {
		ready := make(chan struct{}, 1)
		config, err := build(f, func(string) { ready <- struct{}{} })
		if err != nil {
			return nil, err
		}
		life, cancel := context.WithCancel(lifecycle.WithLogger(context.Background(), f.opts.Log(name)))
		done := make(chan error, 1)
		stopped := make(chan struct{})
		go func() {
			err := run(life, config)
			done <- err
			select {
			case <-stopped:
			default:
				f.dead <- fmt.Errorf("%s ended by itself: %w", name, errors.Join(err, lifecycle.ErrStoppedByItself))
			}
		}()
		r := &running{stop: func() error { close(stopped); cancel(); return <-done }}
		select {
		case <-ready:
			if err := f.awaitReady(ctx, name); err != nil {
				return nil, errors.Join(err, r.stop())
			}
			return r, nil
		case err := <-done:
			cancel()
			return nil, errors.Join(err, lifecycle.ErrStoppedByItself)
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), r.stop())
		}
	}
}

// awaitReady asks a part's readiness until it says yes: a read model that is
// still being built serves, but cannot answer.
func (f *Fleet) awaitReady(ctx context.Context, name string) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+f.MetricsAddr(name)+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s answers %s", request.URL, response.Status)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", errors.Join(ctx.Err(), last))
		case <-ticker.C:
		}
	}
}

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
)

// recovery starts the program, presses it, kills it with SIGKILL, starts it
// again, and waits until no order that was acknowledged stands still.
func (o ProcessOptions) recovery(ctx context.Context, result *Process) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("find a free port: %w", err)
	}
	base := 20_000 + listener.Addr().(*net.TCPAddr).Port%10_000 // below the ports that connections of others are given
	if err := listener.Close(); err != nil {
		return fmt.Errorf("find a free port: %w", err)
	}
	at := func(part string) string { return "127.0.0.1:" + strconv.Itoa(fleet.Ports(base)[part]) }
	to, err := client.Dial(client.Addresses{
		Order: at(fleet.Order), Payment: at(fleet.Payment), Shipment: at(fleet.Shipment), Timeline: at(fleet.Timeline), Operations: at(fleet.Operations),
	})
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }()
	start := func() (*exec.Cmd, error) {
		cmd := exec.CommandContext(ctx, o.Binary, "dev", "--data-dir", o.Dir+"/killed", "--port-base", strconv.Itoa(base), "--traffic", "0")
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		said := &bytes.Buffer{}
		cmd.Stderr = said
		if err := cmd.Start(); err != nil {
			return nil, fmt.Errorf("start %s: %w", o.Binary, err)
		}
		limit, cancel := context.WithTimeout(ctx, 90*time.Second)
		defer cancel()
		var last error
		for limit.Err() == nil {
			if _, last = to.Processes.ListProcesses(limit, &orderv1.ListProcessesRequest{PageSize: 1}); last == nil {
				return cmd, nil
			}
			pause(limit, 20*time.Millisecond)
		}
		return cmd, errors.Join(fmt.Errorf("the fleet did not come up: %w", last), cmd.Process.Kill(), cmd.Wait(), errors.New(said.String()))
	}
	o.Progress("a fleet that will be killed")
	cmd, err := start()
	if err != nil {
		return err
	}
	acknowledged := &placedOrders{}
	stop := o.press(ctx, to, acknowledged)
	for range o.Kills {
		pause(ctx, o.KillAfter)
		kill := Kill{}
		if err := cmd.Process.Kill(); err != nil {
			stop()
			return fmt.Errorf("kill: %w", err)
		}
		stop()
		_ = cmd.Wait() // it was killed
		again := time.Now()
		if cmd, err = start(); err != nil {
			return err
		}
		ready := time.Now()
		before := acknowledged.take()
		kill.Orders = len(before)
		stop = o.press(ctx, to, acknowledged)
		for ctx.Err() == nil {
			standing, err := unconfirmed(ctx, to, before)
			kill.Standing = max(kill.Standing, standing)
			if err == nil && standing == 0 {
				break
			}
			pause(ctx, 10*time.Millisecond)
		}
		kill.ReadySeconds, kill.RecoveredSeconds = ready.Sub(again).Seconds(), time.Since(ready).Seconds()
		o.Progress(fmt.Sprintf("killed after %d orders: serving after %.1f s, %d of them stood still, none %.1f s later",
			kill.Orders, kill.ReadySeconds, kill.Standing, kill.RecoveredSeconds))
		result.Kills = append(result.Kills, kill)
	}
	stop()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	_ = cmd.Wait()
	return ctx.Err()
}

// placedOrders are orders that were acknowledged.
type placedOrders struct {
	mu  sync.Mutex
	ids []string
}

func (p *placedOrders) add(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ids = append(p.ids, id)
}

func (p *placedOrders) take() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := make(map[string]bool, len(p.ids))
	for _, id := range p.ids {
		ids[id] = true
	}
	p.ids = nil
	return ids
}

// press places orders at the rate until stop is called, which waits for those
// under way.
func (o ProcessOptions) press(ctx context.Context, to *client.Fleet, placed *placedOrders) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() {
		every := time.NewTicker(time.Duration(float64(time.Second) / o.KillRate))
		defer every.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			work.Go(func() {
				if response, err := to.Orders.PlaceOrder(ctx, anOrder(i)); err == nil {
					placed.add(response.GetOrder().GetOrderId())
				}
			})
			select {
			case <-ctx.Done():
			case <-every.C:
			}
		}
	})
	return func() { cancel(); work.Wait() }
}

// unconfirmed counts those of the orders that are not confirmed.
func unconfirmed(ctx context.Context, to *client.Fleet, ids map[string]bool) (n int, err error) {
	request := &orderv1.ListOrdersRequest{PageSize: 500, States: []orderv1.OrderState{orderv1.OrderState_ORDER_STATE_PLACED}}
	for {
		page, err := to.Orders.ListOrders(ctx, request)
		if err != nil {
			return n, fmt.Errorf("list orders: %w", err)
		}
		for _, order := range page.GetOrders() {
			if ids[order.GetOrderId()] {
				n++
			}
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return n, nil
		}
	}
}

// Command tidemark is the one binary of Tidemark: the whole fleet embedded, and
// the command line of its users and operators.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// root is every command of the binary.
type root struct {
	globals
	Dev  devCmd  `cmd:"" help:"Run the whole fleet embedded in this process."`
	Part partCmd `cmd:"" help:"Run some parts of the fleet in this process; the others run elsewhere."`
	clientCommands
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

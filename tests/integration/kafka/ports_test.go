package kafka

import "testing"

// While a server that was killed is away its clients try to reach it all the time.
// The system must not give one of them the server's port to come from: it would
// reach itself, and the server could not start again.
func TestNoClientCanTakeThePortsOfAServer(t *testing.T) {
	for range 100 {
		port, err := freePair()
		if err != nil {
			t.Fatal(err)
		}
		if port < 10_000 || port+1 >= firstOutgoing {
			t.Fatalf("ports %d and %d", port, port+1)
		}
	}
}

package main

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
)

// portsAreFree looks at every port of the dev run before anything starts, and
// names who holds the taken ones and which base would do.
func portsAreFree(base int) error {
	taken := takenPorts(base)
	// A run that was killed a moment ago may still be letting go of them.
	for deadline := time.Now().Add(time.Second); len(taken) > 0 && time.Now().Before(deadline); taken = takenPorts(base) {
		time.Sleep(50 * time.Millisecond)
	}
	if len(taken) == 0 {
		return nil
	}
	held := map[string][]string{}
	for _, port := range slices.Sorted(maps.Keys(taken)) {
		holder := portHolder(port)
		if holder == "" {
			holder = "another program"
		}
		held[holder] = append(held[holder], fmt.Sprintf("%d (%s)", port, taken[port]))
	}
	var holders []string
	for _, holder := range slices.Sorted(maps.Keys(held)) {
		ports := held[holder]
		if len(ports) > 3 {
			ports = append(ports[:3], fmt.Sprintf("%d more", len(ports)-3))
		}
		holders = append(holders, fmt.Sprintf("%s holds port %s", holder, strings.Join(ports, ", ")))
	}
	advice := "stop it or choose other ports with --port-base"
	for _, other := range []int{17000, 27000, 37000, 47000} {
		if len(takenPorts(other)) == 0 {
			advice = fmt.Sprintf("stop it, or use other ports: --port-base=%[1]d (make run ARGS=--port-base=%[1]d)", other)
			break
		}
	}
	return &devError{message: strings.Join(holders, "; "), next: advice}
}

func takenPorts(base int) map[int]string {
	ports := fleet.Ports(base)
	ports["control"] = base + devControlPort
	taken := map[int]string{}
	for part, port := range ports {
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			taken[port] = part
			continue
		}
		_ = listener.Close() // nobody connected
	}
	return taken
}

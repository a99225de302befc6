package main

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/fleet"
)

// portsAreFree looks at every port of the dev run before anything starts, and
// names who holds the taken ones and which base would do.
func portsAreFree(base int) error {
	taken := takenPorts(base)
	if len(taken) == 0 {
		return nil
	}
	var lines []string
	for _, port := range slices.Sorted(maps.Keys(taken)) {
		holder := portHolder(port)
		if holder == "" {
			holder = "another program"
		}
		lines = append(lines, fmt.Sprintf("port %d (%s) is taken by %s", port, taken[port], holder))
	}
	advice := "stop it or choose other ports with --port-base"
	for _, other := range []int{17000, 27000, 37000, 47000} {
		if len(takenPorts(other)) == 0 {
			advice = fmt.Sprintf("stop it, or use other ports: make run ARGS=--port-base=%d", other)
			break
		}
	}
	return fmt.Errorf("%s\n  next: %s", strings.Join(lines, "\n  "), advice)
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

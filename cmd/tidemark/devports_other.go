//go:build !linux

package main

import (
	"fmt"
	"os/exec"
	"strings"
)

// portHolder names the process that listens on a local TCP port, "" when it
// cannot be seen.
func portHolder(port int) string {
	out, err := exec.Command("lsof", "-nP", "-sTCP:LISTEN", fmt.Sprintf("-iTCP:%d", port), "-Fpc").Output()
	if err != nil {
		return ""
	}
	var pid, name string
	for line := range strings.Lines(string(out)) {
		switch line[0] {
		case 'p':
			pid = strings.TrimSpace(line[1:])
		case 'c':
			name = strings.TrimSpace(line[1:])
		}
	}
	if pid == "" {
		return ""
	}
	return fmt.Sprintf("process %s (%s)", pid, name)
}

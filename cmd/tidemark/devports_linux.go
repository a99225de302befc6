//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// portHolder names the process that listens on a local TCP port, "" when it
// cannot be seen.
func portHolder(port int) string {
	inode := ""
	suffix := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		content, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(content)) {
			// sl local_address rem_address st … inode; st 0A is LISTEN
			fields := strings.Fields(line)
			if len(fields) > 9 && strings.HasSuffix(fields[1], suffix) && fields[3] == "0A" {
				inode = "socket:[" + fields[9] + "]"
			}
		}
	}
	if inode == "" {
		return ""
	}
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, file := range files {
		if target, err := os.Readlink(file); err != nil || target != inode {
			continue
		}
		process := filepath.Dir(filepath.Dir(file))
		name, err := os.ReadFile(filepath.Join(process, "comm"))
		if err != nil {
			return "process " + filepath.Base(process)
		}
		return fmt.Sprintf("process %s (%s)", filepath.Base(process), strings.TrimSpace(string(name)))
	}
	return ""
}

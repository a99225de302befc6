// Command check compares every version of every event with all the others and
// with what was released. It is run by `make schema-check`, from the folder
// schemas:
//
//	go run ./internal/check
//
// It fails if a version cannot be read with the schema of another one of the
// same event (FULL_TRANSITIVE, what the registry refuses with 409), and then
// says which consumers read what broke, and where. It fails, too, if a released
// schema file or a line of ids.lock is not what it was.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tidemark-dev/tidemark/schemas/internal/lock"
)

func main() {
	root := flag.String("root", "..", "root of the repository")
	flag.Parse()
	report, err := run(*root)
	fmt.Print(report)
	if err != nil {
		fmt.Fprintln(os.Stderr, "schema-check:", err)
		os.Exit(1)
	}
}

var errBroken = errors.New("see above; docs/howto/new-event-version.md says how a contract changes")

// run returns what is to be said, and an error if something is broken.
func run(root string) (report string, err error) {
	files := os.DirFS(filepath.Join(root, "schemas"))
	commits, changed, err := released(root, files)
	if err != nil {
		return "", err
	}
	breaks, pairs, err := incompatible(files)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, line := range changed {
		fmt.Fprintln(&b, line)
	}
	if len(breaks) > 0 {
		consumers, err := readers(root)
		if err != nil {
			return "", fmt.Errorf("look for consumers: %w", err)
		}
		for _, broken := range breaks {
			b.WriteString(broken.tell(consumers))
		}
	}
	if len(changed)+len(breaks) > 0 {
		return b.String(), errBroken
	}
	history := fmt.Sprintf("nothing released changed in %d commits", commits)
	if commits == 0 {
		history = "no git history here, so nothing was compared with earlier commits"
	}
	return fmt.Sprintf("schema-check: %d pairs of versions read each other; %s\n", pairs, history), nil
}

// firstRelease is the hash of ids.lock when version 1 of the first events was
// released. What commits before that one say was a draft.
const firstRelease = "67841994f696a99e68b948ecd203b23021a026ca383b008ec6c301c3820292c2"

// released compares the schema files with the hashes in ids.lock, and ids.lock
// with each of its states in git since the first release: it may only have
// grown.
func released(root string, files fs.FS) (commits int, changed []string, err error) {
	text, err := fs.ReadFile(files, lock.File)
	if err != nil {
		return 0, nil, err
	}
	entries, err := lock.Parse(string(text))
	if err != nil {
		return 0, nil, err
	}
	extended, err := lock.Extend(entries, files)
	if err != nil {
		changed = append(changed, err.Error())
	} else if len(extended) > len(entries) {
		changed = append(changed, fmt.Sprintf("%s is not in %s yet: run go generate", extended[len(entries)].Name, lock.File))
	}
	path := "schemas/" + lock.File
	hashes, err := git(root, "log", "--format=%H", "--", path)
	if err != nil {
		return 0, changed, nil // no repository, or no git: a release archive
	}
	for _, hash := range strings.Fields(hashes) {
		before, err := git(root, "show", hash+":"+path)
		if err != nil {
			return 0, nil, fmt.Errorf("read %s of commit %s: %w", path, hash, err)
		}
		commits++
		if line := lost(before, string(text)); line != "" {
			changed = append(changed, fmt.Sprintf("%s lost or changed a line that commit %.12s has: %s", path, hash, line))
		}
		if lock.Sum([]byte(before)) == firstRelease {
			break
		}
	}
	return commits, changed, nil
}

// lost returns the first line of before that is not in its place in now.
func lost(before, now string) string {
	lines := strings.Split(now, "\n")
	for i, line := range strings.Split(strings.TrimSuffix(before, "\n"), "\n") {
		if !strings.HasPrefix(line, "#") && (i >= len(lines) || lines[i] != line) {
			return line
		}
	}
	return ""
}

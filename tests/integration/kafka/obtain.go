package kafka

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

//go:embed pom.xml
var pom []byte

const (
	oldestJava    = 17
	obtainTimeout = 8 * time.Minute
)

// artifacts are what a broker is started from.
type artifacts struct {
	java string // the program
	libs string // directory of jars
}

// obtain finds Java and, on first use in this clone, has Maven bring Apache
// Kafka and what it needs into .tools/kafka. The error says what is missing and
// how to get it.
func obtain(ctx context.Context) (artifacts, error) {
	java, err := findJava(ctx)
	if err != nil {
		return artifacts{}, err
	}
	root, err := repositoryRoot()
	if err != nil {
		return artifacts{}, err
	}
	sum := sha256.Sum256(pom)
	dir := filepath.Join(root, ".tools", "kafka", hex.EncodeToString(sum[:6]))
	libs := filepath.Join(dir, "libs")
	if _, err := os.Stat(libs); err == nil {
		return artifacts{java: java, libs: libs}, nil
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return artifacts{}, errors.New("no Maven here (Debian, Ubuntu: apt-get install maven)")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return artifacts{}, fmt.Errorf("make a place for kafka: %w", err)
	}
	making, err := os.MkdirTemp(dir, "making-")
	if err != nil {
		return artifacts{}, fmt.Errorf("make a place for kafka: %w", err)
	}
	defer os.RemoveAll(making)
	if err := os.WriteFile(filepath.Join(making, "pom.xml"), pom, 0o644); err != nil {
		return artifacts{}, fmt.Errorf("make a place for kafka: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, obtainTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "-f", filepath.Join(making, "pom.xml"),
		"dependency:copy-dependencies", "-DoutputDirectory="+filepath.Join(making, "libs"))
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return artifacts{}, fmt.Errorf("get Apache Kafka with Maven: %w: %s", err, lastLines(string(out), 3))
	}
	if err := os.Rename(filepath.Join(making, "libs"), libs); err != nil {
		if _, statErr := os.Stat(libs); statErr != nil { // else another process was first
			return artifacts{}, fmt.Errorf("make a place for kafka: %w", err)
		}
	}
	return artifacts{java: java, libs: libs}, nil
}

var javaVersion = regexp.MustCompile(`version "(\d+)(?:\.(\d+))?`)

func findJava(ctx context.Context) (string, error) {
	var candidates []string
	if home := os.Getenv("JAVA_HOME"); home != "" {
		candidates = append(candidates, filepath.Join(home, "bin", "java"))
	}
	if path, err := exec.LookPath("java"); err == nil {
		candidates = append(candidates, path)
	}
	newest := 0
	for _, java := range candidates {
		out, err := exec.CommandContext(ctx, java, "-version").CombinedOutput()
		if err != nil {
			continue
		}
		match := javaVersion.FindStringSubmatch(string(out))
		if match == nil {
			continue
		}
		major, _ := strconv.Atoi(match[1]) // digits only
		if major >= oldestJava {
			return java, nil
		}
		newest = max(newest, major)
	}
	if newest > 0 {
		return "", fmt.Errorf("found only Java %d, Apache Kafka needs %d (Debian, Ubuntu: apt-get install openjdk-17-jre-headless)", newest, oldestJava)
	}
	return "", fmt.Errorf("no Java %d or newer here (Debian, Ubuntu: apt-get install openjdk-17-jre-headless)", oldestJava)
}

// repositoryRoot finds the directory of go.work above the working directory.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find the repository: no go.work above the working directory")
		}
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

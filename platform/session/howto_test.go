package session_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The code of the how-to is the code of the example, which compiles.
func TestTheHowToCompiles(t *testing.T) {
	text, err := os.ReadFile("../../docs/howto/read-your-writes.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 3 {
		t.Errorf("%d blocks of code", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(string(example), block[1]) {
			t.Errorf("not in example_test.go:\n%s", block[1])
		}
	}
}

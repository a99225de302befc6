package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// accepted are the only reasons to skip a test in CI. Whatever else a test
// lacks there is a fault of the run: a test that does not run proves nothing.
var accepted = map[string]bool{
	"a real Kafka cannot be made to lose what it acknowledged": true,
}

// report prints the table and returns the exit code.
func report(rows []*row, ci bool) int {
	fmt.Printf("\n%-18s %-13s %-8s %7s %7s %8s %8s  %s\n", "suite", "broker", "", "passed", "failed", "skipped", "seconds", "why skipped")
	var passed, failed, skipped int
	var refused []string
	for _, r := range rows {
		status := "ran"
		switch {
		case r.failed > 0:
			status = "FAILED"
		case r.skippedWhole || r.passed == 0 && r.skipped > 0:
			status = "SKIPPED"
		case r.passed == 0:
			status = "no tests"
		}
		why := r.note
		if why == "" {
			why = reasons(r.reasons)
		}
		fmt.Printf("%-18s %-13s %-8s %7d %7d %8d %8.1f  %s\n", r.suite, r.broker, status, r.passed, r.failed, r.skipped, r.seconds, why)
		for reason := range r.reasons {
			if ci && !accepted[reason] {
				refused = append(refused, reason)
			}
		}
		passed, failed, skipped = passed+r.passed, failed+r.failed, skipped+r.skipped
	}
	fmt.Printf("\n%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if len(refused) > 0 {
		fmt.Printf("FAILED: tests were skipped, which only these may be in CI: %s\n", strings.Join(slices.Sorted(maps.Keys(accepted)), "; "))
	}
	if failed > 0 || passed == 0 || len(refused) > 0 {
		return 1
	}
	return 0
}

func reasons(counts map[string]int) string {
	var all []string
	for _, reason := range slices.Sorted(maps.Keys(counts)) {
		if n := counts[reason]; n > 1 {
			reason = fmt.Sprintf("%s (%d×)", reason, n)
		}
		all = append(all, reason)
	}
	return strings.Join(all, "; ")
}

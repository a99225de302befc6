// The command alerts writes the alert rules of every read model from its
// contract, or with -check says which are not what their contract generates. It
// runs in the folder of the projections.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/tidemark-dev/tidemark/platform/projection/contract"
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail if something is not up to date")
	into := flag.String("into", "../deploy/prometheus", "folder of the rules files")
	flag.Parse()
	if err := run(*into, *check); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(into string, check bool) error {
	contracts, err := filepath.Glob("*/readmodel.yaml")
	if err != nil {
		return err
	}
	if len(contracts) == 0 {
		return errors.New("no read model here")
	}
	var wanted []string
	var errs []error
	for _, path := range contracts {
		file, err := one(path, into, check)
		wanted, errs = append(wanted, file), append(errs, err)
	}
	found, err := filepath.Glob(filepath.Join(into, "alerts-*.yml"))
	for _, file := range found {
		if !slices.Contains(wanted, file) {
			errs = append(errs, fmt.Errorf("no read model has the alerts of %s", file))
		}
	}
	return errors.Join(append(errs, err)...)
}

// one writes or compares the rules of one read model.
func one(path, into string, check bool) (file string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	promised, err := contract.Parse(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	rules, err := promised.Alerts()
	if err != nil {
		return "", err
	}
	file = filepath.Join(into, "alerts-"+promised.Name+".yml")
	if !check {
		return file, os.WriteFile(file, rules, 0o644)
	}
	if there, err := os.ReadFile(file); err != nil || !bytes.Equal(there, rules) {
		return file, fmt.Errorf("not up to date: %s", file)
	}
	return file, nil
}

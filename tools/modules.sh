#!/usr/bin/env bash
# Builds and vets every module alone. The workspace resolves imports that a
# module never required; without it, what is missing shows.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOWORK=off
for module in "$@"; do
	echo "check: module $module by itself"
	(
		cd "$module"
		go mod tidy -diff || { echo "go.mod or go.sum of $module is not tidy: run make tidy"; exit 1; }
		go build ./...
		go vet ./...
	)
done

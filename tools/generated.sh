#!/usr/bin/env bash
# Fails when the committed generated code is not what the contracts generate.
# It compares files, not git: so it works in a tree with other changes too.
set -euo pipefail
cd "$(dirname "$0")/.."
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

buf generate -o "$made"
stale=0
while read -r file; do
	cmp -s "$file" "$made/$file" || { echo "not up to date: $file"; stale=1; }
done < <(find proto -name '*.pb.go')
while read -r file; do
	[ -f "$file" ] || { echo "missing: $file"; stale=1; }
done < <(cd "$made" && find proto -name '*.pb.go')
(cd schemas && go run ./internal/gen -check) || stale=1
(cd projections && go run ./internal/alerts -check) || stale=1
if [ $stale != 0 ]; then
	echo "run make generate and commit what it writes"
	exit 1
fi

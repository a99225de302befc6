#!/usr/bin/env bash
# Builds every program of Tidemark into one directory:
#
#   [GOFLAGS=-trimpath] deploy/build.sh DIR
set -euo pipefail
out=${1:?usage: deploy/build.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
build() { go build -buildvcs=false -ldflags '-s -w' -o "$out/$1" "./$2"; }
build tidemark cmd/tidemark
for name in order payment shipment; do build "tidemark-$name" "services/$name/cmd"; done
for name in timeline operations; do build "tidemark-$name" "projections/$name/cmd"; done

#!/usr/bin/env bash
# Builds the pinned tools of tools/tools.mod into .tools/bin and copies the
# validation rules' .proto, which buf reads, out of its Go module. Does nothing
# when that was done for the same pins.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.tools/installed
want=$(cat tools/tools.mod tools/tools.sum tools/install.sh proto/go.mod | cksum; go env GOVERSION)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
	exit 0
fi

echo "building the pinned tools into .tools/bin (once, one to three minutes)"
mkdir -p .tools/bin
export GOWORK=off GOFLAGS="${GOFLAGS:-} -buildvcs=false"
unset GOBIN
(
	cd proto # an alternative module file needs a module to stand beside
	go build -modfile=../tools/tools.mod -o ../.tools/bin/ tool
	# The generator comes from the product's own protobuf version, so that
	# generated code and runtime never differ.
	go build -o ../.tools/bin/ google.golang.org/protobuf/cmd/protoc-gen-go
)
rules=$(cd proto && go mod download -modfile=../tools/tools.mod github.com/bufbuild/protovalidate &&
	go list -modfile=../tools/tools.mod -m -f '{{.Dir}}' github.com/bufbuild/protovalidate)
mkdir -p .tools/protovalidate/buf/validate
cp -f "$rules/proto/protovalidate/buf/validate/validate.proto" .tools/protovalidate/buf/validate/
chmod u+w .tools/protovalidate/buf/validate/validate.proto
echo "$want" >"$stamp"

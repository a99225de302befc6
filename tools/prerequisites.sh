#!/usr/bin/env bash
# Says at once whether this machine has what the build needs, and for each
# missing thing the one line that installs it.
set -uo pipefail

if command -v apt-get >/dev/null; then
	sudo=$([ "$(id -u)" = 0 ] || echo "sudo ")
	c_hint="${sudo}apt-get install -y gcc libc6-dev"
	go_hint="see go.dev/doc/install, or ${sudo}apt-get install -y golang if that is 1.26 or newer"
elif command -v dnf >/dev/null; then
	c_hint="sudo dnf install -y gcc glibc-devel"
	go_hint="see go.dev/doc/install, or sudo dnf install -y golang if that is 1.26 or newer"
elif command -v brew >/dev/null; then
	c_hint="xcode-select --install"
	go_hint="brew install go"
else
	c_hint="install gcc or clang with your system's package manager"
	go_hint="see go.dev/doc/install"
fi

missing=0
report() { # name, found?, how to install
	if [ -n "$2" ]; then
		printf '  %-10s %s\n' "$1" "$2"
	else
		printf '  %-10s MISSING: %s\n' "$1" "$3"
		missing=1
	fi
}

echo "checking what the build needs"
go_version=$(go env GOVERSION 2>/dev/null || true)
case "$go_version" in
go1.2[6-9]* | go1.[3-9][0-9]* | devel*) report go "$go_version" "" ;;
"") report go "" "Go 1.26 or newer: $go_hint" ;;
*) report go "" "this is $go_version, Go 1.26 or newer is needed: $go_hint" ;;
esac
compiler=$(go env CC 2>/dev/null || echo gcc)
found=$(command -v "${compiler%% *}" 2>/dev/null || true)
report "C compiler" "$found" "$c_hint (librdkafka is linked by cgo)"
if [ -n "$found" ] && [ "$(go env CGO_ENABLED 2>/dev/null)" = 0 ]; then
	report cgo "" "it is switched off: unset CGO_ENABLED, or go env -w CGO_ENABLED=1"
fi
exit $missing

#!/usr/bin/env bash
# Tidemark against real servers where there is no container engine: Postgres from
# this machine's packages, Apache Kafka and a schema registry from their Maven
# artifacts, and the five programs as processes of their own, configured by
# TIDEMARK_* variables alone, as in compose.yaml.
#
#   deploy/local-real.sh                     run until Ctrl-C
#   deploy/local-real.sh COMMAND [ARG …]     run, wait until all is ready, run the command, stop
#
# The command finds the fleet by TIDEMARK_FLEET, for example:
#
#   deploy/local-real.sh bin/tidemark import olist ../shared/data/olist
#
# Needs Go, gcc, Postgres 15 or newer, Java 17 or newer, Maven and curl.
#
# A benchmark wants Kafka and no fleet beside it; it deletes and makes the topics:
#
#   REAL_ONLY=kafka deploy/local-real.sh bash -c 'tidemark bench relay --kafka $TIDEMARK_KAFKA_BROKERS'
#
#   REAL_ONLY  kafka: only Apache Kafka
#   REAL_DIR   data and logs, default .tidemark/real; empty it to start afresh
#   REAL_BASE  ports are this plus 101 … 202 (1000 more for metrics), 432, 92, 93, 81; default 17000
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
dir=${REAL_DIR:-$root/.tidemark/real}
base=${REAL_BASE:-17000}
tools=$root/.tools
registry_version=3.0.9
export TIDEMARK_DB_PASSWORD=${TIDEMARK_DB_PASSWORD:-tidemark}

say() { printf '%s\n' "local-real: $*" >&2; }
die() { say "$*"; exit 1; }
need() { command -v "$1" >/dev/null || die "$1 is missing ($2)"; }
need go "https://go.dev/dl"
need java "Debian, Ubuntu: apt-get install openjdk-17-jre-headless"
need mvn "Debian, Ubuntu: apt-get install maven"
need curl "Debian, Ubuntu: apt-get install curl"
need psql "Debian, Ubuntu: apt-get install postgresql"
pgbin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1 || true)
[ -n "$pgbin" ] || pgbin=$(dirname "$(command -v initdb || die "Postgres is missing (Debian, Ubuntu: apt-get install postgresql)")")

mkdir -p "$dir/log"
chmod 755 "$dir"
pids=() names=()
start() { # NAME COMMAND…: a process that must live as long as this script
	local name=$1
	shift
	"$@" >>"$dir/log/$name.log" 2>&1 &
	pids+=($!) names+=("$name")
}
stop() {
	trap - EXIT INT TERM
	for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
		kill "${pids[i]}" 2>/dev/null || continue
		for ((n = 0; n < 250; n++)); do kill -0 "${pids[i]}" 2>/dev/null || break; sleep 0.1; done
		kill -9 "${pids[i]}" 2>/dev/null && say "${names[i]} had to be killed" || true
	done
}
trap stop EXIT
trap 'exit 130' INT TERM
alive() {
	for i in "${!pids[@]}"; do
		kill -0 "${pids[i]}" 2>/dev/null || die "${names[i]} ended; its log is $dir/log/${names[i]}.log"
	done
}
until_true() { # SECONDS WHAT COMMAND…
	local deadline=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		alive
		[ $SECONDS -lt $deadline ] || die "$what is not there after $1 s"
		sleep 0.2
	done
}

finish() { # [COMMAND ARG …]: all is ready
	local status=0
	if [ $# -gt 0 ]; then
		PATH=$dir/bin:$PATH "$@" || status=$?
	else
		say "Ctrl-C stops"
		wait -n || true
	fi
	alive
	exit $status
}

say "building"
"$root/deploy/build.sh" "$dir/bin"

# --- Postgres: a server refuses to run as root -----------------------------
start_postgres() {
	as=()
	if [ "$(id -u)" = 0 ]; then
		id postgres >/dev/null 2>&1 || die "Postgres does not run as root and there is no user postgres"
		as=(runuser -u postgres --)
		install -d -o postgres -m 700 "$dir/postgres"
	fi
	if [ ! -f "$dir/postgres/PG_VERSION" ]; then
		"${as[@]}" "$pgbin/initdb" -D "$dir/postgres" -U postgres --auth-host=scram-sha-256 --auth-local=trust \
			--encoding=UTF8 --no-locale >"$dir/log/initdb.log" 2>&1
	fi
	socket=$(mktemp -d /tmp/tidemark-real-XXXXXX) # a socket's path is short
	chmod 755 "$socket"
	[ ${#as[@]} = 0 ] || chown postgres "$socket"
	start postgres "${as[@]}" "$pgbin/postgres" -D "$dir/postgres" -p $((base + 432)) -k "$socket" \
		-c listen_addresses=127.0.0.1 -c max_connections=200 -c fsync=on -c synchronous_commit=on
	until_true 30 Postgres "$pgbin/pg_isready" -q -h "$socket" -p $((base + 432)) -U postgres
	PGHOST=$socket PGPORT=$((base + 432)) POSTGRES_USER=postgres sh "$root/deploy/postgres/init.sh"
	say "Postgres $("$pgbin/postgres" --version | grep -o '[0-9.]*' | head -1) on 127.0.0.1:$((base + 432))"
}
[ "${REAL_ONLY:-}" = kafka ] || start_postgres

# --- Apache Kafka, KRaft, one node: the artifacts the integration tests use --
pom=$root/tests/integration/kafka/pom.xml
libs=$tools/kafka/$(sha256sum "$pom" | cut -c1-12)/libs
if [ ! -d "$libs" ]; then
	say "Maven brings Apache Kafka"
	making=$(mktemp -d)
	cp "$pom" "$making/pom.xml"
	mvn -q -B -f "$making/pom.xml" dependency:copy-dependencies -DoutputDirectory="$making/libs"
	mkdir -p "$(dirname "$libs")"
	mv "$making/libs" "$libs"
	rm -r "$making"
fi
cat >"$dir/kafka.properties" <<-PROPERTIES
	process.roles=broker,controller
	node.id=1
	controller.quorum.voters=1@127.0.0.1:$((base + 93))
	controller.listener.names=CONTROLLER
	listeners=PLAINTEXT://127.0.0.1:$((base + 92)),CONTROLLER://127.0.0.1:$((base + 93))
	advertised.listeners=PLAINTEXT://127.0.0.1:$((base + 92))
	listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
	log.dirs=$dir/kafka
	auto.create.topics.enable=false
	offsets.topic.replication.factor=1
	offsets.topic.num.partitions=8
	transaction.state.log.replication.factor=1
	transaction.state.log.min.isr=1
	group.initial.rebalance.delay.ms=0
PROPERTIES
cat >"$dir/log4j2.properties" <<-'PROPERTIES'
	appender.out.type=Console
	appender.out.name=out
	appender.out.layout.type=PatternLayout
	appender.out.layout.pattern=%d %p %m%n
	rootLogger.level=warn
	rootLogger.appenderRef.out.ref=out
PROPERTIES
kafka=(java -Xmx512m -XX:+UseSerialGC "-Dlog4j2.configurationFile=$dir/log4j2.properties" -cp "$libs/*")
if [ ! -f "$dir/kafka/meta.properties" ]; then
	"${kafka[@]}" kafka.tools.StorageTool format --cluster-id dGlkZW1hcmstcmVhbC0x --config "$dir/kafka.properties" >"$dir/log/kafka.log" 2>&1
fi
start kafka "${kafka[@]}" kafka.Kafka "$dir/kafka.properties"

export TIDEMARK_KAFKA_BROKERS=127.0.0.1:$((base + 92))
export TIDEMARK_KAFKA_REGISTRY_URL=http://127.0.0.1:$((base + 81))/apis/ccompat/v7
export TIDEMARK_KAFKA_SCHEMA_IDS=registry
until_true 60 Kafka "$dir/bin/tidemark" setup topics
"$dir/bin/tidemark" setup topics >&2
say "Apache Kafka $(ls "$libs" | sed -n 's/^kafka-clients-\(.*\)\.jar$/\1/p') on $TIDEMARK_KAFKA_BROKERS"

[ "${REAL_ONLY:-}" != kafka ] || finish "$@"

# --- A schema registry that speaks Confluent's API, its data in Kafka --------
registry=$tools/apicurio/$registry_version
if [ ! -f "$registry/apicurio-registry-app-$registry_version-runner.jar" ]; then
	say "Maven brings the registry"
	mkdir -p "$registry"
	mvn -q -B dependency:copy -Dartifact="io.apicurio:apicurio-registry-app:$registry_version:tar.gz:all" -DoutputDirectory="$registry"
	tar -xzf "$registry/apicurio-registry-app-$registry_version-all.tar.gz" -C "$registry"
	rm "$registry/apicurio-registry-app-$registry_version-all.tar.gz"
fi
start registry env APICURIO_STORAGE_KIND=kafkasql APICURIO_KAFKASQL_BOOTSTRAP_SERVERS="$TIDEMARK_KAFKA_BROKERS" \
	QUARKUS_HTTP_HOST=127.0.0.1 QUARKUS_HTTP_PORT=$((base + 81)) \
	java -Xmx384m -XX:+UseSerialGC -jar "$registry/apicurio-registry-app-$registry_version-runner.jar"
"$dir/bin/tidemark" setup schemas | tail -1 >&2
say "registry on $TIDEMARK_KAFKA_REGISTRY_URL"

# --- The five programs --------------------------------------------------------
program() { # NAME PORT [VARIABLE=VALUE …]
	local name=$1 port=$((base + $2))
	shift 2
	start "$name" env TIDEMARK_ADDR=127.0.0.1:$port TIDEMARK_HTTP_ADDR=127.0.0.1:$((port + 1000)) \
		TIDEMARK_PAGE_SECRET=local-real "$@" \
		TIDEMARK_POSTGRES_URL="postgres://tidemark_$name:$TIDEMARK_DB_PASSWORD@127.0.0.1:$((base + 432))/tidemark_$name" \
		"$dir/bin/tidemark-$name"
}
owners=(TIDEMARK_OWNER_ORDER=127.0.0.1:$((base + 101)) TIDEMARK_OWNER_PAYMENT=127.0.0.1:$((base + 102))
	TIDEMARK_OWNER_SHIPMENT=127.0.0.1:$((base + 103)))
program order 101 TIDEMARK_FULFILMENT_PAYMENT_ADDR=127.0.0.1:$((base + 102)) TIDEMARK_FULFILMENT_SHIPMENT_ADDR=127.0.0.1:$((base + 103))
program payment 102
program shipment 103
program timeline 201 "${owners[@]}"
program operations 202 "${owners[@]}"
for port in 1101 1102 1103 1201 1202; do
	until_true 60 "the server on port $((base + port))" "$dir/bin/tidemark" setup ready --http-addr "127.0.0.1:$((base + port))"
done
export TIDEMARK_FLEET=127.0.0.1:$base
say "ready after $SECONDS s; try: $dir/bin/tidemark --addr $TIDEMARK_FLEET order place"

finish "$@"

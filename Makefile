# `make` prints what there is. Every target works on a fresh clone.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
MAKEFLAGS += --no-print-directory

MODULES := proto schemas platform services projections cmd/tidemark tests/integration
TOOLS   := $(CURDIR)/.tools/bin
export PATH := $(TOOLS):$(PATH)
export GOFLAGS := $(GOFLAGS) -buildvcs=false

.PHONY: help
help: ## Print this help.
	@echo "Tidemark. Two commands to begin with: make run, make test."
	echo
	sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do
		printf '  %-16s %s\n' "$$name" "$$text"
	done

.PHONY: run
run: ## Build and run everything embedded: servers, services, read models, light traffic. ARGS="--help" shows the flags.
	@tools/prerequisites.sh
	echo "building ./bin/tidemark (minutes the first time, then seconds)"
	go build -o bin/tidemark ./cmd/tidemark
	exec ./bin/tidemark dev $(ARGS)

.PHONY: build
build: ## Build ./bin/tidemark and the five services' programs into ./bin.
	go build -o bin/tidemark ./cmd/tidemark
	for main in services/*/cmd projections/*/cmd; do
		go build -o "bin/tidemark-$$(basename "$$(dirname "$$main")")" "./$$main"
	done

.PHONY: install
install: ## Install the tidemark command into go's bin directory.
	cd cmd/tidemark && go install .

.PHONY: test
test: ## All tests: unit, property, and integration on the embedded broker and on a real Kafka. REAL_KAFKA=required|auto|off.
	@tools/prerequisites.sh >/dev/null || tools/prerequisites.sh
	go run tools/testtable/*.go $(ARGS)

.PHONY: test-faults
test-faults: ## Kills, freezes, lost acknowledgements, cut connections, held transactions, foreign records: nothing is lost. ARGS="-bites 5 -seed 7".
	@tools/prerequisites.sh >/dev/null || tools/prerequisites.sh
	go test ./tests/integration/faults -count=1 -v -timeout 30m $(if $(ARGS),$(ARGS),-bites 3)

.PHONY: test-faults-kafka
test-faults-kafka: export TIDEMARK_TEST_BROKER := kafka
test-faults-kafka: export REAL_KAFKA := required
test-faults-kafka: test-faults ## The same on a real Apache Kafka, which is killed too; no other faults of the broker itself.

.PHONY: test-fulfilment
test-fulfilment: ## 2,000 orders under declines, lost replies, kills and cuts: each ends well or with a person, and the money balances. ARGS="-orders 5000 -seed 7".
	@tools/prerequisites.sh >/dev/null || tools/prerequisites.sh
	go test ./tests/integration/fulfilment -count=1 -v -timeout 40m -orders 2000 $(ARGS)

.PHONY: test-mixed
test-mixed: ## Earlier releases beside today's: old producers, old read models, an upgrade under load. Builds them from the history.
	@tools/prerequisites.sh >/dev/null || tools/prerequisites.sh
	go test ./tests/integration/mixed -count=1 -v -timeout 20m -tags mixed $(ARGS)

.PHONY: check
check: lint generated modules ## Everything CI checks: lint, generated code, modules alone, all tests with the race detector.
	@echo "check: tests with the race detector"
	go run tools/testtable/*.go -race $(ARGS)

.PHONY: generate
generate: tools ## Write the generated code: RPC contracts, typed events, alerts of read models.
	buf generate
	(cd schemas && go generate ./...)
	(cd projections && go run ./internal/alerts)

.PHONY: generated
generated: tools
	@echo "check: generated code is up to date"
	tools/generated.sh

.PHONY: modules
modules:
	@tools/modules.sh $(MODULES)

.PHONY: baseline
baseline: tools ## Accept today's RPC contracts as what `buf breaking` compares with.
	buf build proto --exclude-source-info -o proto/baseline.binpb

.PHONY: fmt
fmt: ## Format Go and proto files.
	gofmt -w $(MODULES) tools
	if [ -x $(TOOLS)/buf ]; then buf format -w proto; fi

.PHONY: tidy
tidy: ## Tidy every module and bring their versions together.
	for module in $(MODULES); do (cd $$module && GOWORK=off go mod tidy); done
	go work sync
	for module in $(MODULES); do (cd $$module && GOWORK=off go mod tidy); done

.PHONY: schema-check
schema-check: ## Do all versions of every event read each other? If not, say which consumer it breaks. Did anything released change?
	@cd schemas && go run ./internal/check

.PHONY: lint
lint: tools schema-check ## gofmt, go vet, staticcheck, buf lint, buf breaking, schema-check.
	@echo "lint: gofmt"
	unformatted=$$(gofmt -l $(MODULES) tools)
	if [ -n "$$unformatted" ]; then echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; fi
	echo "lint: go vet"
	go vet work
	go vet -tags mixed ./tests/integration/mixed
	for program in tools/*/; do go vet $$program*.go; done
	echo "lint: staticcheck"
	found=0
	for module in $(MODULES); do (cd $$module && staticcheck ./... | sed "s|^|$$module/|"; exit $${PIPESTATUS[0]}) || found=1; done
	for program in tools/*/; do staticcheck $$program*.go || found=1; done
	(cd tests/integration && staticcheck -tags mixed ./mixed) || found=1
	[ $$found = 0 ]
	echo "lint: buf lint"
	buf lint
	echo "lint: buf breaking, against proto/baseline.binpb"
	buf breaking proto --against proto/baseline.binpb

.PHONY: new-projection
new-projection: tools ## A new read model that compiles and whose tests pass: make new-projection name=warehouse.
	@go run tools/newprojection/*.go -name "$(name)"

.PHONY: view-diff
view-diff: ## Which fields of which rows does this branch change? Old and new views over recorded facts. ARGS="-base COMMIT -fail".
	@go run tools/viewdiff/*.go $(ARGS)

.PHONY: view-sample
view-sample: ## Record facts for view-diff. ARGS="-kafka HOST:PORT -out FILE" takes them from a running fleet.
	@go run ./projections/internal/viewsample $(ARGS)

.PHONY: bench-freshness
bench-freshness: ## How long after it was placed is an order visible? 3,000 orders at 50/s on a fleet of its own.
	@go build -o bin/tidemark ./cmd/tidemark
	./bin/tidemark bench freshness $(ARGS)

.PHONY: bench-completeness
bench-completeness: ## Which share of answers is proven complete and at most 2 s old at 500 commits/s?
	@go build -o bin/tidemark ./cmd/tidemark
	./bin/tidemark bench completeness $(ARGS)

.PHONY: bench-process
bench-process: ## How many orders a second go from place to completed? Recovery after kill -9; the cost of 100,000 waiting processes.
	@go build -o bin/tidemark ./cmd/tidemark
	./bin/tidemark bench process $(ARGS)

.PHONY: bench-relay
bench-relay: ## How fast does the relay drain, how soon is a commit readable, what does the journal cost? ARGS="--kafka HOST:PORT" for a real Kafka.
	@go build -o bin/tidemark ./cmd/tidemark
	./bin/tidemark bench relay $(ARGS)

.PHONY: bench-projection
bench-projection: ## How fast do read models apply facts, what does a query cost, how soon is a commit visible? Beside bare floors.
	@go build -o bin/tidemark ./cmd/tidemark
	./bin/tidemark bench projection $(ARGS)

.PHONY: size
size: ## Print the budgets of the house style: packages, interfaces, file sizes, tests, documented names.
	@go run tools/size/*.go $(MODULES)

.PHONY: tools
tools:
	@tools/install.sh

# The two commands that matter: `make demo` shows it, `make test` proves it.
# `make help` lists the rest.

BIN      := bin/fail2ban-loki-exporter
VERSION  ?= $(shell cat VERSION)
REVISION ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
BRANCH   ?= $(shell git rev-parse --abbrev-ref HEAD 2>/dev/null || echo unknown)
DATE     ?= $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
PKG      := github.com/prometheus/common/version
LDFLAGS  := -X $(PKG).Version=$(VERSION) -X $(PKG).Revision=$(REVISION) -X $(PKG).Branch=$(BRANCH) \
	-X $(PKG).BuildUser=make -X $(PKG).BuildDate=$(DATE)

GOLANGCI_LINT := v2.15.0
TOOLS         := $(CURDIR)/bin/tools

PAGES ?= 5000,50000

.PHONY: help build unit e2e test demo bench lint fmt soak clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the binary: bin/fail2ban-loki-exporter
	go build -ldflags '$(LDFLAGS)' -o $(BIN) ./exporter

unit: ## the tests that need nothing but Go
	go test ./...

e2e: build ## the binary against a real Loki, Prometheus and fail2ban (the first build of these takes minutes)
	e2e/install-fail2ban.sh
	cd e2e && EXPORTER=$(CURDIR)/$(BIN) go test -count=1 -parallel 8 -timeout 40m ./...

test: unit e2e ## all that CI tests

demo: build ## real servers, the recorded fleet and the exporter, until Ctrl-C; ONCE=1 ends by itself
	cd e2e && go run ./demo

bench: ## the benchmarks, each beside what a user would use instead
	go test -run '^$$' -bench . -benchmem ./...

soak: build ## what takes long: fuzzing (FUZZTIME=10m each), 50 kills (KILLS=50), bad receivers (SOAK=10m), 5 million lines (BACKFILL=5000000)
	go test -run '^$$' -fuzz FuzzParse -fuzztime $(or $(FUZZTIME),10m) -fuzzminimizetime 1s ./exporter/internal/fail2ban
	go test -run '^$$' -fuzz FuzzForms -fuzztime $(or $(FUZZTIME),10m) -fuzzminimizetime 1s ./exporter/internal/fail2ban
	go test -run '^$$' -fuzz FuzzEngine -fuzztime $(or $(FUZZTIME),10m) -fuzzminimizetime 1s ./exporter/internal/correlate
	go test -run '^$$' -fuzz FuzzProtobuf -fuzztime $(or $(FUZZTIME),10m) -fuzzminimizetime 1s ./exporter/internal/loki
	cd e2e && KILLS=$(or $(KILLS),50) SOAK=$(or $(SOAK),10m) BACKFILL=$(or $(BACKFILL),5000000) PAGES=$(PAGES) \
		EXPORTER=$(CURDIR)/$(BIN) go test -count=1 -v -timeout 90m -run 'TestKilled|TestSoak|TestBackfill' .

lint: $(TOOLS)/golangci-lint-$(GOLANGCI_LINT) ## golangci-lint with the settings of .golangci.yml
	$< run ./...
	cd e2e && $< run --config $(CURDIR)/.golangci.yml ./...

fmt: $(TOOLS)/golangci-lint-$(GOLANGCI_LINT) ## gofumpt and sorted imports
	$< fmt ./...
	cd e2e && $< fmt --config $(CURDIR)/.golangci.yml ./...

$(TOOLS)/golangci-lint-$(GOLANGCI_LINT):
	GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)
	mv $(TOOLS)/golangci-lint $@

clean: ## remove what was built
	rm -rf bin

# Skiff's own commands. `make help` lists them. Everything that is built lies in bin/.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO ?= go
export GO

# The same for everything that is compiled, so that building and testing share one build cache.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false
export PATH := $(CURDIR)/bin:$(PATH):/usr/sbin:/sbin

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Clusters need root. go must be found there too, since `skiff image build` compiles.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo env "PATH=$(PATH)" $(if $(KUBECONFIG),"KUBECONFIG=$(KUBECONFIG)"))

# NAME=other make up: a second cluster beside the first.
NAME ?= skiff
NODES ?= 2

.PHONY: help
help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

## building

.PHONY: build skiff runtime kubectl kubectls deps
build: skiff runtime ## bin/skiff and the pinned container runtime in bin/runtime

skiff: ## bin/skiff alone, and the small program that containerd calls for a pod's network
	$(GO) build -ldflags "-s -w -X main.version=$(VERSION)" -o bin/skiff ./cmd/skiff
	$(GO) build -ldflags "-s -w" -o bin/skiff-cni ./cmd/skiff-cni

runtime: ## bin/runtime: containerd, its shim and runc, from the versions in tools/runtime/go.mod
	@tools/deps.sh build
	@tools/runtime/build.sh bin/runtime

kubectl: ## bin/kubectl: stock kubectl, for machines without one
	@tools/kubectl/build.sh bin/kubectl

kubectls: kubectl ## older kubectls in bin/ too: the stories in skifftest/stories are then told with each of them
	@for minor in 1.32 1.35; do tools/kubectl/build.sh bin/kubectl-$$minor $$minor; done

deps: ## install what this machine lacks
	@tools/deps.sh build run test

## running

.PHONY: up down
up: ## a cluster with the example in it, from nothing: prints the address that answers
	@tools/deps.sh build run
	@$(MAKE) --no-print-directory build
	@command -v kubectl >/dev/null || $(MAKE) --no-print-directory kubectl
	$(ROOT) bin/skiff up --name $(NAME) --nodes $(NODES)
	$(ROOT) bin/skiff image build --name $(NAME) --tag example/web:v1 ./examples/web
	@NAME=$(NAME) examples/show.sh

down: ## stop the cluster and remove all of it
	$(ROOT) bin/skiff down --name $(NAME)

## checking

.PHONY: test lint load crash fire fuzz upstream parts oracle oracle-rules bench figures clean
test: ## all the tests; as root, those with containers too
	@tools/deps.sh build run test
	@tools/runtime/older.sh bin/older
	@$(MAKE) --no-print-directory build
	@command -v kubectl >/dev/null || $(MAKE) --no-print-directory kubectl
	$(GO) test -v -timeout 30m ./... | awk -f tools/told.awk
	@for dir in $$(find tools conformance -name go.mod -printf '%h\n' 2>/dev/null | sort); do \
		if compgen -G "$$dir/*_test.go" >/dev/null || [[ -n $$(find "$$dir" -name '*_test.go' -print -quit) ]]; then \
			echo "$$dir:"; (cd "$$dir" && $(GO) test -v -timeout 30m ./...) | awk -f tools/told.awk; \
		fi; \
	done

lint: ## formatting, go vet, staticcheck
	@unformatted=$$(gofmt -l .); \
		if [[ -n $$unformatted ]]; then echo "not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	cd tools/kubectl && $(GO) vet ./...
	@cd tools/lint && $(GO) build -trimpath -buildvcs=false -o ../../bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	bin/staticcheck ./...

crash: ## kill the server ten times and cut its disk's power fifty times, under load; needs root
	SKIFF_CRASH_KILLS=10 SKIFF_CRASH_POWER_CUTS=50 $(GO) test -count=1 -timeout 1h -v -run 'TestServer(Killed|PowerCut)' ./cluster/crash
	SKIFF_CRASH=1 $(GO) test -count=1 -timeout 1h -v -run 'TestAClusterWithContainers$$' ./cmd/skiff
	SKIFF_STORE_POWER_CUTS=50 $(GO) test -count=1 -timeout 1h -v -run 'TestPowerCut' ./store

# FIRE=24h make fire: as long as you like.
FIRE ?= 20m
fire: ## writers, watchers, compaction and kill -9 for FIRE (20m), all answers checked
	SKIFF_FIRE=$(FIRE) $(GO) test -count=1 -timeout 0 -v -run TestConsistencyUnderFire ./cluster/crash

# FUZZTIME=10m make fuzz: as long for each of them.
FUZZTIME ?= 1m
fuzz: ## every fuzzer for FUZZTIME (1m), one after another
	@for file in $$(grep -rl --include='*_test.go' --exclude-dir=bin --exclude-dir=tools --exclude-dir=conformance '^func Fuzz' . | sort); do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\).*/\1/p' $$file); do \
			echo "$$name in $$(dirname $$file)"; \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -parallel 1 $$(dirname $$file); \
		done; \
	done

load: build ## a minute of rolling updates under 200 requests a second; needs root
	SKIFF_LOAD=60s $(GO) test -count=1 -timeout 10m -v -run 'TestStoriesWithContainers/a_rollout' ./cmd/skiff

# FOCUS='…': only the specs that match. ARGS='-failed': only those that did not pass; more with ARGS=-help.
conformance: build ## upstream's conformance specs on a cluster of its own (FOCUS='…': some); needs root
	@[[ -x bin/kubectl ]] || $(MAKE) --no-print-directory kubectl
	@mkdir -p bin/conformance
	cd conformance && $(GO) build -o ../bin/conformance/conformance ./cmd/conformance
	$(ROOT) bin/conformance/conformance -root . $(if $(FOCUS),-focus '$(FOCUS)') $(ARGS)

conformance-ci: ## the selection of CI (conformance/ci.txt): fails when a spec no longer passes
	@$(MAKE) --no-print-directory conformance ARGS='-specs conformance/ci.txt -check -limit 2m'

# ORACLE_SEED=7: other cases. conformance/oracle/README.md lists what else there is.
ORACLE_SEED ?= 1
ORACLE := cd conformance && ORACLE_SEED=$(ORACLE_SEED) ORACLE_N=200 ORACLE_EVERY=200
oracle: ## random objects, patches, roles and clusters before Skiff's code and upstream's: how often they agree
	$(ORACLE) ORACLE_WRITE=1 $(GO) test -count=1 -timeout 60m -v -run '^Test' ./oracle

# The packages are compiled anew with counters: 10 minutes the first time.
oracle-rules: ## which rules of upstream's validation the oracle reaches
	@mkdir -p bin/conformance
	$(ORACLE) $(GO) test -count=1 -timeout 60m -run TestWrites -coverprofile=../bin/conformance/rules.profile \
		-coverpkg='k8s.io/kubernetes/pkg/apis/.../validation,k8s.io/kubernetes/pkg/registry/...,k8s.io/kubernetes/pkg/api/...,k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation,k8s.io/kube-aggregator/pkg/apis/apiregistration/validation,k8s.io/apimachinery/pkg/api/validation,k8s.io/apimachinery/pkg/apis/meta/v1/validation' ./oracle
	cd conformance && $(GO) run ./cmd/rules -profile ../bin/conformance/rules.profile > results/oracle-rules.txt
	@head -1 conformance/results/oracle-rules.txt

# The first time 10 minutes; then what there is is used again.
upstream: ## bin/upstream: upstream's programs and etcd, to compare with
	conformance/upstream/build.sh bin/upstream

parts: upstream runtime ## upstream's components on Skiff's API server, and Skiff's on upstream's; the kubelet needs root
	conformance/upstream/build.sh bin/upstream kubelet
	cd conformance && $(GO) test -count=1 -timeout 10m -v ./parts

# BENCHFLAGS='-only skiff': the other side's figures stay.
bench: build upstream ## the same work on upstream's control plane and on ours (docs/benchmarks.md); needs root
	cd conformance && $(GO) build -o ../bin/compare ./cmd/compare
	$(ROOT) bin/compare -root . $(BENCHFLAGS)

figures: build ## measure a start and an idle server (docs/benchmarks.md); needs root
	bench/figures.sh

clean: ## remove bin/
	rm -rf bin

# make help lists the targets. Bare go commands need the GOFLAGS below:
#   export GOFLAGS=-ldflags=-checklinkname=0

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS   += --no-print-directory

# giouring reaches into package syscall by go:linkname, which Go's linker
# refuses since 1.23 unless it is told. The version is stamped below, so that a
# checkout owned by somebody else builds too.
export GOFLAGS := $(strip $(filter-out -ldflags=% -buildvcs=%,$(GOFLAGS)) -ldflags=-checklinkname=0 -buildvcs=false)

# From git, or from the command line: VERSION=1.2.3.
VERSION :=
override VERSION := $(shell VERSION='$(VERSION)' scripts/version)
LDFLAGS := -checklinkname=0 -X main.version=$(VERSION)

## What can be set
# One kernel series, or several: KERNEL=6.12 is one, the default both. uml is
# user-mode Linux, which has to be built (make uml) and is not part of the default.
KERNEL   ?= 6.12 7.3
# A pattern of test names, as for go test -run.
RUN      ?=
# Packages; the default is all (unit tests), or those that use test/vmtest (test-vm).
PKG      ?=
# Seeded runs of the simulator.
SEEDS    ?= 10000
# Not empty: the simulator cuts the power at every write, also of recoveries.
FULL     ?=
# Rounds of each test of the campaign, and the seed of the first (empty: by the clock).
ROUNDS   ?= 100
SEED     ?=
# Time for each fuzz target.
FUZZTIME ?= 30s
# Power cuts for each combination of make powercut.
CUTS     ?= 100
# Options of scripts/demo; DEMO=-h lists them.
DEMO     ?=
# Options for go test, such as TESTFLAGS=-v.
TESTFLAGS ?=
# Further flags of vmexec, such as VMFLAGS='-mem 4096 -keep'.
VMFLAGS  ?=
# How many jobs make test runs at a time: one more than there are CPUs, if the memory is enough.
JOBS     ?=
# How long the tests of a package may take in a guest.
VM_TIMEOUT ?= 60m

VMEXEC  = $(CURDIR)/bin/vmexec
# go test splits -exec at spaces, so the checkout's path goes in quotes.
VM_EXEC = '$(VMEXEC)' -tools all -file '$(CURDIR)/bin/ublk-remap:/usr/local/bin/ublk-remap' \
	-file '$(CURDIR)/bin/ublk-remap-monitor:/usr/local/bin/ublk-remap-monitor' $(VMFLAGS)
GOLANGCI = go tool -modfile=tools/go.mod golangci-lint

.PHONY: build vmexec deps test test-unit test-tools test-vm test-vm-full uml campaign powercut sim planted-table lint fmt bench bench-map demo fuzz clean help FORCE

build: bin/ublk-remap bin/ublk-remap-monitor ## build the static binaries bin/ublk-remap and, for some of its verbs, bin/ublk-remap-monitor

bin/ublk-remap: FORCE
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/ublk-remap

bin/ublk-remap-monitor: FORCE
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/ublk-remap/ublk-remap-monitor

vmexec: bin/vmexec ## build bin/vmexec, which runs programs in guests

bin/vmexec: FORCE
	CGO_ENABLED=0 go build -trimpath -o $@ ./cmd/vmexec

FORCE:

deps: ## install what the tests need on Debian (says what; asks nothing)
	scripts/deps

# By a second make, so that nothing begins before what it needs is there.
test: deps ## unit tests with -race, the simulator, and both kernels; installs what they need
	@$(MAKE) build vmexec
	@for k in $(KERNEL); do $(VMEXEC) -kernel $$k -fetch; done
	@KERNEL='$(KERNEL)' JOBS='$(JOBS)' scripts/test

test-unit: ## unit tests with -race, on this machine
	go test -race -timeout 30m $(if $(RUN),-run '$(RUN)') $(TESTFLAGS) $(or $(PKG),./...)
	$(if $(PKG),,@$(MAKE) test-tools)

test-tools: # unit tests of the module of tools
	go -C tools test $(if $(RUN),-run '$(RUN)') $(TESTFLAGS) ./...

# One recipe per kernel, so that they run side by side: an emulated guest
# keeps one CPU busy. Lines are marked with the kernel.
VM_TARGETS = $(addprefix test-vm@,$(KERNEL))
.PHONY: $(VM_TARGETS)

test-vm: build vmexec ## tests in guests: KERNEL=6.12 RUN=TestX PKG=./ublk/...
	@$(MAKE) -j$(words $(KERNEL)) --no-builtin-rules $(VM_TARGETS)

# Built on the first use; a look at the cache after that.
test-vm@uml: uml

$(VM_TARGETS): test-vm@%:
	@pkgs='$(PKG)'; \
	if [ -z "$$pkgs" ]; then pkgs=$$(scripts/vm-packages); fi; \
	go test -count=1 -p 1 -timeout $(VM_TIMEOUT) -exec "$(VM_EXEC) -kernel $*" $(if $(RUN),-run '$(RUN)') $(TESTFLAGS) $$pkgs 2>&1 | sed -u 's/^/[$*] /'

uml: vmexec ## build user-mode Linux into the cache, once (some minutes): make test-vm KERNEL=uml
	$(VMEXEC) -kernel uml -fetch

# Long, so under user-mode Linux unless KERNEL is given on the command line.
campaign: export UBLK_REMAP_ROUNDS := $(ROUNDS)
campaign: export UBLK_REMAP_SEED := $(SEED)
campaign: ## servers killed at random, ROUNDS=300 times: KERNEL=uml SEED=17 RUN=TestKillUnderLoad
	@$(MAKE) test-vm KERNEL='$(if $(filter command line,$(origin KERNEL)),$(KERNEL),uml)' PKG=./test/campaign \
		RUN='$(or $(RUN),Kill)' TESTFLAGS='-v $(TESTFLAGS)' VM_TIMEOUT=48h

test-vm-full: export UBLK_REMAP_FULL := 1
test-vm-full: test-vm ## the whole cross of features in guests (takes long)

powercut: ## many power cuts on real kernels: KERNEL=7.3 CUTS=500
	UBLK_REMAP_CUTS=$(CUTS) $(MAKE) test-vm PKG=./test/powercut RUN='$(or $(RUN),TestPowerCut)' TESTFLAGS='-timeout 24h $(TESTFLAGS)'

# Bugs inside of the code under test are planted in a build of their own.
sim: ## the simulator: SEEDS=100000 FULL=1 for the long mode
	UBLK_REMAP_SIM_SEEDS=$(SEEDS) $(if $(FULL),UBLK_REMAP_FULL=1) go test -count=1 -timeout 0 $(if $(RUN),-run '$(RUN)',-skip TestPlantedBugs) $(TESTFLAGS) ./test/sim/...
	$(if $(RUN),,go test -count=1 -timeout 0 -tags planted -run TestPlantedBugs $(TESTFLAGS) ./test/sim)

planted-table: ## write the table of planted bugs in docs/RELIABILITY.md anew
	go test -count=1 -timeout 0 -tags planted -run TestPlantedBugs ./test/sim -table ../../docs/RELIABILITY.md

lint: ## golangci-lint with the import map, and go.mod's tidiness
	$(GOLANGCI) run ./...
	cd tools && go tool golangci-lint run ./...
	go mod tidy -diff
	go -C tools mod tidy -diff
	@for f in scripts/* .ci/run; do if head -1 "$$f" | grep -q 'bash$$'; then bash -n "$$f"; fi; done

fmt: ## format the Go files
	$(GOLANGCI) fmt ./...

# User-mode Linux unless KERNEL is given on the command line, five rounds unless ROUNDS is.
bench: KERNEL := $(if $(filter command line,$(origin KERNEL)),$(KERNEL),uml)
bench: ROUNDS := $(if $(filter command line,$(origin ROUNDS)),$(ROUNDS),5)
bench: build vmexec bin/bench ## devices side by side, by fio: KERNEL=7.3 PEER=path/of/ublk ROUNDS=3 ONLY=randread PEERS='ublksrv|remap'
	$(if $(filter uml,$(KERNEL)),$(VMEXEC) -kernel uml -fetch)
	bin/bench -kernel '$(KERNEL)' -rounds $(ROUNDS) -commit '$(VERSION)' $(if $(PEER),-peer '$(PEER)') $(if $(ONLY),-only '$(ONLY)') \
		$(if $(PEERS),-peers '$(PEERS)') $(if $(VARIANTS),-variant '$(VARIANTS)') $(if $(RUNTIME),-runtime '$(RUNTIME)') \
		$(if $(QUEUES),-queues '$(QUEUES)') $(if $(SEED),-seed $(SEED)) $(if $(OUT),-out '$(OUT)') $(BENCHFLAGS)

bin/bench: FORCE
	CGO_ENABLED=0 go build -trimpath -o $@ ./cmd/bench

bench-map: ## Go benchmarks on this machine, for benchstat: RUN=Next COUNT=6 PKG=./bench
	go test -run '^$$' -bench '$(or $(RUN),.)' -benchmem -count '$(or $(COUNT),6)' -timeout 0 $(TESTFLAGS) $(or $(PKG),./bench ./metadata)

demo: ## the main job, shown on this machine or in a guest: DEMO='-k 7.3 -c 200'
	scripts/demo $(DEMO)

fuzz: ## every fuzz target for FUZZTIME each: PKG=./metadata
	@for pkg in $$(go list $(or $(PKG),./...)); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

clean: ## remove what was built; the cache stays
	rm -rf bin dist

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The version is that of the tag or the commit; VERSION=1.2.3 is another one. KEY is what
# packages and checksums are signed with: see scripts/sign.
KEY ?=
.PHONY: packages release
packages: ## deb and rpm for amd64 and arm64, and SHA256SUMS, into dist/: KEY=file|name signs
	VERSION='$(VERSION)' KEY='$(KEY)' scripts/package dist

release: ## all that a release page carries, into dist/, from a commit with a tag: KEY=file|name
	KEY='$(KEY)' scripts/release dist

# Whole Debian systems under user-mode Linux (test/vmtest/system).
.PHONY: test-host test-host-short deps-host
deps-host: ## install what only test-host needs on Debian
	scripts/deps --host

test-host: export UBLK_REMAP_HOST := 1
test-host: deps-host uml ## whole Debian systems from boot to power-off, in guests: RUN=TestX
	go test -count=1 -timeout $(VM_TIMEOUT) $(if $(RUN),-run '$(RUN)') $(TESTFLAGS) ./test/host

.PHONY: show
show: export UBLK_REMAP_SHOW := $(or $(MINUTES),10)
show: ## four disks fail for MINUTES=10, seen by Prometheus and a browser; dist/show has what they saw
	@$(MAKE) test-host RUN='$(or $(RUN),TestShow|TestMonitorCost)' TESTFLAGS=-v VM_TIMEOUT=60m

# For make test: nothing is compiled for minutes, so what make uml has not built is not tested.
test-host-short: export UBLK_REMAP_HOST := if-built
test-host-short:
	go test -short -v -count=1 -timeout 20m $(if $(RUN),-run '$(RUN)') ./test/host

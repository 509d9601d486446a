# Everything a person needs to build, run and test Quorate. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Outside the checkout, so that all clones on a machine share one build of RocksDB.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/quorate/target
export PATH := $(PATH):$(HOME)/.cargo/bin

# More arguments for `quorate dev` or the benchmarks: make run ARGS="--nodes 5"
ARGS ?=
# Where `make install` puts the binary: into $(PREFIX)/bin.
PREFIX ?= $(HOME)/.local

# Never a `--release`: the `dev` profile is the optimised one, see Cargo.toml.
CARGO := cargo
LOCKED := --locked
QUORATE := $(CARGO_TARGET_DIR)/debug/quorate

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

.PHONY: run
run: ## Build, then start a cluster of three nodes on this machine; Ctrl-C stops it
	@scripts/setup.sh build
	@$(CARGO) build $(LOCKED) --package quorate-node
	@exec "$(QUORATE)" dev $(ARGS)

.PHONY: build
build: ## Build the quorate binary and print where it is
	@scripts/setup.sh build
	@$(CARGO) build $(LOCKED) --package quorate-node
	@echo "$(QUORATE)"

.PHONY: install
install: build ## Put the binary into ~/.local/bin (or PREFIX=... /bin)
	@install -D -m 755 "$(QUORATE)" "$(PREFIX)/bin/quorate"

# The node with planted bugs. Only our crates are built again; RocksDB is the one that everything shares, because
# quorate-proto gives it the same features here.
.PHONY: quorate-mutant
quorate-mutant:
	@$(CARGO) build $(LOCKED) --package quorate-node --package quorate-proto --features quorate-node/mutants \
		--bin quorate-mutant

.PHONY: mutants
mutants: quorate-mutant ## Run every planted bug, and print which checker caught it: make mutants ARGS="--repeat 3"
	@scripts/setup.sh test
	@$(CARGO) build $(LOCKED) --package quorate-jepsen-like-tests --package quorate-proto --bin mutants
	@exec "$(dir $(QUORATE))mutants" $(ARGS)

# Documentation's examples first: the last line is the summary of the runner that runs the rest. What
# tests need is installed, so that none may skip itself.
.PHONY: test
test: export QUORATE_TEST_REQUIRE := 1
test: export QUORATE_SIM_SECONDS ?= 125
test: ## Run every test
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory quorate-mutant
	@$(CARGO) test $(LOCKED) --workspace --doc --quiet
	@if command -v cargo-nextest >/dev/null; then \
		$(CARGO) nextest run $(LOCKED) --workspace; \
	else \
		$(CARGO) test $(LOCKED) --workspace --lib --bins --tests --examples; \
	fi

# With quorate-proto, the features of RocksDB's build dependencies are those of the whole workspace.
# Without it, Cargo would compile RocksDB a second time.
.PHONY: test-%
test-%: ## Run the tests of one folder: make test-storage
	@scripts/setup.sh test
	@if [[ "$*" == jepsen-like-tests ]]; then \
		$(CARGO) build $(LOCKED) --package quorate-node; \
		$(MAKE) --no-print-directory quorate-mutant; \
	fi
	@$(CARGO) test $(LOCKED) --package quorate-$* --package quorate-proto

.PHONY: check
check: ## Check format, lints, documentation, import direction and licences; changes nothing
	@scripts/setup.sh build
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps
	@$(CARGO) test $(LOCKED) --workspace --test architecture --test documentation
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --offline check bans licenses sources; fi

.PHONY: fix
fix: ## Format, and let clippy repair what it can
	@scripts/setup.sh build
	@$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	@$(CARGO) fmt --all

.PHONY: jepsen
jepsen: ## Torment real clusters for 90 minutes: make jepsen ARGS="--minutes 10 --mixes power"
	@scripts/setup.sh test
	@$(CARGO) build $(LOCKED) --package quorate-node --package quorate-jepsen-like-tests
	@exec "$(dir $(QUORATE))jepsen" --log docs/JEPSEN-RUNS.md --out "$(CARGO_TARGET_DIR)/jepsen-runs" $(ARGS)

.PHONY: bench
bench: ## Measure the cost of a sample under four loads, beside VictoriaMetrics and Prometheus
	@scripts/setup.sh bench
	@$(CARGO) build $(LOCKED) --package quorate-node --package quorate-bench
	@exec "$(dir $(QUORATE))cost" $(ARGS)

.PHONY: peers
peers: ## Count what Quorate, Prometheus and VictoriaMetrics lose to power cuts and SIGKILL (as root)
	@scripts/setup.sh bench
	@$(CARGO) build $(LOCKED) --package quorate-node --package quorate-jepsen-like-tests
	@exec "$(dir $(QUORATE))peers" $(ARGS)

.PHONY: setup
setup: ## Install what building, testing and benchmarking need
	@scripts/setup.sh bench

.PHONY: clean-dev
clean-dev: ## Delete the data of `make run`
	@rm -rf -- "$${XDG_DATA_HOME:-$(HOME)/.local/share}/quorate/dev"

.PHONY: clean
clean: ## Delete everything built, RocksDB too, for all checkouts
	@$(CARGO) clean

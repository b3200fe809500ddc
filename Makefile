# Each target sets up what it needs. On Debian with Rust, `make run` and `make test` are the only commands.

PYTHON := .venv/bin/python
AXUM := docker/apps/axum
AXUM_BIN := $(CURDIR)/target/apps/release/recipes-axum

PGO := target/pgo/carpool-pgo
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

.PHONY: run test simulate dashboard-check bench bench-check advisor-check conformance failover upgrades chaos soak deny fuzz showdown compose-test build pgo deb axum clean

# Builds Carpool and runs it: before DATABASE_URL, else before a throw-away local PostgreSQL.
run:
	@scripts/run.sh

# Everything: formatting, lints, unit, integration and driver tests, quick parts of `make conformance` and
# `make chaos`, and `make bench-check`.
test: setup axum
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	CARPOOL_TEST_AXUM=$(AXUM_BIN) cargo test
	$(PYTHON) -m unittest discover --quiet --start-directory tests/conformance
	$(PYTHON) -m unittest discover --quiet --start-directory tests/showdown
	$(PYTHON) tests/conformance --quick --carpool target/debug/carpool
	$(PYTHON) tests/chaos --quick --carpool target/debug/carpool
	cargo build --profile measure
	$(PYTHON) tests/bench/check.py

# The simulation with new seeds, for eight hours. Options: make simulate SIMULATE=600 (seconds)
SIMULATE := 28800
simulate:
	CARPOOL_SIM_SECONDS=$(SIMULATE) CARPOOL_SIM_FIRST=$${CARPOOL_SIM_FIRST:-$$(date +%s)} \
		cargo test --lib simulation::tests::nothing_goes_wrong -- --nocapture

# Against PgBouncer, in interleaved rounds. Options: make bench BENCH="--quick", and PGO= to do without that build
bench: setup build $(PGO)
	CARGO_TARGET_DIR=target/bench cargo build --quiet --release --manifest-path tests/bench/floor/Cargo.toml
	$(PYTHON) tests/bench/bench.py $(addprefix --carpool ,target/release/carpool $(PGO)) $(BENCH)

# Instructions, allocations and system calls of a transaction, memory of an idle client, against the committed baseline;
# with valgrind and strace, where they are there. Options: make bench-check CHECK="--update"
bench-check: setup
	cargo build --profile measure
	$(PYTHON) tests/bench/check.py $(CHECK)

# What the pool-size advisor predicts against what is measured, in less than six minutes. Options: make advisor-check ADVISOR="--write"
advisor-check: setup build
	$(PYTHON) tests/advisor --carpool target/release/carpool $(ADVISOR)

# PostgreSQL's and drivers' own test suites, directly and through Carpool. Options: make conformance CONFORMANCE="--help"
conformance: setup build
	$(PYTHON) tests/conformance $(CONFORMANCE)

# A primary that dies under load, its standby promoted, with real streaming replication: what docs/failover.md has.
# Options: make failover ROUNDS=3
ROUNDS := 10
failover:
	CARPOOL_FAILOVER_ROUNDS=$(ROUNDS) cargo test --test it -- --nocapture failover::

# How long anybody waits in an upgrade under load. Options: make upgrades UPGRADES="--rate 5000"
upgrades: setup build
	$(PYTHON) tests/chaos/upgrades.py $(UPGRADES)

# Faults against real PostgreSQL under load, with books that are checked. Options: make chaos CHAOS="--faults kill,cut --seconds 10"
chaos: setup build
	@tests/chaos/setup.sh
	$(PYTHON) tests/chaos $(CHAOS)

# Two hours of mixed load with faults; notes and a picture go to target/chaos. Options: make soak SOAK=SECONDS
SOAK := 7200
soak: setup build
	@tests/chaos/setup.sh
	$(PYTHON) tests/chaos --soak $(SOAK) $(CHAOS)

# The demo applications on one pool, with a report in target/showdown. Options: make showdown SHOWDOWN="--help"
showdown: build axum
	@tests/showdown/setup.sh
	.cache/showdown/bin/python tests/showdown $(SHOWDOWN)

# The dashboard in headless Chromium, under load; screenshots go to target/dashboard. Options: make dashboard-check
# DASHBOARD="--clients 1000 --chromium /path/to/chromium"
dashboard-check:
	@tests/dashboard/setup.sh
	cargo build
	node tests/dashboard/check.mjs $(DASHBOARD)

# The compose stack for real, with Docker. Options: make compose-test COMPOSE_TEST="--prebuilt"
compose-test:
	docker/test.py $(COMPOSE_TEST)

# Licences, advisories and bans of the dependencies (deny.toml). Builds cargo-deny the first time, so it isn't part of `make test`.
deny:
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --all-features check

# Fuzzes every reader of foreign bytes. Options: make fuzz FUZZ="SECONDS [TARGET…]"
fuzz:
	fuzz/run.sh $(FUZZ)

build:
	cargo build --release

# A release build that is optimized by a profile of itself under load, in target/pgo: what packages should have in them.
pgo: $(PGO)

target/pgo/carpool-pgo: Cargo.toml Cargo.lock $(shell find src -name '*.rs')
	@$(MAKE) --no-print-directory setup
	PYTHON=$(PYTHON) scripts/pgo.sh $@

# A Debian package in target/debian, of the optimized build.
deb: $(PGO)
	@command -v cargo-deb >/dev/null || cargo install --locked cargo-deb
	$(PGO) generate target
	CARGO_TARGET_DIR=target/pgo cargo deb --no-build --strip --target $(HOST) --output target/debian/

# The axum app that the sharing test runs; a crate of its own, so that its dependencies aren't Carpool's.
axum:
	CARGO_TARGET_DIR=target/apps cargo build --release --manifest-path $(AXUM)/Cargo.toml

.PHONY: setup
setup:
	@tests/setup.sh

clean:
	cargo clean
	rm -rf .venv .cache tests/drivers/node_modules tests/dashboard/node_modules

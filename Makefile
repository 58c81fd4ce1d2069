# Targets use the servers that DATABASE_URL and AMQP_URL name, if both are set. Otherwise they start private servers and stop
# them at the end: this machine's own, or those of the Debian suite that SERVERS names.
ifdef SERVERS
export PENR_SERVICES_SUITE := $(SERVERS)
endif

.PHONY: help demo run install test schema soak bench check shellcheck journeys examples screenshots clean toolchain browser beside check-compose

help:
	@echo "make demo    show an event's whole way, with checks"
	@echo "make run     everything on this machine until Ctrl-C: servers, worker, a receiver"
	@echo "make install the program with its man pages and shell completions, into PREFIX=/usr/local (and DESTDIR)"
	@echo "make test    all tests; ARGS='--test it NAME' picks some, on servers that are kept if DATABASE_URL and AMQP_URL are set:"
	@echo "             PENR_SERVICES_FAST=1 scripts/services start kept; eval \"\$$(scripts/services env kept)\""
	@echo "make schema  write docs/schema.sql after a migration was added"
	@echo "make soak    minutes of faults under load; PENR_SOAK_SECONDS=30 shortens them, ARGS=NAME picks some"
	@echo "make bench   deliveries per second through one worker; BENCH=latency and others measure more"
	@echo "make check   formatting, lints, documentation, scripts"
	@echo "make check-compose  the image and the compose files on a Docker engine, with restarts of everything"
	@echo "make journeys  longer visits of the page in a browser"
	@echo "make examples  what others read: the code that the page and docs/publishing.md show, in all its languages; alerts, dashboard, manifests"
	@echo "make screenshots  pictures of every state of the page into target/screenshots"
	@echo "make clean   stop all private servers, remove what was built"
	@echo "SERVERS=trixie behind any of them takes RabbitMQ 4.0 and PostgreSQL 17; SERVERS=forky newer ones"

demo:
	@scripts/demo

run:
	@scripts/run

PREFIX ?= /usr/local
# Another program than the one that is built now, such as one that was built elsewhere.
BINARY ?=

# Without root: make install PREFIX=$$HOME/.local
install:
ifeq ($(BINARY),)
	cargo build --release --locked
endif
	PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" scripts/install "$(or $(BINARY),target/release/penr-webhooks)"

# Two tests more than there are processors: a test that waits for a server or for a time needs no processor.
export RUST_TEST_THREADS ?= $(shell expr $$(nproc) + 2)

# The servers do not wait for the disk: tests kill servers, but not the machine. Without --all-targets, which would also run
# the benches. A failed test says what it saw; a backtrace through the runtime would bury that.
# `hidden-value` searches all that the run leaves for the values of webhooks' headers.
test: toolchain browser beside
	PENR_SERVICES_FAST=1 RUST_BACKTRACE=0 PENR_SOME_TESTS="$(ARGS)" \
	scripts/with-services test scripts/hidden-value cargo test $(ARGS)

schema: toolchain
	PENR_WRITE_SCHEMA=1 scripts/with-services test cargo test --test it migrates::schema_file

soak: toolchain
	@scripts/services need prometheus
	scripts/with-services soak cargo test --test it soak::$(ARGS) -- --ignored --nocapture --test-threads 1

bench: toolchain
	scripts/with-services bench cargo bench --bench $(or $(BENCH),throughput) -- $(ARGS)

check: toolchain shellcheck
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# All files that say that bash runs them.
shellcheck:
	@scripts/services need shellcheck
	shellcheck --external-sources $$(grep -lE '^#(!.*bash| shellcheck shell=bash)' .ci/* scripts/*)

check-compose:
	scripts/check-compose

clean:
	scripts/services stop --all
	cargo clean

toolchain:
	@scripts/services toolchain

browser:
	@scripts/browser >/dev/null

# Programs that tests put between our processes and the servers.
beside:
	@scripts/services need pgbouncer nginx

# Tests of the page that would make `make test` too long.
journeys: toolchain browser beside
	PENR_SERVICES_FAST=1 RUST_BACKTRACE=0 PENR_SOME_TESTS=1 \
	scripts/with-services test scripts/hidden-value cargo test --test it page:: -- --ignored --skip screenshots

examples:
	@scripts/examples
	@scripts/examples-publish
	@scripts/asyncapi
	@scripts/check-monitoring
	@scripts/check-kubernetes

# Takes pictures of every state of the page, light and dark, narrow and wide, into target/screenshots.
screenshots: toolchain browser
	scripts/with-services test cargo test --test it page::screenshots -- --ignored

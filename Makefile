# The commands of this project; each installs what it needs by scripts/setup.sh.
SHELL := /bin/bash
TIME ?= 60
BENCH ?=
TARGET ?=
RUNS ?= 5

.PHONY: help demo test quick test-long test-vm bench fuzz deps cross packages

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## build, pair, join and serve real media on this machine; Ctrl-C ends it
	@scripts/demo

test: ## every stage; the last line is `N passed, N failed`
	@scripts/test

quick: ## format, lints and unit tests: before each commit
	@scripts/test lints unit

test-long: ## what takes longer: soak, many agents, long random walks
	@scripts/test long

test-vm: ## the agent's package on an emulated arm64 Debian; how often by RUNS=5
	@tests/qemu/run $(RUNS)

bench: ## beside nginx; options by BENCH="--quick --only download"
	@scripts/bench $(BENCH)

fuzz: ## every fuzz target for TIME seconds (60)
	@scripts/fuzz $(TIME)

deps: ## rewrite the committed dependency lists
	@scripts/deps-update

cross: ## static programs in dist/: make cross TARGET="aarch64-unknown-linux-musl ..."
	@cross/build $(TARGET)

packages: ## .deb, .rpm, .ipk and tarballs for every target in dist/packages
	@scripts/packages

# What can be done here. `make` alone lists it.
#
# Variables: PREFIX (/usr/local), DESTDIR (empty), UNITDIR, CONFDIR, BIN (the binary to install), ARCH (x86_64 or aarch64),
# HOURS (of `make soak`), CASES (of `make properties`), LIVES and SEED (of `make lives`), CARGO_TARGET_DIR (target).

SHELL = /bin/sh
.DEFAULT_GOAL := help
.PHONY: help build test vm-test demo demo-handover bench bench-boot soak properties lives static dist dist-test lint install uninstall clean

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(abspath $(CARGO_TARGET_DIR)),$(CURDIR)/target)
export CARGO_TARGET_DIR := $(TARGET)
VENV = $(TARGET)/venv
PYTHON = $(VENV)/bin/python
ARCH ?= $(shell uname -m)
STATIC = $(TARGET)/$(ARCH)-unknown-linux-musl/release/ec2fleetd

PREFIX ?= /usr/local
DOCDIR = $(PREFIX)/share/doc/ec2fleetd
# Hooks, and the script that puts them into an image, with all that it needs.
DATADIR = $(PREFIX)/share/ec2fleetd
# Named by the units too: change it there as well.
CONFDIR ?= /etc/ec2fleetd
# systemd reads units from /usr and /usr/local; for another prefix they must go to /etc to be found at all.
UNITDIR ?= $(if $(filter /usr /usr/local,$(PREFIX)),$(PREFIX)/lib/systemd/system,/etc/systemd/system)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

build: ## release binary for this machine: target/release/ec2fleetd
	$(CARGO) build --release --locked

test: $(VENV)/.stamp ## set up all that the tests need under target/, run every test
	CARGO='$(CARGO)' PYTHON='$(PYTHON)' tests/run.sh </dev/null

# Names the Debian packages that it needs; `tests/vm/prepare.sh --install` installs them. ONLY: words of names of checks.
vm-test: static ## boot real guests whose disks are really plugged (ONLY=words, VM_ACCEL=tcg)
	tests/vm/prepare.sh </dev/null
	$(CARGO) build --locked --example fakeaws
	@EC2FLEETD='$(STATIC)' FAKEAWS='$(TARGET)/debug/examples/fakeaws' python3 -B tests/vm/run.py $(ONLY)

# They need nothing but Python itself.
demo: build ## two domains come up and go down, against a stand-in for AWS
	$(CARGO) build --release --locked --example fakeaws
	@EC2FLEETD='$(TARGET)/release/ec2fleetd' FAKEAWS='$(TARGET)/release/examples/fakeaws' python3 tests/demo/demo.py

# Root mounts a loop device; others see all of it but that.
demo-handover: build ## a game server moves to its successor with its world, and where the time goes
	$(CARGO) build --release --locked --example fakeaws
	@EC2FLEETD='$(TARGET)/release/ec2fleetd' FAKEAWS='$(TARGET)/release/examples/fakeaws' python3 tests/demo/handover.py

# The static binary is what people install; where it cannot be built, the one for this machine is measured.
bench: build ## measure what the README promises; fails where a bound is missed
	$(CARGO) build --release --locked --example fakeaws
	@rm -f '$(STATIC)'; $(MAKE) static || echo "make static failed; measuring what there is" >&2
	@bin='$(STATIC)'; [ -x "$$bin" ] || bin='$(TARGET)/release/ec2fleetd'; \
	EC2FLEETD="$$bin" FAKEAWS='$(TARGET)/release/examples/fakeaws' python3 tests/bench/bench.py

# On the machines of `make vm-test`. What depends on how fast this machine is is only told. ROUNDS: boots of each image.
bench-boot: static ## from power-on to `started`, measured in guests that really boot (ROUNDS=3)
	tests/vm/prepare.sh </dev/null
	$(CARGO) build --locked --example fakeaws
	@EC2FLEETD='$(STATIC)' FAKEAWS='$(TARGET)/debug/examples/fakeaws' python3 -B tests/vm/bench.py $(ROUNDS)

# Against the release build, in real time; a compressed day is part of `make test`.
soak: build ## poll under trouble until Ctrl-C, or for HOURS=.. hours, and see that nothing grows
	$(CARGO) build --release --locked --example fakeaws
	@EC2FLEETD='$(TARGET)/release/ec2fleetd' FAKEAWS='$(TARGET)/release/examples/fakeaws' \
	python3 tests/soak/soak.py $(if $(HOURS),--hours '$(HOURS)')

# CASES: how many inputs each property test is given; `make test` gives 256.
properties: ## the property tests with a million inputs each (CASES=1000000)
	@CARGO='$(CARGO)' CASES='$(CASES)' python3 tests/properties.py </dev/null

# Three instances and one pool a world; a world is its seed. `make test` has 500 lives. What broke a rule is kept in $TMPDIR.
lives: ## 20000 random lives of instances on one pool, with their disks checked (LIVES=20000, SEED=first)
	LIVES='$(or $(LIVES),20000)' SEED='$(or $(SEED),1000)' $(CARGO) test --locked --profile properties --test it -- --nocapture lives::

static: ## one static file for any Linux (ARCH=aarch64 for the other processor)
	@CARGO='$(CARGO)' init/build-static.sh '$(ARCH)'

dist: ## release files in target/dist: binary, archive, .deb, .rpm, SBOM (ARCH=aarch64)
	@CARGO='$(CARGO)' init/dist.sh '$(ARCH)'

# Both processors are built, one of them twice. Checks that need root, or tools that are not here, say so and are skipped.
dist-test: $(VENV)/.stamp ## make the release files, compare, install and run them (debootstrap, rpm, qemu-user-static)
	$(MAKE) dist ARCH=x86_64
	$(MAKE) dist ARCH=aarch64
	$(CARGO) build --locked --example fakeaws
	@CARGO='$(CARGO)' FAKEAWS='$(TARGET)/debug/examples/fakeaws' '$(PYTHON)' -B tests/dist/run.py </dev/null

lint: ## rustfmt and clippy, as CI runs them
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

# The binary is whichever of `make build` and `make static` ran last; nothing is compiled here, so that root needs no cargo.
install: ## install binary, units and examples (PREFIX, DESTDIR, BIN=file)
	@set -eu; bin='$(BIN)'; \
	[ -n "$$bin" ] || bin=$$(ls -t '$(TARGET)/release/ec2fleetd' \
	  "$(TARGET)/$$(uname -m)-unknown-linux-musl/release/ec2fleetd" 2>/dev/null | head -n 1); \
	[ -n "$$bin" ] || { echo "nothing to install: run 'make build' or 'make static' first, or give BIN=file" >&2; exit 1; }; \
	echo "install $$bin to $(DESTDIR)$(PREFIX)/bin, units to $(DESTDIR)$(UNITDIR)"; \
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(UNITDIR)' '$(DESTDIR)$(DOCDIR)/cloud-init'; \
	install -m 0755 "$$bin" '$(DESTDIR)$(PREFIX)/bin/ec2fleetd'; \
	for unit in init/systemd/*.service; do \
	  sed 's|/usr/local/bin/ec2fleetd|$(PREFIX)/bin/ec2fleetd|' "$$unit" >"$(DESTDIR)$(UNITDIR)/$${unit##*/}"; \
	  chmod 0644 "$(DESTDIR)$(UNITDIR)/$${unit##*/}"; \
	done; \
	install -m 0644 LICENSE $(wildcard README.md) '$(DESTDIR)$(DOCDIR)'; \
	install -m 0644 cloud-init/* '$(DESTDIR)$(DOCDIR)/cloud-init'; \
	for file in init/install-image.sh init/*/*; do \
	  case $$file in init/package/*) continue ;; esac; \
	  mode=0644; [ ! -x "$$file" ] || mode=0755; \
	  install -d "$(DESTDIR)$(DATADIR)/$${file%/*}"; \
	  install -m $$mode "$$file" "$(DESTDIR)$(DATADIR)/$$file"; \
	done; \
	[ -d '$(DESTDIR)$(CONFDIR)' ] || install -d -m 0700 '$(DESTDIR)$(CONFDIR)'

uninstall: ## remove what install made; configs in /etc/ec2fleetd stay
	rm -f '$(DESTDIR)$(PREFIX)/bin/ec2fleetd' '$(DESTDIR)$(UNITDIR)/ec2fleetd.service' '$(DESTDIR)$(UNITDIR)/ec2fleetd@.service'
	rm -rf '$(DESTDIR)$(DOCDIR)' '$(DESTDIR)$(DATADIR)'
	-rmdir '$(DESTDIR)$(CONFDIR)' 2>/dev/null

clean: ## remove all that was built
	$(CARGO) clean

$(VENV)/.stamp: tests/requirements.txt tests/venv.sh
	tests/venv.sh '$(VENV)' </dev/null
	@touch '$@'

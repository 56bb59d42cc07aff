# Everything this project needs from a fresh machine: git, make and Python 3.11 or 3.12. Works with GNU make 3.81.
# Two environments: .setup holds uv, .venv what runs. A stamp named by the locks is written last, so an
# interrupted or outdated environment is mended by the next target that needs it.

SHELL := /bin/sh
PYTHON ?=
DATA ?=

HASH := $(shell { cat requirements/*.txt pyproject.toml setup.py packaging/*.py src/mobile_sentiment_ops/models/_*.c; pwd; } | cksum | cut -d' ' -f1)
UV := .setup/bin/uv
# Servers that bench-serving compares with; their locks are below requirements/, so that .venv does not follow them.
PEERS := bentoml litserve mlserver
BIN := .venv/bin
UV_READY := .setup/ready-$(shell cksum < requirements/setup.txt | cut -d' ' -f1)
# `make up` needs no tools for tests, and leaves them where they are.
KIND := $(if $(wildcard .venv/ready-dev-*),dev,runtime)
export UV_PYTHON_DOWNLOADS := never
# Tests run two at a time: with threads of their own as well they wait for each other.
check test: export OMP_NUM_THREADS := 1
check test: export OPENBLAS_NUM_THREADS := 1

.PHONY: help setup dev up down check test fuzz bench bench-serving bench-monitoring docs lock wheel clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -e 's/:.*## /|/' | awk -F'|' '{ printf "make %-13s %s\n", $$1, $$2 }'

setup: .venv/ready-$(KIND)-$(HASH) ## the environment alone, from the hashed locks
	@:

dev: .venv/ready-dev-$(HASH)

up: setup ## everything: MLflow, data, a first model, the API; DATA=reviews.csv for reviews of your own
	@exec $(BIN)/mso up $(if $(DATA),--data "$(DATA)")

down: ## stop what `make up` started and keep the data
	@test -x $(BIN)/mso || { echo "nothing is set up here"; exit 0; }; exec $(BIN)/mso down

check: dev ## format, lint, types, import directions and all tests below the ports (for every edit)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not integration and not end_to_end"

test: dev ## check, then the tests with real servers, then the whole program
	@$(BIN)/python tests/groups.py

fuzz: ## look for bytes that break the kernel, for SECONDS=60; what it learns stays in build/fuzz
	@command -v clang > /dev/null || { echo "error: no clang with libFuzzer; Debian has it as clang and libclang-rt-14-dev" >&2; exit 2; }
	@mkdir -p build/fuzz/corpus
	clang -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
	-DTABLE='"$(CURDIR)/src/mobile_sentiment_ops/models/code_points.bin"' tests/fuzz/harness.c -o build/fuzz/run -lm
	build/fuzz/run -max_total_time=$(SECONDS) -max_len=4096 -artifact_prefix=build/fuzz/ build/fuzz/corpus tests/fuzz/corpus
SECONDS ?= 60

bench: dev ## measure, keep the figures in bench/results and print the quality table
	$(BIN)/python -m bench

bench-serving: dev $(PEERS:%=.peers/%/ready) ## measure serving beside other servers, in about 15 minutes
	$(BIN)/python -m bench --only serving

bench-monitoring: dev ## measure what notices drift, poison and lost accuracy, in about 25 minutes
	$(BIN)/python -m bench --only monitoring

docs: dev ## write the parts of the documents that are made from the code and from bench/results
	$(BIN)/python docs/write.py

lock: $(UV_READY) ## resolve requirements/*.txt anew, keeping pins that still fit (UPGRADE=1 takes the newest)
	@echo uv > setup.tmp; printf 'setuptools>=77\nziglang\n' > build.tmp
	$(COMPILE) --no-annotate -o requirements/setup.txt setup.tmp; $(COMPILE) --no-annotate -o requirements/build.txt build.tmp
	@rm setup.tmp build.tmp
	$(COMPILE) -o requirements/runtime.txt pyproject.toml
	$(COMPILE) -o requirements/dev.txt -c requirements/runtime.txt --extra dev --extra evidently --extra telemetry pyproject.toml
	@for peer in $(PEERS); do printf '%s\nscikit-learn\n' $$peer > peer.tmp && \
	$(COMPILE) --no-annotate -o requirements/peers/$$peer.txt peer.tmp || exit; done; rm peer.tmp
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	$(if $(UPGRADE),--upgrade)

wheel: $(UV_READY) ## the package as dist/*.whl and its source
	$(UV) build --build-constraints requirements/build.txt --require-hashes

clean: ## remove environments, caches and what was built; the data in workspace/ stays
	rm -rf .venv .setup .peers build dist src/*.egg-info src/mobile_sentiment_ops/models/_*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments

FIND_PYTHON = for python in $(PYTHON) python3.11 python3.12 python3; do \
	if $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2> /dev/null; \
	then break; fi; python=; \
	$(if $(PYTHON),break;) \
	done; \
	if [ -z "$$python" ]; then \
	echo "error: $(if $(PYTHON),$(PYTHON) is not,found no python3.11 or python3.12 that is) Python 3.11 or 3.12 with venv and pip." \
	"Install it, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; fi

$(UV_READY):
	@$(FIND_PYTHON); echo "setting up uv"; rm -rf .setup && $$python -m venv .setup && \
	.setup/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/setup.txt && touch $@

# .venv/unfinished stands there while packages are put in: an environment with it is made anew.
.venv/ready-%-$(HASH): $(UV_READY)
	@$(FIND_PYTHON); echo "setting up .venv from requirements/$*.txt"; rm -f .venv/ready-*; \
	if [ -e .venv/unfinished ] || [ "$$(cat .venv/place 2> /dev/null)" != "$(CURDIR)" ] || ! $(BIN)/python -c '' 2> /dev/null; \
	then $(UV) venv --quiet --clear --python "$$python" .venv && echo "$(CURDIR)" > .venv/place; fi && \
	touch .venv/unfinished && \
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/$*.txt && \
	{ $(INSTALL) || { echo "no C compiler is here or can be had: building without the parts in C, which will be slow"; \
	MSO_WITHOUT_C=1 $(INSTALL); }; } && \
	rm .venv/unfinished && touch $@
INSTALL = $(UV) pip install --quiet --python $(BIN)/python --no-deps --build-constraints requirements/build.txt --editable .

# A peer that cannot be had is left out, and its row says so.
.peers/%/ready: requirements/peers/%.txt $(UV_READY)
	@$(FIND_PYTHON); echo "setting up .peers/$*"; $(UV) venv --quiet --clear --python "$$python" .peers/$* && \
	$(UV) pip sync --quiet --python .peers/$*/bin/python --require-hashes $< && touch $@ || { rm -rf .peers/$*; echo "$* is left out"; }

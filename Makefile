# Two commands matter: `make run` sets everything up and serves, `make test` runs every check and test.
# Needs git, make and Python 3.11 or newer; the engine and the database come as Python packages.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
UV ?= uv
BIN := .venv/bin
PORT ?= 8000
DATA_DIR ?= .cartstore
# A recipe takes it from the environment: its path may have any character that a shell gives a meaning.
export DATA_DIR
# One more than there are processors: tests also wait, for servers and for timers.
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
MINUTES ?= 30
N ?= 100000
SEED ?= $(shell date +%s)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The locks name everything: left to resolve by itself, an older pip takes a newer release for what is needed with an
# extra (coverage[toml]) and then refuses it for want of a hash.
PIP_LOCKED := $(PIP) install --no-deps --require-hashes

# What `make run` needs, and what `make test` needs on top of it; each is installed once per lock.
RUNTIME := .venv/.runtime
DEV := .venv/.dev

.PHONY: help
help:
	@echo "make run     set up and serve on port $(PORT), data in $(DATA_DIR)"
	@echo "make test    every check and every test"
	@echo "make check   the static checks only; make coverage: the tests, and which lines they reach"
	@echo "make soak    attacks for MINUTES=$(MINUTES); writes docs/reliability.md; make soak-property: long random histories"
	@echo "make fuzz    N=$(N) odd requests over both ways of the API, made from SEED (a new one each time)"
	@echo "make bench   the benchmarks, each beside its baseline (needs wrk); make bench-full: all of them"
	@echo "make setup   the virtual environment only, with everything that run, check and test need"
	@echo "make docs    the pages that are made from the code"
	@echo "make format  put the code into its standard form"
	@echo "make lock    bring the locked dependencies up to date (needs uv)"
	@echo "make clean   remove what the other targets made, but no store's data"

.PHONY: setup
setup: $(DEV) generators

# The generators of clients that the tests run over the OpenAPI document; those of Python are among the locked packages.
GENERATORS := build/generators/package-lock.json

.PHONY: generators
generators:
	@if node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2>/dev/null && command -v npm >/dev/null; \
		then $(MAKE) --no-print-directory $(GENERATORS); \
		else echo "Node.js 20 with npm is not installed: redocly lint and openapi-typescript are not run"; fi

# The lock is copied last: an install that was cut off is done again.
$(GENERATORS): tests/generators/package-lock.json tests/generators/package.json
	@echo "Installing the generators of Node.js ..."
	@mkdir -p $(@D) && cp tests/generators/package.json $(@D)
	@cp tests/generators/package-lock.json $(@D)/lock && cd $(@D) && mv lock package-lock.json \
		&& npm ci --ignore-scripts --no-audit --no-fund --loglevel=error || { rm -f package-lock.json; exit 1; }

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "make: $(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "make: $(PYTHON) has no venv module; on Debian: apt-get install python3-venv" >&2; exit 2; }
	@echo "Making .venv ..."
	@$(PYTHON) -m venv .venv

$(RUNTIME): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what cartstore runs on ..."
	@$(PIP_LOCKED) -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@echo "Installing what the checks and tests need ..."
	@$(PIP_LOCKED) -r requirements-dev.lock
	@touch $@

.PHONY: run
run: $(RUNTIME)
	@exec $(BIN)/cartstore up --port $(PORT) --data-dir "$$DATA_DIR"

.PHONY: test
# Tests start some hundred processes: they find the modules compiled, also where the environment says to keep none.
test: export PYTHONDONTWRITEBYTECODE =
test: check
	$(BIN)/pytest -n $(WORKERS)

# Apart from `make test`, since measuring takes two fifths of the time again.
.PHONY: coverage
coverage: $(DEV)
	@$(BIN)/coverage erase
	$(BIN)/pytest -n $(WORKERS) --cov --cov-report=term

.PHONY: check
check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@rm -rf build/lua && mkdir -p build/lua && $(BIN)/python -c "$$COMPOSE_LUA" build/lua
	@if command -v luacheck >/dev/null; then $(LUACHECK) build/lua; \
		else echo "luacheck is not installed: Lua is checked by the tests only"; fi

# Composed, as the engine gets them: a single file knows nothing of what it includes.
define COMPOSE_LUA
import sys
from pathlib import Path
from cartstore.redis.scripts import compose, script_names
for name in script_names():
    Path(sys.argv[1], name + ".lua").write_text(compose(name))
endef
export COMPOSE_LUA
LUACHECK := luacheck --quiet --std lua51 --read-globals redis KEYS ARGV cjson cmsgpack struct --no-max-line-length

.PHONY: bench
bench: $(DEV)
	$(BIN)/python -m benchmarks.run

.PHONY: bench-full
bench-full: $(DEV)
	$(BIN)/python -m benchmarks.run --full

.PHONY: soak
soak: $(DEV)
	PYTHONPATH=tests $(BIN)/python -m chaos.soak --minutes $(MINUTES) --page docs/reliability.md

# An hour or more, however many minutes the attacks get.
.PHONY: soak-property
soak-property: $(DEV)
	HYPOTHESIS_PROFILE=soak $(BIN)/pytest -n $(WORKERS) tests/property

# `make test` sends the first 5,000 of one seed; a failure here names its seed and its numbers.
.PHONY: fuzz
fuzz: $(DEV)
	FUZZ_N=$(N) FUZZ_SEED=$(SEED) $(BIN)/pytest -q tests/api/test_odd_requests.py

.PHONY: format
format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Pages that are made from the code.
.PHONY: docs
docs: $(RUNTIME)
	$(BIN)/python -c 'from cartstore.settings import settings_page; print(settings_page(), end="")' > docs/settings.md

# The build tools are locked too: an editable install without build isolation takes them from .venv.
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links --extra embedded

.PHONY: lock
lock:
	@command -v $(UV) >/dev/null || { echo "make: lock needs uv; name one: make UV=path/to/uv lock" >&2; exit 2; }
	printf 'hatchling\neditables\n' | $(COMPILE) -o requirements.lock pyproject.toml -
	printf 'hatchling\neditables\n' \
		| $(COMPILE) --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml -

.PHONY: clean
clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.* dist build
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

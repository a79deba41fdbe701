# Every target sets up what it needs: a machine with Python 3.11+, make and a package registry is enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint format clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/.run-ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "smoothcert needs Python 3.11 or newer; this is %s. Name one with `make PYTHON=python3.12 ...`" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable .
	@touch $@

$(VENV)/.dev-ready: $(VENV)/.run-ready
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev,notebooks]'
	@touch $@

install: $(VENV)/.dev-ready ## make the environment in .venv, with all development tools

# Images of 8×8 pixels are too small to share between threads: one is 1.6 times as fast as two.
demo: $(VENV)/.run-ready ## train with ADRE and the adversarial step on the digits, then certify
	OMP_NUM_THREADS=1 $(BIN)/python -m src.train experiment=digits_reg_adv

lint: $(VENV)/.dev-ready ## linters, types and the import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# One OpenMP thread a worker: more threads than cores make the suite five times slower.
test: lint ## linters, types and tests: what continuous integration runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not slow'

test-slow: lint ## every test, the slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

format: $(VENV)/.dev-ready ## fix what the linters can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and the caches; outputs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis src/*.egg-info

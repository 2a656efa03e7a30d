# `make` lists the targets. Everything runs in a virtual environment that is made when it is needed.
#   VENV=...    another place for the virtual environment (default .venv)
#   PYTHON=...  the Python (3.11 or newer) that it is made with (default python3)
# Where Linux's default torch (several gigabytes of CUDA) is not wanted:
#   make PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu ...

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
PYTHON ?= python3
BENCH_S ?= 300
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

ifndef DISTMETA_DATA
ifneq ($(wildcard ../shared/data),)
export DISTMETA_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: help install demo test check golden bench bench-cluster bench-curve test-slow test-cluster test-chaos test-gpu format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch goes first, by itself: pulled in by another package it may come as a larger build. pip compiles every module that
# it installs, which takes nearly as long as all the rest; so only those that are in use are compiled, by importing them.
PIP_INSTALL := $(BIN)/pip install --quiet --no-compile -c constraints.txt
IN_USE := matplotlib.pyplot, mlflow.pyfunc, pyarrow.parquet, ray, torch, typer

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11; set PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) -e '.[dev]'
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c 'import $(IN_USE)'
	@touch $@

install: $(STAMP) ## Make the virtual environment

demo: $(STAMP) ## Meta-train on drawn characters with two Ray workers (a few minutes)
	$(BIN)/distmeta train jobs/demo.py

test: check ## All that CI runs: check, then the default tests
	$(BIN)/pytest

check: $(STAMP) ## Formatting, lint and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

golden: $(STAMP) ## Golden runs of a commit beside those of the working tree, bit for bit (BASE=COMMIT)
	$(BIN)/python tests/golden/compare.py $(or $(BASE),HEAD)

bench: $(STAMP) ## The engine beside its peers: speed, then memory
	$(BIN)/distmeta bench engine --out runs/bench
	$(BIN)/distmeta bench memory --out runs/bench

bench-cluster: $(STAMP) ## Server overhead, a model of many workers, stragglers, what Ray costs, asynchronous runs (half an hour)
	$(BIN)/distmeta bench server --out runs/bench
	$(BIN)/distmeta bench scale --out runs/bench
	$(BIN)/python -m benchmarks.cluster.workers --out runs/bench
	$(BIN)/python -m benchmarks.cluster.stragglers --out runs/bench
	$(BIN)/python -m benchmarks.cluster.asynchronous --out runs/bench

bench-curve: $(STAMP) ## Omniglot accuracy against seconds of training (BENCH_S=300)
	$(BIN)/python -m benchmarks.methods.omniglot_curve --seconds $(BENCH_S) --out runs/bench

test-slow: $(STAMP) ## Tests that take minutes
	$(BIN)/pytest -m slow

test-cluster: $(STAMP) ## Tests that need a Ray cluster of several nodes
	$(BIN)/pytest -m cluster

test-chaos: $(STAMP) ## Runs under 60 random faults: what is killed changes no bit (DISTMETA_CHAOS_SEED=...)
	$(BIN)/pytest -m chaos -s

test-gpu: $(STAMP) ## Tests that need a GPU
	$(BIN)/pytest -m gpu

format: $(STAMP) ## Rewrite the code in the house format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## Remove the virtual environment and caches (runs and stores stay)
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

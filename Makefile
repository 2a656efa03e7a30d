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
FAST := not thorough and not slow and not cluster and not chaos and not gpu and not text
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest

ifndef DISTMETA_DATA
ifneq ($(wildcard ../shared/data),)
export DISTMETA_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: help install demo demo-text quick test check lint types all-tests fast golden docs dist test-pythons fuzz bench bench-versions bench-cluster bench-curve \
	test-slow test-text test-rl test-cluster test-chaos test-gpu format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch goes first, by itself: pulled in by another package it may come as a larger build. pip compiles the modules that it
# installs one by one; here that is done on all cores, and left out for what is seldom in use. Without it, every process
# whose environment forbids writing byte code compiles some thousand modules again.
PIP_INSTALL := $(BIN)/pip install --quiet --no-compile -c constraints.txt
SELDOM_USED := /(tests|scipy|sklearn|databricks|networkx|pip|setuptools)/
COMPILE = $(BIN)/python -W ignore -m compileall -qq -j 0 -x '$(SELDOM_USED)' $(VENV)/lib/python3*/site-packages

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11; set PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) -e '.[dev]'
	$(COMPILE) || true  # some packages hold files for other Pythons
	@touch $@

install: $(STAMP) ## Make the virtual environment

demo: $(STAMP) ## Meta-train on drawn characters with two Ray workers (a few minutes)
	$(BIN)/distmeta train jobs/demo.py --anew

# Two minutes of training. Without the raw files, those of BANKING77 are fetched, whose classes are then split at random.
ifeq ($(wildcard $(DISTMETA_DATA)/banking77),)
INTENTS := --set tasks.store=fetched_banking77 --set tasks.split_set=null
FETCH_INTENTS = $(BIN)/distmeta data fetch banking77 --to runs/raw/banking77 \
	&& $(BIN)/distmeta data import banking77 runs/raw/banking77 --name fetched_banking77 --replace
endif

demo-text: $(VENV)/.text ## Meta-train MiniLM with LoRA on intents, then label sentences by nine of other intents (a few minutes)
	$(FETCH_INTENTS)
	$(BIN)/distmeta train jobs/intents.py:lora_protonet --anew $(INTENTS) --set name=demo_text \
		--set train.budget_s=120 --set evaluation.tasks=40 --set evaluation.final_tasks=100
	$(BIN)/distmeta adapt runs/demo_text --which best \
		--support jobs/examples/help_desk.csv --query jobs/examples/questions.csv

$(VENV)/.text: $(STAMP)
	$(PIP_INSTALL) -e '.[dev,text]'
	@touch $@

quick: $(STAMP) ## Format, lint, types and the fast tests: at most a minute
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target check fast

# The type checker has one process: beside it, the tests keep the other cores at work from the first minute.
test: $(STAMP) ## Everything that CI runs: check, and the default tests in three processes (many of them wait)
	@$(MAKE) --no-print-directory --jobs=2 check all-tests

all-tests: $(STAMP)
	$(PYTEST) -n 3

check: lint types ## Format, lint and types

lint: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: $(STAMP)
	$(BIN)/mypy

fast: $(STAMP)
	$(PYTEST) -n 2 -q -m "$(FAST)" tests/unit tests/contract tests/numerics tests/golden

golden: $(STAMP) ## Golden runs of a commit beside those of the working tree, bit for bit (BASE=COMMIT)
	$(BIN)/python tests/golden/compare.py $(or $(BASE),HEAD)

docs: $(VENV)/.docs ## Build the documentation site into site/; a broken link fails
	$(BIN)/mkdocs build --strict

$(VENV)/.docs: $(STAMP)
	$(PIP_INSTALL) -e '.[docs]'
	@touch $@

dist: $(STAMP) ## Build wheel and sdist into dist/, install the wheel into an empty environment and run its first job
	rm -rf build dist
	$(BIN)/python -m build --outdir dist
	bash tests/packaging/check_wheel.sh dist/*.whl $(PYTHON)

test-pythons: ## The fast tests on every Python from 3.11 to 3.13 that is found, each in an environment of its own
	@for version in 3.11 3.12 3.13; do \
		if command -v python$$version >/dev/null; then \
			$(MAKE) --no-print-directory fast PYTHON=python$$version VENV=.venv-$$version || exit 1; \
		else echo "python$$version: not found"; fi; \
	done

fuzz: $(STAMP) ## Odd and damaged inputs with fresh seeds, for MINUTES=30; inputs that fail stay in runs/fuzz
	$(BIN)/python tests/fuzz/loop.py --minutes $(or $(MINUTES),30) --out runs/fuzz

bench: $(STAMP) ## The engine beside its peers: speed, then memory
	$(BIN)/distmeta bench engine --out runs/bench
	$(BIN)/distmeta bench memory --out runs/bench

bench-versions: $(STAMP) ## The engine of another commit beside this one's, turn by turn (BASE=COMMIT)
	$(BIN)/python -m benchmarks.engine.versions $(or $(BASE),HEAD) --out runs/bench

bench-cluster: $(STAMP) ## Server overhead, a model of many workers, stragglers, what Ray costs, asynchronous runs (half an hour)
	$(BIN)/distmeta bench server --out runs/bench
	$(BIN)/distmeta bench scale --out runs/bench
	$(BIN)/python -m benchmarks.cluster.reports --workers 32 --leaders 2 --out runs/bench
	$(BIN)/python -m benchmarks.cluster.workers --out runs/bench
	$(BIN)/python -m benchmarks.cluster.stragglers --out runs/bench
	$(BIN)/python -m benchmarks.cluster.asynchronous --out runs/bench

bench-curve: $(STAMP) ## Omniglot accuracy against seconds of training (BENCH_S=300)
	$(BIN)/python -m benchmarks.methods.omniglot_curve --seconds $(BENCH_S) --out runs/bench

test-slow: $(STAMP) ## Tests that take minutes
	$(BIN)/pytest -m slow

test-text: $(VENV)/.text ## Tests with the network MiniLM
	$(BIN)/pytest -m text

test-rl: $(VENV)/.rl ## Tests with MuJoCo's physics
	$(BIN)/pytest -n0 tests/unit/tasks/test_cheetah.py tests/benchmarks/test_environments.py

$(VENV)/.rl: $(STAMP)
	$(PIP_INSTALL) -e '.[dev,rl]'
	@touch $@

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
	rm -rf .venv .venv-3.* build dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

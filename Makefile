# `make help` lists the targets. Everything is installed into .venv; nothing is written outside this folder by set-up.
SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# uv trusts the certificates that it brings along; behind a TLS proxy the system's are due, as pip has them.
export UV_SYSTEM_CERTS ?= true
.DEFAULT_GOAL := help

$(VENV)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(f"Python 3.11 or 3.12 is needed, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.11 …" if not (3, 11) <= v < (3, 13) else 0)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv module is incomplete: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-cache-dir --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --python $(BIN)/python --no-cache --compile-bytecode --require-hashes -r requirements.lock
	@touch $@

# The command `ssd`. A copy, not a package: it runs the code of the clone that one stands in.
$(BIN)/ssd: infra/ssd.sh $(VENV)/.installed
	@install -m 755 infra/ssd.sh $@

.PHONY: help setup doctor repro test test-fast lint lock ui up down demo-cluster base job chaos clean
help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.installed $(BIN)/ssd  ## Make .venv from the hashed requirements.lock (once)

doctor: setup  ## Check all that could stop a long run, in seconds
	python -m pipelines.doctor

repro: setup  ## Run the whole pipeline: generate, prepare, tune, train, evaluate
	python -m pipelines.doctor --quick --quiet
	dvc repro

test: setup  ## Run all tests: the fast ones first, then a quarter of an hour on real Ray, DVC and MLflow
	pytest -m "not slow" -n 2 --dist worksteal
	pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

test-fast: setup  ## Run the fast tests, three minutes
	pytest -m "not slow" -n 2 --dist worksteal

lint: setup  ## Check style, format and the types of ssd/
	ruff check . && ruff format --check . && mypy

lock: setup  ## Write requirements.lock anew from pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra dev --extra export --extra serve --extra video pyproject.toml -o requirements.lock

ui: setup  ## Open MLflow on the runs that `dvc repro` made
	python -m pipelines.ui

up: setup  ## Build a small real cluster on this machine: Ray with three nodes, MLflow, S3
	python -m infra.local.cluster up

down: setup  ## Stop that cluster
	python -m infra.local.cluster down

demo-cluster: setup  ## Run the pipeline on such a cluster and on this machine alone, and compare: ten minutes
	python -m infra.local.demo

base:  ## Make the base of infra/Dockerfile from Debian's packages, where no registry of images is reached (root)
	infra/local/base.sh

STAGE ?= train
job: setup  ## Run one stage as a job on the cluster at RAY_ADDRESS=http://…: make job STAGE=evaluate
	@case "$$RAY_ADDRESS" in http*) ;; *) echo "RAY_ADDRESS=http://head:8265 is due, not '$$RAY_ADDRESS'" >&2; exit 1;; esac
	python -m pipelines.$(STAGE)

chaos: setup  ## Kill anything at random steps on such a cluster, 20 rounds
	python -m tests.chaos --rounds 20 --seed 0

clean:  ## Say how large the runs and outputs are, and remove them (not .venv, not the results in git)
	@infra/clean.sh

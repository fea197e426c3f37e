# Everything runs from .venv, which is made on first use and again when the requirements change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
DEV := $(VENV)/.dev
ARGS ?=

# Three for two cores, since a test often waits for something. Each imports PyTorch (about 1 GB).
WORKERS ?= $(shell $(BIN)/python -c 'import os; print(min((os.cpu_count() or 1) * 3 // 2, 4))')

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup dev train test test-fast check docs bench reliability notebook audit lint types format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP)  ## create .venv with the tested versions of everything (PYTHON=python3.12 to choose)

dev: $(DEV)  ## the same with the tools for tests and checks, which the targets below make themselves

train: $(STAMP)  ## run the main job; ARGS="--config ablations/no_residual.yaml train.seed=1" is passed on
	$(BIN)/python train.py $(ARGS)

test: $(DEV)  ## run the whole test suite; ARGS="-k config" is passed on
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-fast: $(DEV)  ## what answers in about a minute: no training, no process of its own
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" $(ARGS)

check: lint types  ## style, formatting and types

docs: $(DEV)  ## build the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "$(CURDIR)/build/site/index.html"

bench: $(DEV)  ## measure speed beside what people use today; ARGS="startup memory" for some of it
	$(BIN)/python benchmarks/bench.py $(ARGS)

reliability: $(DEV)  ## kills, faults, hostile input, coverage, mutations; ARGS="resumes layers" for some of it
	$(BIN)/python scripts/reliability.py $(ARGS)

notebook: $(DEV)  ## make notebooks/*.ipynb from the .py beside them
	$(BIN)/python scripts/notebook.py

# Strict: a package that the index does not know counts as a failure, not as one without vulnerabilities.
audit:  ## look the tested versions up in the database of known vulnerabilities (needs PyPI itself, no mirror)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv "$$folder" && \
		"$$folder/bin/pip" install --quiet --disable-pip-version-check pip-audit && \
		"$$folder/bin/pip-audit" --strict --no-deps --disable-pip --requirement constraints.txt

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

format: $(DEV)  ## mend style and formatting where that can be done by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove build products and caches; never runs, datasets or .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find detector tests -type d -name __pycache__ -prune -exec rm -rf {} +

# Both stamps are written last, so an interrupted installation is taken up again.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

$(STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	@$(INSTALL) .
	@touch $@
	@echo "Installed: $$($(BIN)/python --version), $$(du -sh $(VENV) | cut -f1)"

# With the tools of the project's developers, which a run does not need: in one call, since pip looks up every
# requirement in each.
$(DEV): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing the tools for tests and checks, too"
	@$(INSTALL) '.[dev]'
	@touch $(STAMP) $@

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 to 3.13 is needed, and $(PYTHON) was not found" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("Python 3.11 to 3.13 is needed, and $(PYTHON) is %d.%d; try for example: make setup PYTHON=python3.12" % sys.version_info[:2])'
	@echo "Installing into $(VENV): PyTorch is large, so the first time takes some minutes"
	@$(PYTHON) -m venv $(VENV)

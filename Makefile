# make demo | test | lint | bench | docs | clean     (every target makes .venv first; the second time is quick)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
RUNS ?= runs/demo
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test test-slow lint format bench docs clean

help:
	@echo "make demo       train two networks on digits, put both on 100 analog chips, age them ten years, compare"
	@echo "make test       the tests (not the slow ones), $(WORKERS) at a time"
	@echo "make test-slow  the slow tests"
	@echo "make lint       ruff, ruff format --check and mypy"
	@echo "make bench      the benchmarks: one ratio per promise"
	@echo "make docs       the documentation, into docs/_build/html"
	@echo "make clean      everything made here but .venv"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "neurosim needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1): run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "==> making $(VENV) with the versions of constraints.txt (about a minute; torch is large)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[test,docs]'
	@$(BIN)/python -m pip install --quiet --no-deps badcrossbar   # a peer for tests and benchmarks, without its plots
	@$(BIN)/python -m pip install --quiet --no-deps pytorchcv torch_geometric   # networks for tests, without torchvision
	@$(BIN)/python -m pip install --quiet --no-deps norse nirtorch snntorch python_speech_features sinabs pbr spikingjelly loguru rockpool   # peers, compared with
	@touch $@

# Two small networks, equal but for the method; a second `make demo` takes what is done from runs/demo.
SMALL := --set model.hidden=[32,32] --lr 5e-3
demo: $(STAMP)
	@run() { echo; echo "\$$ neurosim $$*"; $(BIN)/neurosim "$$@"; }; \
	run train $(SMALL) --out $(RUNS)/ordinary --resume; \
	run train $(SMALL) --robust --out $(RUNS)/robust --resume; \
	run compare $(RUNS)/ordinary $(RUNS)/robust --hardware gaussian-mismatch --chips 100 --out $(RUNS)/mismatch; \
	run compare $(RUNS)/ordinary $(RUNS)/robust --hardware pcm-joshi-2020 --chips 100 --times 25s,1h,1d,1y,10y --bound 0.95 --out $(RUNS)/pcm

test: $(STAMP)
	@echo "==> pytest, $(WORKERS) at a time, without the slow tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow"

test-slow: $(STAMP)
	@echo "==> pytest, the slow tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) -m slow

lint: $(STAMP)
	@echo "==> ruff, mypy"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP)
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(STAMP)
	@for script in benchmarks/*.py; do echo "==> $$script"; $(BIN)/python $$script; done

docs: $(STAMP)
	@echo "==> sphinx -W"
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	@rm -rf docs/_build dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis $(RUNS)
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# make demo | test | test-versions | lint | bench — each sets up .venv with the tested versions first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test test-versions lint bench

demo: $(INSTALLED)
	$(BIN)/sae-posttrain demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

test-versions: $(INSTALLED)
	$(BIN)/nox

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/sae_row_reading.py
	$(BIN)/python benchmarks/repetition_speed.py

# The build backend is installed first, so that its version is pinned too.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) hatchling editables
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	touch $@

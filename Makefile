# make demo | test | test-all | test-versions | lint | bench | bench-all — each sets up .venv with the tested versions first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A file's tests stay together, since some share a launch of several processes.
TWO_AT_ONCE := --numprocesses 2 --dist loadfile
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test test-all test-versions lint bench bench-all

demo: $(INSTALLED)
	$(BIN)/sae-posttrain demo

test: $(INSTALLED)
	$(BIN)/python -m pytest $(TWO_AT_ONCE)

test-all: $(VENV)/.installed-distributed
	$(BIN)/python -m pytest $(TWO_AT_ONCE) -m ""

test-versions: $(INSTALLED)
	$(BIN)/nox

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/sae_row_reading.py
	$(BIN)/python benchmarks/sasft_step.py --quick
	$(BIN)/python benchmarks/grpo_step.py --quick
	$(BIN)/python benchmarks/discovery_speed.py --quick
	$(BIN)/python benchmarks/steered_generation.py --quick
	$(BIN)/python benchmarks/detectors.py --quick

bench-all: bench
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/sasft_step.py
	$(BIN)/python benchmarks/grpo_step.py
	$(BIN)/python benchmarks/discovery_speed.py
	$(BIN)/python benchmarks/detectors.py
	$(BIN)/python benchmarks/steered_generation.py
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/lab_sasft.py
	$(BIN)/python benchmarks/lab_grpo.py
	$(BIN)/python benchmarks/_table.py

# The build backend is installed first, so that its version is pinned too.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) hatchling editables
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	touch $@

# DeepSpeed looks at the installed torch when it is built; gloo on CPU needs none of its compiled operators.
$(VENV)/.installed-distributed: $(INSTALLED)
	DS_BUILD_OPS=0 $(PIP_INSTALL) --no-build-isolation --editable '.[dev-distributed]'
	touch $@

# make quickstart   environment, a 4,000-node graph from the shipped poems, one minute of training, generated lines
# make test         all tests, the linter and the type checker
# make slow         long tests, and ten times as many examples of every property, at random; make slow SEED=n repeats
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STORE  ?= quickstart.sifu
# A worker for each core, and no threads in it: they would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal
SEED   ?= $(shell date +%s)

.PHONY: env quickstart test lint unit slow bench bench-paging endurance docs clean

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

quickstart: env
	$(BIN)/sifu build-graph --store $(STORE) --vocab 4000 --sparsify 0.1 --force
	$(BIN)/sifu train --store $(STORE) --minutes 1
	$(BIN)/sifu generate --store $(STORE) --tokens 64 --count 3 --seed 1 "春風"

test: lint unit

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: env
	$(PYTEST) -m "not slow"

slow: env
	$(PYTEST) -m "slow or hypothesis" --hypothesis-profile=explore --examples 10 --hypothesis-seed=$(SEED)

bench: env
	$(BIN)/python benchmarks/main_job.py $(ARGS)

bench-paging: env
	$(BIN)/python benchmarks/paging.py $(ARGS)

endurance: env
	$(BIN)/python benchmarks/endurance.py $(ARGS)

clean:
	rm -rf $(VENV) $(STORE) .mypy_cache .pytest_cache .ruff_cache .hypothesis

# make quickstart   environment, a 4,000-node graph from the shipped poems, one minute of training, generated lines
# make test         the linters, the type checker, all tests but the slow ones
# make docs         the documentation as a site, in site/
# make slow         long tests, and ten times as many examples of every property, at random; make slow SEED=n repeats
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STORE  ?= quickstart.sifu
# A worker for each core, and no threads in it: they would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal
SEED   ?= $(shell date +%s)
# Options of pip for PyTorch alone, for example the index of its CPU build on Linux.
TORCH_ARGS ?=

.PHONY: env quickstart test lint unit docs slow oldest wheel-check hooks pin bench bench-paging endurance clean

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH_ARGS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

quickstart: env
	$(BIN)/sifu build-graph --store $(STORE) --vocab 4000 --sparsify 0.1 --force
	$(BIN)/sifu train --store $(STORE) --minutes 1
	$(BIN)/sifu generate --store $(STORE) --tokens 64 --count 3 --seed 1 "春風"

# Side by side: the linters use one core for a part of the time that the tests take.
test: env
	$(MAKE) --no-print-directory --jobs 2 lint unit

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python tools/words.py
	find sifu_graph store cli -name '*.py' -exec $(BIN)/python -m numpydoc lint {} +
	$(BIN)/mypy

unit: env
	$(PYTEST) -m "not slow"

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

slow: env
	$(PYTEST) -m "slow or hypothesis" --hypothesis-profile=explore --examples 10 --hypothesis-seed=$(SEED)

# The tests with the lower bounds of pyproject.toml. One is left out: SciPy before 1.17 imports scipy.sparse with
# scipy.special, so that `edit-edge` starts later.
oldest: VENV := .venv-oldest
oldest:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt $(TORCH_ARGS) torch
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e ".[dev]"
	$(VENV)/bin/python -m pytest -m "not slow" $(ARGS) \
	    --deselect tests/cli/test_start.py::test_commands_that_need_no_torch_do_not_import_it

# The wheel in an empty environment outside this folder: types as a user sees them, and build, train, generate.
wheel-check:
	$(PYTHON) tools/wheel_check.py --torch-args="$(TORCH_ARGS)"

hooks: env
	$(BIN)/pre-commit install

pin: env
	$(BIN)/python tools/pin.py

bench: env
	$(BIN)/python benchmarks/main_job.py $(ARGS)

bench-paging: env
	$(BIN)/python benchmarks/paging.py $(ARGS)

endurance: env
	$(BIN)/python benchmarks/endurance.py $(ARGS)

clean:
	rm -rf $(VENV) .venv-oldest $(STORE) .mypy_cache .pytest_cache .ruff_cache .hypothesis

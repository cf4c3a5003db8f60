# Everything a fresh machine needs but Python 3.11 and a network to the package index.
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: demo test check bench format clean

demo: $(READY)  ## a whole run on the embedded data, ending with the table of clients and the path of the report
	$(BIN)/fed-rebel simulate --preset demo

test: $(READY)  ## every test, the slow ones last; many of them wait, so there are more workers than cores
	$(BIN)/python -m pytest -n 4 --dist worksteal

check: $(READY)  ## formatter, linter, type checker
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)  ## the table of benchmarks, as bench/table.md and bench/table.json
	-$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'  # without it one row stays empty
	$(BIN)/python -m benchmarks

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

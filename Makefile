# Each target does its own set-up: a virtual environment in .venv, made once and again when pyproject.toml changes.
PYTHON ?= python3
BIN := .venv/bin
# Waiting threads sleep: tests run beside other things, and spinning ones would take their cores.
export OMP_WAIT_POLICY ?= PASSIVE

# Corpora for the tests that use real speech; those tests skip where it is absent.
export ASR_TEST_DATA ?= $(wildcard ../shared/data)

.PHONY: quickstart test test-all check format clean

quickstart: .venv/installed
	@unset OMP_WAIT_POLICY; PATH="$(CURDIR)/$(BIN):$$PATH" egs/quickstart/run.sh

test: .venv/installed
	$(BIN)/pytest

test-all: .venv/installed
	$(BIN)/pytest -m "not gpu"

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "needs Python 3.11 or later; got $$($(PYTHON) --version): make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,quickstart]'
	@touch $@

clean:
	rm -rf .venv work

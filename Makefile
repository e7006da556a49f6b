# Each target does its own set-up: a virtual environment in .venv, made once and brought up to date when pyproject.toml
# or constraints.txt changes.
PYTHON ?= python3
BIN := .venv/bin
# Waiting threads sleep: tests run beside other things, and spinning ones would take their cores.
export OMP_WAIT_POLICY ?= PASSIVE

# Corpora for the tests that use real speech; those tests skip where it is absent.
export ASR_TEST_DATA ?= $(wildcard ../shared/data)

.PHONY: quickstart test test-all test-oldest check format clean

quickstart: .venv/installed
	@unset OMP_WAIT_POLICY; PATH="$(CURDIR)/$(BIN):$$PATH" egs/quickstart/run.sh

test: .venv/installed
	$(BIN)/pytest

test-all: .venv/installed
	$(BIN)/pytest -m "not gpu"

test-oldest: .venv-oldest/installed
	.venv-oldest/bin/pytest

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

EXTRAS := .[dev,quickstart]
EXTRAS_OLDEST := .[test,quickstart]

# The exact versions of constraints.txt, so that the same commands give the same set next year.
.venv/installed: pyproject.toml constraints.txt
	$(call install,.venv,constraints.txt,$(EXTRAS))

# The oldest versions that pyproject.toml admits. The extra 'bundles' asks for newer ones, so torchaudio is named.
.venv-oldest/installed: pyproject.toml constraints-oldest.txt
	$(call install,.venv-oldest,constraints-oldest.txt,$(EXTRAS_OLDEST),torchaudio)

define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "needs Python 3.11 or later; got $$($(PYTHON) --version): make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(1)
	$(1)/bin/pip install --quiet --disable-pip-version-check -c $(2) -e "$(3)" $(4)
	@touch $(1)/installed
endef

clean:
	rm -rf .venv .venv-oldest work

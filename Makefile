# Each target does its own set-up: a virtual environment in .venv, made once and brought up to date when pyproject.toml
# or constraints.txt changes. With SECURE=1 ('make SECURE=1 test') it is made anew, of archives whose SHA-256 is in
# constraints-hashes.txt only, and nothing is built from source but srt, by the setuptools of that file.
PYTHON ?= python3
SECURE ?=
BIN := .venv/bin
# Waiting threads sleep: tests run beside other things, and spinning ones would take their cores.
export OMP_WAIT_POLICY ?= PASSIVE

# Corpora for the tests that use real speech; those tests skip where it is absent.
export ASR_TEST_DATA ?= $(wildcard ../shared/data)

.PHONY: quickstart test test-all test-oldest test-use check format hashes clean

READY := .venv/$(if $(SECURE),secure,installed)
WITH_SYNTHESISER := .venv/quickstart$(if $(SECURE),-secure)

quickstart: $(WITH_SYNTHESISER)
	@unset OMP_WAIT_POLICY; PATH="$(CURDIR)/$(BIN):$$PATH" egs/quickstart/run.sh

test: $(READY)
	$(BIN)/pytest

test-all: $(READY)
	$(BIN)/pytest -m "not gpu"

test-oldest: .venv-oldest/installed
	.venv-oldest/bin/pytest

test-use: .venv-use/installed
	.venv-use/bin/pytest tests/test_without_torch.py

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

EXTRAS := .[dev,pictures]
EXTRAS_OLDEST := .[test,pictures,onnx]

# The exact versions of constraints.txt, so that the same commands give the same set next year.
.venv/installed: pyproject.toml constraints.txt
	$(call environment,.venv)
	@rm -f .venv/secure .venv/quickstart-secure
	$(call install,.venv,constraints.txt,$(EXTRAS))

# The synthesiser is GPL: it is installed for what needs it, and its tests are left out without it.
.venv/quickstart: .venv/installed
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[quickstart]"
	@touch $@

.venv/secure: pyproject.toml constraints-hashes.txt
	rm -rf .venv
	$(call environment,.venv)
	$(call hashed,setuptools,p)
	$(call hashed,$(SYNTHESISER),d)
	.venv/bin/pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation -e .
	.venv/bin/pip check
	@touch .venv/installed $@

.venv/quickstart-secure: .venv/secure
	$(call hashed,$(SYNTHESISER),p)
	@touch .venv/quickstart $@

SYNTHESISER := espeakng-loader

# Installs one package of constraints-hashes.txt (sed's command p), or all others (d).
define hashed
	@sed $(if $(filter p,$(2)),-n) '/^$(1)==/,/[^\\]$$/$(2)' constraints-hashes.txt > .venv/wanted.txt
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-build-isolation \
		--only-binary :all: --no-binary srt -r .venv/wanted.txt
endef

# Run it after a change of constraints.txt. Every archive of each version is listed, so the file holds for all platforms
# for which constraints.txt does: tried on Linux (x86-64) with Python 3.11, 3.12 and 3.13.
hashes:
	$(call environment,.venv-hashes)
	.venv-hashes/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
	printf 'hatchling\neditables\n' | .venv-hashes/bin/uv pip compile --quiet pyproject.toml - --all-extras \
		--constraints constraints.txt --universal --generate-hashes --no-emit-package asr-ctc --no-annotate \
		--custom-compile-command 'make hashes' --output-file constraints-hashes.txt

# The oldest versions that pyproject.toml admits. The extra 'bundles' asks for newer ones, so torchaudio is named.
.venv-oldest/installed: pyproject.toml constraints-oldest.txt
	$(call environment,.venv-oldest)
	$(call install,.venv-oldest,constraints-oldest.txt,$(EXTRAS_OLDEST),torchaudio)

# For use alone: what requirements-use.txt installs, without PyTorch, and what its tests need.
.venv-use/installed: pyproject.toml constraints.txt requirements-use.txt
	$(call environment,.venv-use)
	.venv-use/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-use.txt pytest hypothesis
	.venv-use/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "needs Python 3.11 or later; got $$($(PYTHON) --version): make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(1)
endef

define install
	$(1)/bin/pip install --quiet --disable-pip-version-check -c $(2) -e "$(3)" $(4)
	@touch $(1)/installed
endef

clean:
	rm -rf .venv .venv-oldest .venv-use .venv-hashes work

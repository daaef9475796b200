# make study   the main job: table and figures in study/
# make test    lint, types, docstrings, tests with coverage
# make docs    the documentation in docs/_build/html
# make help    the rest
#
# Each target makes the environment it needs, from nothing but Python and pip.

# The interpreter that makes the environment: plain python3 when it is of a
# supported version, else the newest one that runs (a name on PATH may be an
# empty shim). `make PYTHON=/path/to/python` chooses another.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if $$python -c '$(SUPPORTED)' >/dev/null 2>&1; then echo $$python; break; fi; done)

VENV ?= .venv
VENV_LOWEST ?= build/venv-lowest
WORKERS ?= 2
STUDY_ARGS ?=
PYTEST_ARGS ?=

RUN := $(VENV)/bin/python -m
RUN_LOWEST := $(VENV_LOWEST)/bin/python -m
SOURCES := pyproject.toml constraints.txt

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help study test test-lowest lint format docs clean distclean

help:
	@echo "make study        run the study; table and figures in study/ (STUDY_ARGS: more options)"
	@echo "make test         lint, then the tests with coverage (PYTEST_ARGS, WORKERS)"
	@echo "make test-lowest  the tests under the oldest supported dependencies"
	@echo "make lint         ruff, mypy and the docstring rules"
	@echo "make format       let ruff format and mend what it can"
	@echo "make docs         the documentation, in docs/_build/html"
	@echo "make clean        remove what was built, but neither $(VENV) nor study/"
	@echo "make distclean    clean, and remove $(VENV)"

# --- environments ---------------------------------------------------------

# $(call make-venv,FOLDER)
define make-venv
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 found. Install one, or name it: make PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi
	@"$(PYTHON)" -c '$(SUPPORTED)' || { \
		echo "sksubtomo needs Python 3.11, 3.12 or 3.13; $(PYTHON) is '$$("$(PYTHON)" --version 2>&1 | head -n 1)'. Name another: make PYTHON=/path/to/python" >&2; \
		exit 1; \
	}
	@echo "Making $(1) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv --clear "$(1)" || { \
		rm -rf "$(1)"; \
		echo "$(PYTHON) could not make the virtual environment $(1). It needs the modules venv and ensurepip (on Debian and Ubuntu the package python3-venv)." >&2; \
		exit 1; \
	}
endef

# $(call install,PYTHON -m,CONSTRAINTS,EXTRA): the build backend is installed
# first, so that the constraints hold for the build as well.
define install
	$(1) pip install --quiet --constraint $(2) hatchling editables
	$(1) pip install --quiet --constraint $(2) --no-build-isolation --editable ".[$(3)]"
endef

$(VENV)/pyvenv.cfg:
	$(call make-venv,$(VENV))

$(VENV)/.installed-%: $(VENV)/pyvenv.cfg $(SOURCES)
	$(call install,$(RUN),constraints.txt,$*)
	@touch $@

$(VENV_LOWEST)/pyvenv.cfg:
	$(call make-venv,$(VENV_LOWEST))

$(VENV_LOWEST)/.installed: $(VENV_LOWEST)/pyvenv.cfg pyproject.toml constraints-lowest.txt
	$(call install,$(RUN_LOWEST),constraints-lowest.txt,test)
	@touch $@

# --- work -----------------------------------------------------------------

study: $(VENV)/.installed-study
	$(RUN) sksubtomo study --output study $(STUDY_ARGS)

# One thread a worker: several threads on busy cores are slower than one.
test: lint
	OMP_NUM_THREADS=1 $(RUN) pytest -n $(WORKERS) --cov=sksubtomo --cov-report=term $(PYTEST_ARGS)

test-lowest: $(VENV_LOWEST)/.installed
	OMP_NUM_THREADS=1 $(RUN_LOWEST) pytest -n $(WORKERS) $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) numpydoc lint $$(find sksubtomo -name '*.py')

format: $(VENV)/.installed-test
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

# The examples of the gallery are run, in one thread and without a display.
docs: $(VENV)/.installed-docs
	rm -rf docs/api/generated docs/auto_examples
	MPLBACKEND=Agg OMP_NUM_THREADS=1 $(RUN) sphinx -E -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf build dist docs/_build docs/api/generated docs/auto_examples
	rm -rf .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
	find sksubtomo tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf $(VENV)

# `make demo` and `make test` do all the set-up on a machine that has Python 3.11 or newer.
#   make demo   segment real photographs with the embedded weights
#   make test   run every test
#   make fast   run those that take no time: without a browser, Ray, killed processes and what is slow
#   make check  lint, format, types, tests: what a change must pass
#   make gpu    on a machine with a CUDA card: the tests that need it, then the speed ladder, within nine minutes;
#               the figures go to OUT. With a Python that has everything already: make gpu PYTHON_RUN=python3
#   make figures every figure of README and model card by the embedded weights, from the folder DATA; an hour or two on two
#               cores; goes on where it was stopped
#   make quotes write the figures of README and docs/ anew from the files of benchmarks/results/
#   make docs   build the site into build/site, strictly
#   make clean  remove what the commands above made, the environment included
# Another interpreter: make test PYTHON=python3.12. Another environment: make test VENV=/some/venv.

PYTHON ?= python3
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input

# make gpu: an interpreter to use as it is, without an environment; where the figures go; seconds for all of it
PYTHON_RUN ?=
OUT ?= benchmarks/results
# make figures: the folder of test/, train/ and video/
DATA ?= ../shared/data
GPU_SECONDS ?= 500

.PHONY: demo test fast check gpu figures quotes docs clean chromium

# Three files at a time, on two cores, as those with a browser wait a lot; in the order that tests/conftest.py gives: slow
# files first.
TESTS := -m pytest -n 3 --dist loadfile --no-loadscope-reorder
PYTEST_OPTIONS ?=

test: $(VENV)/.installed-dev chromium
	$(VENV)/bin/python $(TESTS) $(PYTEST_OPTIONS)

fast: $(VENV)/.installed-dev
	$(VENV)/bin/python $(TESTS) -m "not (browser or ray or kill or slow)" $(PYTEST_OPTIONS)

check: $(VENV)/.installed-dev chromium
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy
	$(VENV)/bin/python $(TESTS) $(PYTEST_OPTIONS)

# A browser for the tests of the page: Debian's, where it is missing and can be had. Without it they skip.
chromium:
	@command -v chromium >/dev/null || ! command -v apt-get >/dev/null || { \
	root=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
	{ $$root apt-get update && $$root timeout 600 apt-get install --yes --no-install-recommends chromium; } \
	>/dev/null 2>&1 </dev/null || echo "There is no chromium here, and apt-get cannot install it: its tests skip." >&2; }

# Tests that fail do not keep the ladder from running; what is left of the time is what its rows may take.
gpu: export PYTHONPATH := .
gpu: export PYTHONUNBUFFERED := 1
gpu: RUN = $(or $(PYTHON_RUN),$(VENV)/bin/python)
gpu: LADDER = $(RUN) benchmarks/ladder.py --device cuda --out $(OUT)
gpu: $(if $(PYTHON_RUN),,$(VENV)/.installed-dev)
	@end=$$(($$(date +%s) + $(GPU_SECONDS))); status=0; \
	$(RUN) -m pytest -m gpu || status=$$?; \
	$(LADDER) --model large --budget-seconds $$((end - $$(date +%s) - 60)) || status=$$?; \
	$(LADDER) --model default --shots 1,4,8 --budget-seconds $$((end - $$(date +%s))) || status=$$?; \
	exit $$status

figures: $(VENV)/.installed-dev
	PYTHONPATH=. $(VENV)/bin/python benchmarks/figures.py $(DATA)

quotes: $(VENV)/.installed-dev
	PYTHONPATH=.:benchmarks $(VENV)/bin/python benchmarks/quote.py

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

demo: $(VENV)/.installed-demo
	$(VENV)/bin/incontext demo

clean:
	rm -rf .venv build dist demo-output .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is older than pyproject.toml when something may have to be installed. The last install covers the others.
$(VENV)/.installed-demo: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[docs]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[dev,demo]'
	@touch $@ $(VENV)/.installed-demo $(VENV)/.installed-docs

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here. Name a Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "incontext needs Python 3.11 or newer, and $(PYTHON) is %d.%d. Name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

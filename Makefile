# `make demo` and `make test` do all the set-up on a machine that has Python 3.11 or newer.
#   make demo   segment real photographs with the embedded weights
#   make test   run every test
#   make check  lint, format, types, tests: what a change must pass
#   make clean  remove what the commands above made, the environment included
# Another interpreter: make test PYTHON=python3.12. Another environment: make test VENV=/some/venv.

PYTHON ?= python3
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input

.PHONY: demo test check clean

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest

check: $(VENV)/.installed-dev
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy
	$(VENV)/bin/python -m pytest

demo: $(VENV)/.installed-demo
	$(VENV)/bin/incontext demo

clean:
	rm -rf .venv build dist demo-output .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is older than pyproject.toml when something may have to be installed. The second install covers the first.
$(VENV)/.installed-demo: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[dev,demo]'
	@touch $@ $(VENV)/.installed-demo

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here. Name a Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "incontext needs Python 3.11 or newer, and $(PYTHON) is %d.%d. Name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

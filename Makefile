# `make demo` and `make test` set everything up in .venv; all they need is make and Python 3.11.

PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
# One venv, three stamps: torch alone; what `make demo` needs; what the tests need, which is more.
BASE := $(VENV)/.base
DEMO := $(VENV)/.demo
DEV := $(VENV)/.dev

.DEFAULT_GOAL := help
.PHONY: help demo demo-photos test test-cluster lint format speed clean distclean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/ /' | awk '{n = $$1; $$1 = ""; printf "make %-14s%s\n", n, $$0}'

demo: $(DEMO)  ## render a scene, train on 25 views, evaluate, leave pictures in outputs/demo
	$(PY) data_scripts/demo.py --out outputs/demo

demo-photos: $(DEMO)  ## photos of that scene without poses, to a flight through it, by `peak photos --train`
	$(PY) data_scripts/demo_photos.py --out outputs/demo-photos

test: lint  ## lint, then the test suite
	$(PY) -m pytest -n auto --maxprocesses 4

test-cluster: $(DEV)  ## the tests that start a Ray cluster on this machine; minutes
	$(PY) -m pytest -m cluster tests/bench

lint: $(DEV)  ## ruff check, ruff format --check, mypy, lint-imports, vulture
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m vulture

format: $(DEV)  ## rewrite the sources as ruff wants them
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

speed: $(DEV)  ## measure speed on this machine, as ratios to nerfstudio's own code
	$(PY) -m benchmarks.speed

clean:  ## delete caches and build leftovers; keeps .venv and outputs
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## clean, and delete .venv too
	rm -rf $(VENV)

# A stamp is touched last, so an installation that was cut short is done again.
$(BASE):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null || { \
	  echo "make: error: '$(PYTHON)' is not a Python from 3.10 to 3.12 that runs;" \
	    "install Python 3.11, or name yours: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: error: '$(PYTHON)' has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install torch==2.14.1 torchvision==0.29.1
	@touch $@

$(DEMO): pyproject.toml $(BASE)
	$(PY) -m pip install -e '.[demo]'
	$(PY) -m peak_nerf.system.quiet
	@touch $@

$(DEV): pyproject.toml $(BASE)
	$(PY) -m pip install -e '.[dev]'
	$(PY) -m peak_nerf.system.quiet
	@touch $(DEMO) $@

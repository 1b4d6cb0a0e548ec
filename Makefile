# Everything a fresh machine needs: `make demo` and `make test` make their own virtual environment first.
#
# Variables: PYTHON  the Python that makes the environment (3.11 or newer; default python3)
#            VENV    where the environment lies (default .venv)
#            ARGS    handed on to the command, e.g. make demo ARGS="--seed 3", make test ARGS="-k attack"
#            DATA    a folder with flickr8k/ and rsicd/, for `make reproduce`; without it, OpenMoji scenes alone
#            TARGET  for `make fuzz`: a part of the names of parsers (default all)
#            JOBS    number of processes that run the tests (default: one per core, at most 8)
#            POINTS  at how many moments `make faults` kills each verb (default 30)
#            CONSTRAINTS  a file of versions that the install keeps to, e.g. requirements/lowest.txt; with a VENV of its own

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= auto
POINTS ?= 30
TARGET ?=
CONSTRAINTS ?=
# what `make test-matrix` tests with
OLDEST ?= python3.11
NEWEST ?= python3.13

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
# what is imported is compiled then; pip would compile all of it, on one core, before anything can start
INSTALL := $(PIP) install --no-compile $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
# one thread a process: torch's threads of several processes on the same cores slow each other many times
# and bytecode is written even where the user's environment forbids it: each of the processes would compile all again
# a process that is done takes over what another has left: tests take from milliseconds to a minute
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# two installs into one environment at a time would break it
.NOTPARALLEL:
.PHONY: help demo reproduce test test-fast test-matrix coverage faults fuzz lowest lint format docs screenshots wheel clean bench

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed ## install, then poison, fine-tune, measure, defend and show it
	$(BIN)/mmpoison demo $(ARGS)

reproduce: $(VENV)/.installed-dev ## run the paper's tables and figures on the small data (hours), then lab/docs/results/paper
	$(BIN)/python docs/tools/reproduce.py $(if $(DATA),--data "$(DATA)") $(ARGS)

test: $(VENV)/.installed-dev ## install with the development tools, then run all tests
	$(PYTEST) $(ARGS)

test-fast: $(VENV)/.installed-dev ## the tests without the slow ones
	$(PYTEST) -m "not slow" --hypothesis-profile fast $(ARGS)

coverage: $(VENV)/.installed-dev ## the fast tests, and which lines and branches they run: htmlcov/index.html
	$(PYTEST) -m "not slow" --cov --cov-report term:skip-covered --cov-report html $(ARGS)

faults: $(VENV)/.installed-dev ## kill, starve and stop every verb: POINTS=30 moments each (an hour); all hostile checkpoints
	MMPOISON_FAULT_POINTS=$(POINTS) $(PYTEST) --timeout 0 tests/faults tests/models/test_hostile_checkpoints.py $(ARGS)

fuzz: $(VENV)/.installed-dev ## try 2,000 changed examples on every parser, others each time: TARGET=recipe for one
	$(PYTEST) --timeout 3600 --hypothesis-profile fuzz tests/test_hostile_bytes.py $(if $(TARGET),-k $(TARGET)) $(ARGS)

test-matrix: ## the fast tests three times: lowest dependencies, newest, newest on a newer Python
	$(MAKE) test-fast VENV=.venv-lowest PYTHON=$(OLDEST) CONSTRAINTS=requirements/lowest.txt
	$(MAKE) test-fast VENV=.venv-oldest PYTHON=$(OLDEST)
	$(MAKE) test-fast VENV=.venv-newest PYTHON=$(NEWEST)

bench: $(VENV)/.installed-dev ## measure the speed (a quarter of an hour on an idle machine), then docs/performance.md
	$(BIN)/python benchmarks/bench.py $(ARGS)

lowest: ## write requirements/lowest.txt: the lowest releases that pyproject.toml allows (needs uv)
	UV_CUSTOM_COMPILE_COMMAND="make lowest" uv pip compile pyproject.toml --extra dev --resolution lowest-direct \
	  --python-version 3.11 --no-annotate --quiet --output-file requirements/lowest.txt

lint: $(VENV)/.installed-dev ## ruff (rules and format), import-linter (the layers), budgets and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/python docs/tools/budgets.py
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.installed-docs ## build the documentation into site/
	$(BIN)/mkdocs build --strict $(ARGS)

screenshots: $(VENV)/.installed-dev ## make the screenshots in docs/images, with Chromium
	$(BIN)/python docs/tools/screenshots.py $(ARGS)

wheel: $(VENV)/.installed-dev ## build the wheels of the product and of the laboratory into dist/
	$(BIN)/python -m build --wheel $(ARGS)
	$(BIN)/python -m build --wheel --outdir dist $(ARGS) lab

clean: ## remove the environment and everything that was built; runs/ stays
	@test ! -e $(VENV)/.made || rm -rf $(VENV)
	rm -rf .venv-ci .venv-lowest .venv-oldest .venv-newest site dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache htmlcov

# -- the environment: a stamp file says that a step is done; a change of pyproject.toml installs again ----------------

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: no $(PYTHON) here: install Python 3.11 or newer, or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("make: mmpoison needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + ": make $(MAKECMDGOALS) PYTHON=/path/to/python3.11")'
	@test ! -e $(VENV) -o -e $(VENV)/.begun || { \
	  echo "make: $(VENV) is there and was not made by this Makefile: take another place, make $(MAKECMDGOALS) VENV=.venv-mmpoison" >&2; exit 1; }
	@mkdir -p $(VENV) && touch $(VENV)/.begun
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml lab/pyproject.toml
	$(INSTALL) -e . -e lab
	@touch $@

$(VENV)/.installed-%: $(VENV)/.made pyproject.toml lab/pyproject.toml
	$(INSTALL) -e '.[$*]' -e lab
	@touch $@

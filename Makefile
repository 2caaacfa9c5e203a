# webhookd: `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup run test test-unit test-faults test-slice test-guards coverage bench format lint audit lock wheel sbom clean clean-data

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Each of these files is as old as a part of the virtual environment: Python with uv, what `make run` needs, everything.
TOOLS := $(VENV)/.tools
RUNNING := $(VENV)/.installed-run
STAMP := $(VENV)/.installed
# The newest Python that is at least 3.11; choose another with `make PYTHON=…`.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# The number of processors, at most eight of them. `make test` runs three processes of pytest on each: most tests wait more than
# they compute. The cases of `make test-faults` compute more.
CORES ?= $(shell n=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))

# Python keeps what it has compiled, even if the environment says otherwise, as in many containers. Without these files, each
# start of the daemon compiles all libraries anew, which takes a second of a processor; the tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

# The suites that have long cases, and the part of these that `make test-slice` runs.
LONG := tests/faults tests/model tests/acceptance tests/dashboard tests/deploy tests/upgrade tests/contract \
	tests/integration/test_search_plans.py tests/integration/test_reconciling.py tests/integration/test_reconciled_sweeps.py
SLICE ?= $(shell git rev-parse HEAD)/16

# `make coverage` prints the modules below the floor, and the total. It fails if the total of the lines is below the floor. The
# last column counts branches, too.
FLOOR := 90
COVERAGE = NR == 1 || /^TOTAL/ || $$NF + 0 < $(FLOOR) && NF > 1; /^TOTAL/ { lines = 100 * ($$2 - $$3) / $$2 } \
	END { printf "%.1f %% of the lines; the floor is $(FLOOR) %%\n", lines; exit lines < $(FLOOR) }

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Installs what the argument names. uv takes seconds. pip takes minutes, and serves a platform without uv, and a network that only
# pip is configured for.
define install
	@{ [ -x $(BIN)/uv ] && $(BIN)/uv pip install --quiet --python $(BIN)/python $(1); } || \
		{ echo "pip installs instead of uv; this takes a minute or two" >&2; $(PIP) $(1); } || { rm -f $(TOOLS); exit 1; }
endef

setup: $(STAMP)  ## Create .venv and install everything, as locked

$(TOOLS): deploy/requirements-uv.txt
	@if [ -z "$(PYTHON)" ]; then echo "webhookd needs Python 3.11 or newer, and none was found: install it, or name it with make PYTHON=/path/to/python3" >&2; exit 1; fi
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(PIP) --only-binary=:all: --require-hashes -r $< || echo "uv could not be installed: there is no wheel of it for this platform, or no network" >&2
	@touch $@

$(RUNNING): $(TOOLS) pyproject.toml deploy/requirements-run.txt deploy/requirements-build.txt
	$(call install,--require-hashes -r deploy/requirements-run.txt -r deploy/requirements-build.txt)
	$(call install,--no-deps --no-build-isolation --editable .)
	@touch $@

$(STAMP): $(TOOLS) pyproject.toml deploy/requirements-dev.txt
	$(call install,--require-hashes -r deploy/requirements-dev.txt)
	$(call install,--no-deps --no-build-isolation --editable .)
	@touch $(RUNNING) $@

run: $(RUNNING)  ## Start everything on this machine, process sample events, and go on serving
	@exec $(BIN)/webhookd dev

test: setup  ## Run the tests, with servers of their own
	@$(BIN)/pytest -n $$(($(CORES) * 3)) --dist loadgroup $(ARGS)

test-unit: setup  ## Run the tests that need no server, in some seconds
	@$(BIN)/pytest -n $(CORES) tests/unit $(ARGS)

test-faults: setup  ## Break servers, networks and processes under load, and count what is lost or doubled; and the long tests
	@$(BIN)/pytest -n $$(($(CORES) * 2)) $(LONG) --faults-long --durations=10 $(ARGS)

test-slice: setup  ## Run one of sixteen parts of the long cases, for about two minutes; the commit chooses, or SLICE=3/16
	@$(BIN)/pytest -n $$(($(CORES) * 2)) $(LONG) --long-slice=$(SLICE) --durations=5 $(ARGS)

test-guards: setup  ## Take each guard of the promises out of a copy of the code, and see its test fail
	@$(BIN)/python -m tests.faults.guards $(ARGS)

coverage: setup  ## Measure what the unit and integration tests run, and fail below 90 % of the lines (slow)
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -n $$(($(CORES) * 3)) --dist loadgroup tests/unit tests/integration $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report | awk '$(COVERAGE)'

bench: setup  ## Measure webhookd beside 0.2.0, the ceiling and the textbook, on servers that commit to disk (needs npm; takes hours)
	@$(BIN)/python -m tests.bench $(ARGS)

format: setup  ## Bring the code into the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lint: setup  ## Check style, types, the direction of imports and the spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/codespell

audit: setup  ## Look for known vulnerabilities in the locked dependencies
	@$(BIN)/python .ci/audit

COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate

lock: setup  ## Lock the dependencies anew, for every platform and Python version: to ship, all, to run here, to build, uv itself
	@$(COMPILE) --upgrade pyproject.toml --output-file deploy/requirements.txt
	@$(COMPILE) --upgrade pyproject.toml --extra dev --extra tracing --group test --constraint deploy/requirements.txt --output-file deploy/requirements-dev.txt
	@$(COMPILE) --upgrade pyproject.toml --extra dev --constraint deploy/requirements-dev.txt --output-file deploy/requirements-run.txt
	@echo hatchling | $(COMPILE) --constraint deploy/requirements-dev.txt - --output-file deploy/requirements-build.txt
	@echo uv | $(COMPILE) --constraint deploy/requirements-dev.txt - --output-file deploy/requirements-uv.txt

wheel: setup  ## Build the wheel into dist/
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

sbom: setup  ## Write the bill of materials of what webhookd installs into dist/, as CycloneDX
	@mkdir -p dist
	@$(BIN)/python -W ignore::UserWarning -m cyclonedx_py requirements deploy/requirements.txt --pyproject pyproject.toml --mc-type application --output-reproducible --of JSON -o dist/webhookd.cdx.json

clean:  ## Remove the virtual environment, built files and caches; not the data of `webhookd dev`
	@rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.*
	@if [ -e .webhookd ]; then echo "the data of webhookd dev stays in .webhookd; make clean-data removes it"; fi

clean-data:  ## Remove .webhookd: the database, the keys and the log of `webhookd dev`, and builds that the bench compares
	@rm -rf .webhookd

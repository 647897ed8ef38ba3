# The commands of this project. `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed-at
# How many test processes. The machine that these tests are sized for has 2 cores; many of them wait for most of their
# time, the long ones less so.
JOBS      ?= 3
JOBS_LONG ?= 2

.PHONY: help install demo test test-long lint types format bench lock clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) relocate  ## make .venv with the pinned dependencies

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Flux needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@rm -f $@ && touch $@

# The environment holds this folder's absolute path in two places (the scripts and the link to src/); a checkout
# that was moved or copied is linked again, which needs no network.
.PHONY: relocate
relocate: $(STAMP)
	@test "$$(cat $(STAMP))" = "$(CURDIR)" || { \
	  $(PY) -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --force-reinstall -e . \
	  && printf '%s' "$(CURDIR)" > $(STAMP).new && mv $(STAMP).new $(STAMP); }

demo: install  ## a simulated site, live, from an empty folder (Ctrl-C stops it)
	$(PY) -m flux demo

# What the tests run in node: TimescaleDB, and the official JavaScript clients. Without node they are skipped, and say so.
NODE_FOLDERS := tests/timescale tests/clients
.PHONY: node-packages $(NODE_FOLDERS)
node-packages: $(NODE_FOLDERS)
$(NODE_FOLDERS):
	@if ! command -v npm >/dev/null || ! command -v node >/dev/null; then \
	  echo "node and npm are not installed: what $@ is for is skipped"; \
	elif ! test $@/node_modules/.package-lock.json -nt $@/package-lock.json; then \
	  npm ci --silent --no-fund --no-audit --no-update-notifier --ignore-scripts --fetch-retries 0 --fetch-timeout 60000 --cache $@/.npm-cache --prefix $@ \
	    || echo "npm ci failed (no network?): what $@ is for is skipped"; \
	  rm -rf $@/.npm-cache; \
	fi

test: install node-packages  ## the test suite (under 6 minutes on 2 cores)
	$(PY) -m pytest -n $(JOBS)

test-long: install node-packages  ## what takes longer: kill loops, fuzzing, soak
	$(PY) -m pytest -m long --timeout 1800 -n $(JOBS_LONG)

lint: install  ## ruff
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

types: install  ## mypy --strict
	$(PY) -m mypy

format: install  ## let ruff rewrite what it can
	$(PY) -m ruff check --fix . ; $(PY) -m ruff format .

bench: install  ## every benchmark; each prints a ratio measured in the same run
	$(PY) -m benchmarks

lock: install  ## pin the dependencies of pyproject.toml anew (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --quiet -o requirements.txt

clean:  ## remove the environment, caches and the demo's data
	if [ -f .flux/postgres-is-in ]; then rm -rf "$$(cat .flux/postgres-is-in)"; fi  # root's, where .flux was out of reach
	rm -rf $(VENV) .flux .pytest_cache .mypy_cache .ruff_cache .hypothesis

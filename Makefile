# `make` alone lists the targets. Everything installs into .venv, nothing else is touched.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# What is installed at first. Each installation compiles the core: .ci/run names all that it needs.
EXTRAS ?= test,lint
comma  := ,
SOURCES := setup.cfg setup.py pyproject.toml $(wildcard geventws/*/*.pyx geventws/*/*.pxd geventws/*/*.h)
# Tests of what surrounds the core, whichever it is, and of both cores at once: once is enough.
ONCE   := broadcast/test_contract broadcast/test_faults broadcast/test_postgresql \
          broadcast/test_postgresql_channels broadcast/test_recovery broadcast/test_redis \
          broadcast/test_redis_channel cli/test_check cli/test_cli cli/test_client cli/test_diagnosis \
          cli/test_inspector \
          client/test_dialling client/test_redirects client/test_socks \
          protocol/test_properties server/test_drain server/test_gevents_own \
          server/test_http_handler server/test_middleware server/test_other_libraries \
          server/test_smuggling server/test_worker test_bottle test_browsers test_compat \
          test_deploy test_docs test_engineio test_flask test_frameworks test_guides \
          test_prometheus test_recipes test_sites test_testing
# Tests wait more than they compute: three processes keep two cores busy.
JOBS   ?= $(shell $(PYTHON) -c 'import os; print(min(8, (os.cpu_count() or 1) * 3 // 2))')
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
PURE   := $(or $(ARGS),tests $(ONCE:%=--ignore=tests/%.py))
COVER  := --cov --cov-report= --cov-fail-under=0

.DEFAULT_GOAL := help
.PHONY: help chat votes test coverage lint compliance refcounts fuzz sanitize bounds fairness costs soak \
        faults bench fanout docs site screenshots dist wheels clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

$(READY): $(SOURCES)
	@echo "Setting everything up in $(VENV); the first time this takes a minute."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.chat $(VENV)/.votes $(patsubst %,$(VENV)/.with-%,$(subst $(comma), ,$(EXTRAS)))

$(VENV)/.chat: NEEDED := '.[bottle]'
$(VENV)/.votes: NEEDED := '.[flask]' segno
$(VENV)/.chat $(VENV)/.votes: $(SOURCES)
	@echo "Setting up what the example needs in $(VENV)."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e $(NEEDED)
	@touch $@

$(VENV)/.with-%: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

chat: $(VENV)/.chat  ## serve the Bottle chat on port 8080 (PORT=… for another)
	cd examples/bottle_chat && exec ../../$(BIN)/python chat.py

votes: $(VENV)/.votes  ## serve the Flask votes on port 8080 (PORT=… for another)
	cd examples/flask_votes && exec ../../$(BIN)/python votes.py

test: $(READY)  ## run the tests, with each core (ARGS=… for pytest, JOBS=… processes)
	$(PYTEST) $(ARGS)
	GEVENTWS_PURE_PYTHON=1 $(PYTEST) $(PURE)

coverage: $(READY)  ## the same, and check which lines and branches have run
	rm -rf build/coverage
	COVERAGE_FILE=build/coverage/compiled $(PYTEST) $(COVER) $(ARGS)
	GEVENTWS_PURE_PYTHON=1 COVERAGE_FILE=build/coverage/python $(PYTEST) $(COVER) $(PURE)
	$(BIN)/coverage combine --keep --quiet build/coverage/compiled build/coverage/python
	$(BIN)/coverage report --skip-covered
	$(BIN)/coverage report --include='geventws/protocol/*' --fail-under=100

lint: $(READY)  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

compliance: $(READY)  ## run the Autobahn|Testsuite (needs Python 2.7)
	$(BIN)/python compliance/run.py --core compiled python --messages 20

refcounts: $(READY)  ## look for leaks over 100,000 connections, with each core
	$(BIN)/python -m tests.checks.refcounts
	GEVENTWS_PURE_PYTHON=1 $(BIN)/python -m tests.checks.refcounts

fuzz: $(VENV)/.with-fuzz  ## fuzz the parsers and the handshake (SECONDS=… for other than 300)
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),300)

sanitize: $(READY)  ## run the tests under AddressSanitizer and UndefinedBehaviorSanitizer (gcc)
	$(BIN)/python -m tests.checks.sanitize $(ARGS)

bounds: $(READY)  ## measure the memory that the greediest clients cost
	$(BIN)/python -m tests.checks.bounds

fairness: $(READY)  ## measure how long others wait beside a client that floods (two minutes)
	$(BIN)/python -m tests.checks.fairness
	GEVENTWS_PURE_PYTHON=1 $(BIN)/python -m tests.checks.fairness

costs: $(READY)  ## compare instructions and memory with costs.json (valgrind; ARGS=--write)
	$(BIN)/python -m tests.checks.costs $(ARGS)

soak: $(READY)  ## hold 5,000 connections of every kind (SECONDS=… for other than 120)
	$(BIN)/python -m tests.checks.soak --seconds $(or $(SECONDS),120)

faults: $(READY)  ## check a broadcast while Redis or a worker fails (10 minutes; ARGS=…)
	$(BIN)/python -m tests.faults $(ARGS)

bench: $(READY)  ## compare with other libraries, see benchmarks/README.md (10 minutes)
	$(BIN)/python benchmarks/run.py $(ARGS)

fanout: $(READY)  ## measure a broadcast over several workers, with Redis (2 minutes)
	$(BIN)/python benchmarks/broadcast.py $(ARGS)

docs: $(VENV)/.with-docs  ## build the documentation in build/docs; a dead link is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	$(BIN)/python -m tests.checks.links

site: $(VENV)/.with-docs  ## build the documentation of every release, in build/site
	$(BIN)/python -m tests.checks.site

screenshots: $(READY)  ## take the documentation's pictures of the examples anew (Chromium)
	$(BIN)/python -m docs.screenshots

dist: $(VENV)/.with-release  ## build and check the sdist and a wheel of what is committed
	rm -rf dist build/tree
	git archive --format=tar --prefix=tree/ HEAD | tar -x -C $$(mkdir -p build && echo build)
	$(BIN)/python -m build --outdir dist build/tree
	$(BIN)/twine check --strict dist/*

wheels: dist  ## build and test a wheel for each Python that is here (ARGS=… for others)
	$(BIN)/python -m tests.checks.wheels $(ARGS)

clean:  ## remove what the targets above made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache compliance/lab \
		benchmarks/.venv benchmarks/build

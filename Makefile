# Works with GNU make 3.81, which macOS has.

VENV := .venv
BIN := $(VENV)/bin
# The first of these that is new enough; `make setup PYTHON=…` names another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& command -v $$python && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
CHROMIUM := chromium chromium-browser google-chrome google-chrome-stable \
	"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
INITDB := initdb /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb \
	/opt/homebrew/opt/postgresql*/bin/initdb /usr/local/opt/postgresql*/bin/initdb
JAVA := $(if $(JAVA_HOME),$(JAVA_HOME)/bin/)java
KAFKA_PORT ?= 9092
LOCK := uv pip compile pyproject.toml --quiet --no-header --universal --python-version 3.11 \
	--all-extras --fork-strategy fewest --generate-hashes --no-emit-index-url --no-emit-find-links

.PHONY: help setup run setup-dev test test-long check lint docs bench supply lock wheel release clean \
	kafka kafka-stop \
	chromium postgresql java nginx promtool

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.setup ## Build .venv; does nothing when it is up to date

run: setup ## Start worker, server and page; Ctrl-C stops them
	@exec $(BIN)/reckeeper up

setup-dev: $(VENV)/.setup-dev ## Add what tests, types and lint need

# Two processes more than cores, since many tests wait for others.
N_PROCESSES := $(shell python3 -c 'import os; print(2 + os.cpu_count())' 2>/dev/null || echo auto)
# What one test has compiled, the programs of the others need not. A training gives way to
# everything else, and would wait for all other tests: at the lowest priority all are equal.
IN_PARALLEL := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 nice -n 19 \
	$(BIN)/python -m pytest --numprocesses=$(N_PROCESSES)
SLOW := artifact bulk cli_evaluate client client_distribution collapse commands demo docs files \
	frontend gate import_memory linalg packaging serving storage structure tabular_query tuning up

test: setup-dev chromium postgresql java nginx promtool ## Run every test: real browser, database and broker
	$(IN_PARALLEL) tests/system tests/contracts tests/unit

test-long: setup-dev chromium postgresql java nginx promtool ## Long faults, and many more generated examples
	$(IN_PARALLEL) -m "long or hypothesis" --hypothesis-profile=long --timeout=3000 tests

check: setup-dev ## Lint, types and the quick unit tests, in under a minute
	@$(MAKE) --no-print-directory lint
	$(IN_PARALLEL) --numprocesses=auto tests/unit $(SLOW:%=--ignore=tests/unit/test_%.py)

lint: setup-dev ## Lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: setup-dev ## Write the generated parts of docs/, and build it in docs/_build
	$(BIN)/python -m docs.generate
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build

kafka: ## Start a Kafka broker on this machine; KAFKA_PORT=9092
	@bash services/kafka.sh start .services/kafka $(KAFKA_PORT)
	@echo "Next: KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$(KAFKA_PORT) make run"

kafka-stop: ## Stop it; its data stay in .services/kafka
	@bash services/kafka.sh stop .services/kafka

bench: setup-dev ## Measure; see benchmarks/
	$(BIN)/python -m benchmarks

supply: setup-dev ## List what is installed, its licences and its known holes, in dist/
	@$(BIN)/python .ci/supply

wheel: setup-dev ## Build the wheels of reckeeper and reckeeper-client in dist/
	@rm -rf dist && mkdir dist
	$(BIN)/python -m flit_core.wheel --outdir dist .
	cd client && ../$(BIN)/python -m hatchling build --target wheel --directory ../dist

release: ## Prove, build and tag a release; VERSION=0.1.0. Nothing is uploaded
	@.ci/release "$(VERSION)"

lock: ## Pin requirements again from pyproject.toml (needs uv); FLAGS=--upgrade takes newer releases
	@command -v uv >/dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv/"; exit 1; }
	$(LOCK) $(FLAGS) --group build -o requirements.txt
	$(LOCK) $(FLAGS) --group build --group dev -c requirements.txt -o requirements-dev.txt

clean: ## Remove .venv and caches, never data or models
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src server kafka_worker frontend tests benchmarks -name __pycache__ -prune \
		-exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "Reckeeper needs Python 3.11 or newer; found $$(python3 --version 2>&1 || true)."; \
		echo "Install one, or name it: make setup PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Reckeeper needs Python 3.11 or newer; $(PYTHON) is not."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) lacks its venv module. On Debian and Ubuntu: apt install python3-venv"; \
		exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)

# A Python that was upgraded is newer than the stamp; one that was removed leaves a dangling link.
$(VENV)/.setup: pyproject.toml requirements.txt $(BIN)/python
	@echo "Installing into $(VENV) (the first time takes about a minute) …"
	@$(PIP) --require-hashes -r requirements.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.setup-dev: requirements-dev.txt $(VENV)/.setup
	@echo "Installing what tests need …"
	@$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@

# What tests need beside Python; on Debian and Ubuntu it is installed where the user may.
# $(call install,what,packages,which tests) is for the end of a recipe that found it missing.
define install
{ if command -v apt-get >/dev/null && test "$$(id -u)" = 0; then sudo=; \
	elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then sudo=sudo; \
	else echo "No $(1) found: $(3) tests will be skipped."; exit 0; fi; \
	echo "Installing $(1) …"; \
	{ $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive \
		apt-get install -qq -y --no-install-recommends $(2) >/dev/null; } \
	|| echo "$(1) could not be installed: $(3) tests will be skipped."; }
endef

chromium:
	@for browser in $(CHROMIUM); do command -v "$$browser" >/dev/null && exit 0; done; \
	$(call install,Chromium or Chrome,chromium,browser)

postgresql:
	@for initdb in $(INITDB); do command -v "$$initdb" >/dev/null && exit 0; done; \
	$(call install,PostgreSQL,postgresql,PostgreSQL)

nginx:
	@PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null && exit 0; \
	$(call install,nginx,nginx-light,TLS)

# A release has one or two of these; of Java the oldest that Kafka takes will do.
java:
	@version=$$($(JAVA) -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p'); \
	test "$${version:-0}" -ge 17 && command -v mvn >/dev/null && exit 0; \
	$(call install,Java 17 and Maven,maven $$(apt-cache pkgnames openjdk- \
		| grep -E -x 'openjdk-(17|21|25)-jre-headless' | sort | head -n 1),Kafka)

# Out of Prometheus' package, without what would start it.
promtool:
	@command -v promtool >/dev/null || test -x .services/promtool || { mkdir -p .services && cd .services \
		&& { apt-get download -qq prometheus 2>/dev/null || { test "$$(id -u)" = 0 \
			&& apt-get update -qq && apt-get download -qq prometheus; }; } \
		&& dpkg-deb --fsys-tarfile prometheus_*.deb | tar x --strip-components=3 ./usr/bin/promtool \
		&& rm prometheus_*.deb; } \
	|| echo "No promtool found, and none could be had: the test of the alert rules will be skipped."

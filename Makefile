# Every target sets up what it needs; nothing has to be installed first but Python >= 3.11, git and make.
PYTHON ?= python3
ENGINE ?= local
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help demo test check bench bench-lb bench-failover bench-gateway sim bench-docker lock clean format

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## run the main job: deploy, disturb, heal, balance, verdict (ENGINE=docker: in real containers)
	@if [ "$(ENGINE)" = docker ]; then scripts/docker ensure && scripts/docker start; fi
	@$(BIN)/python -m examples.digits.demo --engine $(ENGINE)

test: $(VENV)/.dev ## set everything up and run every test
	@scripts/test all

check: $(VENV)/.dev ## the fast part of the tests: lint, types, layers, unit (under a minute)
	@scripts/test fast

bench: $(VENV)/.dev ## measure and print the tables of figures
	@$(BIN)/python -m benchmarks

bench-lb: $(VENV)/.dev ## measure the balancer beside nginx and HAProxy (ARGS="--quick": in minutes, not an hour)
	@scripts/servers ensure || echo "measuring without what is missing"
	@$(BIN)/python -m benchmarks.balance $(ARGS)

bench-failover: $(VENV)/.dev ## kill brokers under load, and see what becomes of requests (ARGS="--quick")
	@scripts/servers ensure || echo "measuring without what is missing"
	@$(BIN)/python -m benchmarks.balance.failover $(ARGS)

bench-gateway: $(VENV)/.dev ## measure the gateway's hop beside nginx and HAProxy (ARGS="--quick")
	@scripts/servers ensure || echo "measuring without what is missing"
	@$(BIN)/python -m benchmarks.gateway $(ARGS)

sim: $(VENV)/.dev ## simulate the balancer in virtual time beside central queues that miss nothing
	@$(BIN)/python -m benchmarks.balance.sim $(ARGS)

bench-docker: $(VENV)/.dev ## measure real containers against Docker itself (as root)
	@scripts/docker ensure
	@$(BIN)/python -m benchmarks.docker

format: $(VENV)/.dev ## format and fix what can be fixed
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q .

lock: ## renew the pinned requirements (needs uv)
	uv pip compile pyproject.toml --extra server --extra docker --group demo --group build --universal --generate-hashes --no-emit-index-url -q -o requirements/demo.txt
	uv pip compile pyproject.toml --extra server --extra docker --extra redis --extra etcd --group dev --universal --generate-hashes --no-emit-index-url -q -c requirements/demo.txt -o requirements/dev.txt

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.demo: requirements/demo.txt pyproject.toml scripts/setup
	@PYTHON=$(PYTHON) scripts/setup $(VENV) demo

$(VENV)/.dev: requirements/dev.txt pyproject.toml scripts/setup
	@PYTHON=$(PYTHON) scripts/setup $(VENV) dev

# Everything that people do with this checkout. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help setup up down test pythons check lint fmt proto bench chaos clean unit sim integration

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ORCA := ORCA_DATA_DIR=.orca $(BIN)/orca
STAMP := $(VENV)/.installed
PROTOS := proto/orca_proto/worker.proto
# Half of the tests wait for processes and containers, so more workers than processors.
JOBS ?= 6
# What the time-boxed half of the simulations goes through; `make chaos` takes more of everything.
SIM_FLAGS ?= --seeds 50 --crash-states 100000
# The groups of `make chaos`, in numbers that take about an hour on two cores; docs/testing.md.
CHAOS_GROUPS := log cluster rolls crash calls faults kills mutations fenced boot
CHAOS_log := tests/sim/raft/test_raft_histories.py --seeds 400
CHAOS_cluster := tests/sim/test_histories.py tests/sim/test_losses.py tests/sim/test_masters.py --seeds 300
CHAOS_rolls := tests/sim/test_rolls.py --seeds 5000
CHAOS_crash := tests/unit/state tests/unit/raft --crash-states 1000000
CHAOS_calls := tests/chaos/test_calls.py tests/chaos/test_master_calls.py --long
CHAOS_faults := tests/chaos/test_faults.py --long
CHAOS_kills := tests/chaos/test_kills.py --long
CHAOS_boot := tests/chaos/test_boot.py --long
CHAOS_fenced := tests/chaos/test_fenced.py --long
CHAOS_mutations := tests/sim/test_planted_faults.py tests/sim/raft/test_raft_mutations.py
UP_FLAGS ?= --workers 1
PYTEST_FLAGS ?=

help: ## Show this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make the virtual environment in .venv with everything installed

$(STAMP): pyproject.toml
	@sh tools/venv.sh "$(PYTHON)" "$(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,ingress]'
	@touch $(STAMP)

up: setup ## Start a local cluster with a running sample service
	@$(ORCA) up --sample $(UP_FLAGS)
	@$(ORCA) status

down: setup ## Stop the local cluster and what it runs; its state stays in .orca
	@$(ORCA) down

test: setup ## Every test; says what it leaves out when there is no engine or no root
	@sh tools/what-is-missing.sh
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(SIM_FLAGS) $(PYTEST_FLAGS) tests

pythons: setup ## The unit tests on every other supported Python that is found here
	@sh tools/other-pythons.sh $(BIN)/python

check: lint ## The quick half: format, lint, types, import contracts, unit tests
	$(BIN)/python -m pytest -q -n $(JOBS) tests/unit tests/api

lint: setup ## Format, lint, types, import contracts, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	@[ "$(COLLECT)" = no ] || $(BIN)/python -m pytest -qq --collect-only tests >/dev/null || $(BIN)/python -m pytest -q --collect-only tests

unit: setup ## Unit tests only
	$(BIN)/python -m pytest -q tests/unit

sim: setup ## Simulations; SEED=17 replays one, SEEDS=1000 runs more
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup tests/sim $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS))

integration: setup ## Tests with real processes and containers only
	$(BIN)/python -m pytest -q tests/contract tests/integration

fmt: setup ## Format the code and mend what can be mended by a tool
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: setup ## Compile the protocol again (the stubs are committed)
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=proto --grpc_python_out=proto \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --mypy_out=quiet:proto \
	  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --mypy_grpc_out=quiet:proto $(PROTOS)

bench: setup ## Measure against peers and floors in the same run (needs a container engine)
	$(BIN)/python bench/deploy.py
	$(BIN)/python bench/idle.py
	-$(BIN)/python bench/state.py
	-$(BIN)/python bench/raft.py
	-$(BIN)/python bench/api.py
	-$(BIN)/python bench/slow.py
	-$(BIN)/python bench/nodes.py
	-$(BIN)/python bench/machines.py
	-$(BIN)/python bench/machines.py --with-leader --swarm-kills 0
	-$(BIN)/python bench/workers.py
	-$(BIN)/python bench/rollout.py
	-$(BIN)/python bench/crash.py
	-$(BIN)/python bench/webhooks.py
	-$(BIN)/python bench/signatures.py
	-$(BIN)/python bench/ingress.py
	-$(BIN)/python bench/cli.py

define chaos_group
@echo "chaos: $(1)"
@$(BIN)/python -m pytest -q -n 2 --dist loadgroup -o timeout=4500 $(or $(CHAOS_$(1)),$(error no group $(1): $(CHAOS_GROUPS)))

endef

chaos: setup ## The long search, real faults and kills; GROUP=log runs one group alone
	$(foreach group,$(or $(GROUP),$(CHAOS_GROUPS)),$(call chaos_group,$(group)))

clean: ## Remove the virtual environment and all caches (not the cluster in .orca)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make` alone prints this file's targets. Everything that a target needs, it installs into .venv by itself.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo run test lowest soak node bench shots check package docs lock clean

PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
# The machine's own certificates count, as behind a company's proxy.
export UV_SYSTEM_CERTS := 1
# Where it is set, every process would compile anew what it imports, for as long as the import takes.
unexport PYTHONDONTWRITEBYTECODE
UV := $(BIN)/uv
IN_BACKEND := cd backend &&

help: ## Print this
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-7s  %s\n", $$1, $$2}'

demo: .venv/run ## Play an evening of real traffic with faults, and audit it; SESSIONS=FILE plays a CSV of charging sessions
	@$(IN_BACKEND) $(BIN)/python -m demo $(if $(SESSIONS),--sessions "$(abspath $(SESSIONS))")

run: .venv/run ## Sandbox and application with the demo's data, staying up until Ctrl-C; PORT=8000 SANDBOX_PORT=8025
	@$(IN_BACKEND) $(BIN)/python -m demo --stay $(if $(PORT),--port $(PORT)) $(if $(SANDBOX_PORT),--sandbox-port $(SANDBOX_PORT))

test: .venv/dev ## Run the tests, on SQLite and on a PostgreSQL of their own
	@$(IN_BACKEND) $(BIN)/python -m pytest -n 5 --dist worksteal $(ARGS)

# What has told a library's releases apart, SQLAlchemy 2.0 from 2.1 among them.
LOWEST := tests/test_brief.py tests/app tests/outbox/test_enqueue.py tests/outbox/test_enqueue_async.py \
	tests/outbox/test_session_forms.py tests/outbox/test_claims.py tests/outbox/test_worker.py tests/test_moved_database.py \
	tests/hubspot/test_command_line_fuzz.py tests/hubspot/test_secrets.py tests/hubspot/test_traces.py
lowest: .venv-lowest/dev ## A part of the tests, with the oldest dependencies that are allowed
	@$(IN_BACKEND) ../.venv-lowest/bin/python -m pytest -n 4 $(LOWEST)

soak: .venv/dev ## The long proofs, up to ten minutes: planted faults are found, chaos breaks no promise; LONG=1 has more of it
	@$(IN_BACKEND) $(if $(LONG),SOAK_LONG=1 CHAOS_SECONDS=90 KEPT_EVENTS=5000000 PROPERTY_FACTOR=8) $(BIN)/python -m pytest -n auto --maxprocesses 4 tests/soak $(ARGS)

# At a version that is named, beside the project, and without scripts of the packages'.
NODE_CLIENT := @hubspot/api-client@14.0.1
node: .venv/dev .node/$(NODE_CLIENT) ## Drive the sandbox with HubSpot's own Node client, which it installs; Node and npm must be there
	@$(IN_BACKEND) $(BIN)/python -m pytest tests/sandbox/test_node_client.py $(ARGS)

.node/$(NODE_CLIENT):
	@mkdir -p .node && cd .node && \
		npm install --silent --no-save --no-package-lock --no-audit --no-fund --ignore-scripts $(NODE_CLIENT)
	@mkdir -p $(@D) && touch $@

bench: .venv/dev .venv-bench/peers ## Measure the outbox against the physical limit and its peers, about 30 minutes; QUICK=1 about 7, SECTIONS="drain live" some
	@$(IN_BACKEND) $(BIN)/python -m bench $(if $(QUICK),--quick) $(SECTIONS)

shots: .venv/dev ## Pictures of every view of the operator's page into shots/; SCENES="401 down" some
	@$(IN_BACKEND) $(BIN)/python -m tests.page.shots ../shots $(SCENES)

check: .venv/dev ## Lint, types, and the arrows between the rooms
	@$(IN_BACKEND) for folder in . ../examples ../docs/site; do \
		$(BIN)/ruff format -q --check --config pyproject.toml $$folder && \
		$(BIN)/ruff check -q --config pyproject.toml $$folder || exit 1; done
	@$(IN_BACKEND) $(BIN)/mypy && $(BIN)/mypy ../examples/*.py
	@$(IN_BACKEND) $(BIN)/lint-imports --no-cache

package: .venv/dev .venv-release/tools ## Build the library, check it, and install it with each extra alone, in half a minute
	@$(IN_BACKEND) $(BIN)/python release/package.py

docs: .venv-release/tools ## Build the documentation into docs/_build, strictly and without a network
	@.venv-release/bin/python -m sphinx --fail-on-warning --keep-going -q -E -c docs/site -b html docs docs/_build

lock: .venv/uv ## Resolve the dependencies anew into the lock files
	@echo uv | $(UV) pip compile -q --upgrade --universal --generate-hashes --no-annotate --no-header \
		--python-version 3.11 - -o backend/requirements-uv.lock
	@echo "-r backend/bench/peers/requirements.txt" | $(UV) pip compile -q --universal --generate-hashes \
		--no-annotate --no-header --python-version 3.11 - -o backend/bench/peers/requirements.lock
	@$(IN_BACKEND) $(UV) pip compile -q --upgrade --universal --generate-hashes --no-annotate --no-header \
		--python-version 3.11 --extra app pyproject.toml -o requirements.lock
	@$(IN_BACKEND) $(UV) pip compile -q --upgrade --universal --generate-hashes --no-annotate --no-header \
		--python-version 3.11 --extra app --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	@$(IN_BACKEND) $(UV) pip compile -q --upgrade --universal --generate-hashes --no-annotate --no-header \
		--python-version 3.11 --resolution lowest-direct --extra app pyproject.toml -o requirements-lowest.lock
	@$(IN_BACKEND) $(UV) pip compile -q --upgrade --universal --generate-hashes --no-annotate --no-header \
		--python-version 3.11 --extra app --extra dev -c requirements-lowest.lock pyproject.toml -o requirements-lowest.lock
	@$(IN_BACKEND) $(UV) pip compile -q --upgrade --universal --generate-hashes --no-annotate --no-header \
		--python-version 3.11 -c requirements-dev.lock release/requirements.txt -o release/requirements.lock

clean: ## Remove .venv and caches
	@rm -rf .node .venv .venv-bench .venv-lowest .venv-release backend/dist docs/_build backend/.mypy_cache backend/.ruff_cache backend/.hypothesis

.venv/uv: backend/requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; say make PYTHON=…")'
	@echo "Making .venv, once: a minute at most."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r backend/requirements-uv.lock
	@touch $@

.venv/run: .venv/uv backend/requirements.lock
	@echo "Installing what the application needs into .venv: $$(grep -c == backend/requirements.lock) packages."
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r backend/requirements.lock
	@touch $@

.venv/dev: .venv/run backend/requirements-dev.lock
	@echo "Installing what the tests need into .venv: $$(grep -c == backend/requirements-dev.lock) packages."
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r backend/requirements-dev.lock
	@touch $@

.venv-lowest/dev: .venv/uv backend/requirements-lowest.lock
	@$(UV) venv -q --clear --python $(BIN)/python .venv-lowest
	@$(UV) pip install --quiet --python .venv-lowest/bin/python --require-hashes -r backend/requirements-lowest.lock
	@touch $@

# What builds the documentation and checks the package lives apart: it brings more than all else together.
.venv-release/tools: .venv/uv backend/requirements.lock backend/release/requirements.lock
	@$(UV) venv -q --clear --python $(BIN)/python .venv-release
	@$(UV) pip install --quiet --python .venv-release/bin/python --require-hashes -r backend/requirements.lock
	@$(UV) pip install --quiet --python .venv-release/bin/python --require-hashes -r backend/release/requirements.lock
	@touch $@

# The peers that `make bench` measures beside the outbox live apart: nothing of ours may depend on them.
.venv-bench/peers: .venv/uv backend/bench/peers/requirements.lock
	@$(UV) venv -q --clear --python $(BIN)/python .venv-bench
	@$(UV) pip install --quiet --python .venv-bench/bin/python --require-hashes -r backend/bench/peers/requirements.lock
	@touch $@

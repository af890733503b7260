# All targets work in .venv. `make` alone lists them.

PYTHON ?= python3.11
OUT ?= demo-out
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROTOS := protos/unfreeze/v1/classifier.proto protos/unfreeze/v1/admin.proto
UV_VERSION := 0.13.8
# The lock files name no index: pip installs from whichever one it is configured for.
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --generate-hashes \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help setup demo test promtool check protos serve train lock

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with the packages locked in requirements/dev.txt and this project

# Compile the bytecode here, because pip would do so on one core. Without any, where
# PYTHONDONTWRITEBYTECODE is set, every process takes five seconds longer to import torch.
$(READY): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
		{ echo "Unfreeze needs Python 3.11: make setup PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--require-hashes -r requirements/dev.txt
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## train, serve, predict, retrain and swap on real photographs, into OUT=demo-out
	$(BIN)/unfreeze demo --out $(OUT)

test: setup ## run all tests, in WORKERS=2 processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q

promtool: setup ## install Debian's Prometheus into .venv, for the tests of the alerts
	cd benchmarks && ../$(BIN)/python -c 'from load.prometheus import program; print(program())'

check: setup ## check formatting, lint and types, and run all tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory test

protos: setup ## regenerate unfreeze/v1 from protos/
	$(BIN)/python -m grpc_tools.protoc -I protos --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
		--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. $(PROTOS)

REGISTRY ?= models
serve: setup ## serve REGISTRY=models; with STATE and DATA_ROOT, retraining too
	$(BIN)/unfreeze serve --registry $(REGISTRY) \
		$(if $(STATE),--state $(STATE)) $(if $(DATA_ROOT),--data-root $(DATA_ROOT)) $(FLAGS)

train: setup ## train MODEL=name on DATA=folder-or-csv and publish it to REGISTRY=models
	@test -n "$(DATA)" && test -n "$(MODEL)" || \
		{ echo "DATA and MODEL are required: make train DATA=path/to/images MODEL=name"; exit 2; }
	$(BIN)/unfreeze train --registry $(REGISTRY) --data $(DATA) --model $(MODEL) $(FLAGS)

lock: ## lock the newest versions that pyproject.toml allows in requirements/
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(COMPILE) pyproject.toml --extra cpu --extra train --extra dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml -c requirements/dev.txt -o requirements/base.txt
	$(COMPILE) pyproject.toml -c requirements/dev.txt --extra cpu --extra tracing -o requirements/cpu.txt
	$(COMPILE) pyproject.toml -c requirements/dev.txt --extra gpu --extra tracing -o requirements/gpu.txt
	$(COMPILE) pyproject.toml -c requirements/dev.txt --extra cpu --extra train --extra parquet --extra tracing -o requirements/train-cpu.txt
	$(COMPILE) pyproject.toml -c requirements/dev.txt --extra gpu --extra train --extra parquet --extra tracing -o requirements/train-gpu.txt
	echo 'setuptools>=77' | $(COMPILE) - -c requirements/dev.txt -o requirements/build.txt

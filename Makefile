# Two commands: `make serve` and `make test`. Both need Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
PORT ?= 8080
MODEL ?= model_artifacts/digits
SIDECAR ?= 127.0.0.1:9090
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock

.PHONY: help serve test check bench bench-ping chaos overload soak lock clean

help:
	@echo "make serve [MODEL=folder] [PORT=8080]   serve a model; Ctrl-C stops it"
	@echo "make test                               run every test"
	@echo "make check                              format, lint, types, architecture"
	@echo "make bench [ARGS=--quick]               measure against other servers (needs wrk)"
	@echo "make bench-ping                         /ping and connects under load, two minutes"
	@echo "make chaos [MINUTES=12]                 kill, hold and stop real trees under load; count every request"
	@echo "make overload                           what ten times the capacity does; a minute"
	@echo "make soak [MINUTES=75]                  does anything grow? four fifths at 80 % load, one fifth at 150 %"

serve: $(VENV)/.serve
	@EVENKEEL_MODEL_DIR=$(MODEL) SAGEMAKER_BIND_TO_PORT=$(PORT) EVENKEEL_SIDECAR_ADDRESS=$(SIDECAR) exec $(BIN)/evenkeel serve

test: $(VENV)/.dev
	@$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff format --check container serve sidecar tests benchmarks model_artifacts
	@$(BIN)/ruff check container serve sidecar tests benchmarks model_artifacts
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_architecture.py

bench: $(VENV)/.bench
	@command -v wrk >/dev/null || { echo "wrk is missing: apt-get install wrk"; exit 1; }
	@$(BIN)/python -m benchmarks.bench $(ARGS)

bench-ping: $(VENV)/.bench
	@$(BIN)/python -m benchmarks.ping $(ARGS)

chaos: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.chaos --minutes $(or $(MINUTES),12) $(ARGS)

overload: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.overload $(ARGS)

soak: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),75) $(ARGS)

# Each stamp is one set of extras on top of the one before; touching pyproject.toml or the lock brings them up to date.
$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: set PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, this is $$($(PYTHON) --version)"; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.serve: $(VENV)/.python pyproject.toml requirements.lock
	@echo "installing the cpu extra (about 100 MB, once)"
	@$(PIP) --editable ".[cpu]"
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@echo "installing torch and the tools for tests (once)"
	@$(PIP) --editable ".[cpu,torch,train,dev]"
	@touch $@

$(VENV)/.bench: $(VENV)/.serve
	@$(PIP) --editable ".[cpu,bench]"
	@touch $@

lock: $(VENV)/.dev $(VENV)/.bench
	@$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info

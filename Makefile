# Two commands: `make serve` and `make test`. Both need Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
PORT ?= $(or $(SAGEMAKER_BIND_TO_PORT),8080)
MODEL ?= $(or $(EVENKEEL_MODEL_DIR),model_artifacts/digits)
SIDECAR ?= $(or $(EVENKEEL_SIDECAR_ADDRESS),127.0.0.1:9090)
VENV := .venv
SCRIPTS := .ci/run deploy/push-image benchmarks/peers/install.sh
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock

DOCKER ?= docker
EXTRAS ?= cpu
TAG ?= cpu
IMAGE := evenkeel:$(TAG)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD 2>/dev/null)$(shell git diff --quiet HEAD 2>/dev/null || echo -dirty)
# Where this machine's pip looks is where the build's pip looks. Docker takes an argument without a value from the environment.
PIP_SETTINGS := PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_TRUSTED_HOST TORCH_INDEX
BUILD_ARGS = $(foreach name,$(PIP_SETTINGS),$(if $(filter environment command,$(firstword $(origin $(name)))),--build-arg $(name)))
# SageMaker takes Docker's manifest (schema 2) and no attestations: the first variable is for docker, the second for podman.
BUILD = BUILDX_NO_DEFAULT_ATTESTATIONS=1 BUILDAH_FORMAT=docker $(DOCKER) build --platform linux/amd64 $(BUILD_ARGS) \
	--label org.opencontainers.image.version=$(VERSION) --label org.opencontainers.image.revision=$(REVISION)

.PHONY: image image-gpu run-image test-image push
.PHONY: help serve test test-slow check audit load bench bench-ping chaos overload soak fuzz lock clean

help:
	@echo "make serve [MODEL=folder] [PORT=8080] [SIDECAR=127.0.0.1:9090]   serve a model; Ctrl-C stops it"
	@echo "make test                               the tests of the parts, and a core of those of the whole"
	@echo "make test-slow                          the others: process trees, containers, a browser; a quarter of an hour"
	@echo "make check                              format, lint, types, architecture, Dockerfiles, and shellcheck where it is installed"
	@echo "make audit                              known vulnerabilities of the locked packages; needs a network"
	@echo "make image [EXTRAS=cpu,torch TAG=torch] build evenkeel:cpu; make image-gpu builds evenkeel:gpu"
	@echo "make run-image [MODEL=folder]           serve a model from the image, as a laptop can"
	@echo "make test-image                         build it and test it from outside"
	@echo "make push REPOSITORY=…                  push it, print the digest for the endpoint config"
	@echo "make load [P99_MS=50 FAILURES=0 RPS=200 URL=... IMAGE=...]   Locust; fails on objectives (docs/ci.md)"
	@echo "make bench [ARGS=--quick|--all]         the table of workloads, beside other servers (needs wrk)"
	@echo "make bench-ping                         /ping and connects under load, two minutes"
	@echo "make chaos [MINUTES=12]                 kill, hold and stop real trees under load; count every request"
	@echo "make overload                           what ten times the capacity does; a minute"
	@echo "make fuzz [MINUTES=10]                  odd bytes for every codec and parser; prints what it found"
	@echo "make soak [MINUTES=75]                  does anything grow? four fifths at 80 % load, one fifth at 150 %"

serve: $(VENV)/.serve
	@exec $(BIN)/evenkeel serve "$(MODEL)" --port $(PORT) --page $(SIDECAR)

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -m "not slow" --numprocesses $(or $(WORKERS),2) $(ARGS)

# Most of these wait for processes most of the time.
test-slow: $(VENV)/.dev
	@$(BIN)/python -m pytest -m slow --numprocesses $(or $(WORKERS),3) $(ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff format --check container endpoint serve sidecar tests benchmarks model_artifacts
	@$(BIN)/ruff check container endpoint serve sidecar tests benchmarks model_artifacts
	@$(BIN)/mypy
	@$(BIN)/vulture
	@! command -v shellcheck >/dev/null || shellcheck $(SCRIPTS)
	@! test -x $(BIN)/hadolint || $(BIN)/hadolint Dockerfile.cpu Dockerfile.gpu
	@$(BIN)/python -m pytest tests/test_architecture.py

# Known vulnerabilities of what is locked; asks a database on the network.
audit: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	@$(BIN)/python -m pip_audit --requirement requirements.lock --no-deps --disable-pip

image:
	@$(BUILD) --file Dockerfile.cpu --build-arg EXTRAS=$(EXTRAS) --tag $(IMAGE) .

image-gpu: TAG = gpu
image-gpu:
	@$(BUILD) --file Dockerfile.gpu --tag evenkeel:gpu .

# The page for people comes with it, on port 9090 of this machine alone.
run-image:
	@$(DOCKER) run --rm --init=false --name evenkeel --read-only --tmpfs /tmp --cap-drop ALL \
		--volume "$(abspath $(MODEL)):/opt/ml/model:ro" --publish 127.0.0.1:$(PORT):$(PORT) \
		--publish 127.0.0.1:9090:9090 --env SAGEMAKER_BIND_TO_PORT=$(PORT) \
		--env EVENKEEL_SIDECAR_ADDRESS=0.0.0.0:9090 --env EVENKEEL_LOG=text $(IMAGE) serve

test-image: image $(VENV)/.dev
	@EVENKEEL_TEST_IMAGE=$(IMAGE) $(BIN)/python -m pytest -m image $(ARGS)

push:
	@DOCKER="$(DOCKER)" deploy/push-image $(IMAGE) "$(REPOSITORY)"

# Every word after the options is an objective; one that is empty says nothing.
load: $(VENV)/.dev
	@DOCKER="$(DOCKER)" $(BIN)/python -m tests.load.run --url "$(URL)" \
	  --image "$(if $(filter command,$(firstword $(origin IMAGE))),$(IMAGE))"\
	  --model "$(if $(filter command environment,$(firstword $(origin MODEL))),$(MODEL))" \
	  --scenario $(or $(SCENARIO),mixed) --users $(or $(USERS),8) --seconds $(or $(SECONDS),10) --rate $(or $(RATE),0) \
	  --body "$(BODY)" --type $(or $(TYPE),application/json) --out "$(OUT)" \
	  P50_MS=$(P50_MS) P95_MS=$(P95_MS) P99_MS=$(P99_MS) FAILURES=$(FAILURES) RPS=$(RPS)

bench: $(VENV)/.bench
	@command -v wrk >/dev/null || { echo "wrk is missing: apt-get install wrk"; exit 1; }
	@$(BIN)/python -m benchmarks.bench $(ARGS)

bench-ping: $(VENV)/.bench
	@$(BIN)/python -m benchmarks.ping $(ARGS)

chaos: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.chaos --minutes $(or $(MINUTES),12) $(ARGS)

overload: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.overload $(ARGS)

fuzz: $(VENV)/.dev
	@$(BIN)/python -m tests.fuzz.run --minutes $(or $(MINUTES),10) $(ARGS)

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

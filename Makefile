# make demo | make demo BIDS=/path OUT=/path | make test | make test-fast | make lint
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BIDS   ?=
OUT    ?=
NPROCS ?=
VARIANT ?= cuda
ENGINE ?= docker
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE   = ghcr.io/bids-brainage/bids-brainage:$(VERSION)$(if $(filter cpu,$(VARIANT)),-cpu)
TORCH_CPU ?= --torch-backend cpu
TOOLS  := $(VENV)/release
LOCK    = $(TOOLS)/bin/uv pip compile --quiet --generate-hashes --no-annotate --custom-compile-command "make lock" \
          --python-version 3.11 --python-platform x86_64-manylinux_2_28 -c constraints.txt
export NO_ET := 1

.PHONY: demo test test-fast test-container lint setup clean image lock sbom audit dist
.DEFAULT_GOAL := demo

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "== Setting up $(VENV) (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv"; exit 2; }
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet -c constraints.txt --editable . --group dev
	@touch $@

demo: setup
	@$(BIN)/brainage demo $(if $(BIDS),--bids "$(BIDS)") $(if $(OUT),--out "$(OUT)") $(if $(NPROCS),--nprocs $(NPROCS))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-fast: lint
	$(BIN)/python -m pytest -m "not slow and not e2e"

test: lint
	$(BIN)/python -m pytest

test-container: setup
	BIDS_BRAINAGE_CONTAINER=1 $(BIN)/python -m pytest tests/container

image:
	$(ENGINE) build --build-arg VARIANT=$(VARIANT) --build-arg VERSION=$(VERSION) --build-arg IMAGE=$(IMAGE) \
	  --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null) -t $(IMAGE) .

$(TOOLS)/.ready: pyproject.toml
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	@$(TOOLS)/bin/python -m pip install --quiet --group release
	@touch $@

lock: $(TOOLS)/.ready
	$(LOCK) pyproject.toml --extra genmind --output-file requirements/cuda.lock
	$(LOCK) pyproject.toml --extra genmind $(TORCH_CPU) --output-file requirements/cpu.lock
	echo hatchling | $(LOCK) - --output-file requirements/build.lock

sbom: $(TOOLS)/.ready
	@mkdir -p dist
	$(TOOLS)/bin/cyclonedx-py requirements requirements/$(VARIANT).lock --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --output-format JSON --output-file dist/bids-brainage-$(VERSION)-$(VARIANT).cdx.json

# cuda.lock holds all of cpu.lock; an index without the list of vulnerabilities would call everything clean.
audit: $(TOOLS)/.ready
	@$(TOOLS)/bin/python -c 'import json, urllib.request as u; \
	  json.load(u.urlopen("https://pypi.org/pypi/pip/25.1/json", timeout=20))["vulnerabilities"]' 2>/dev/null \
	  || { echo "audit skipped: PyPI's list of vulnerabilities cannot be reached"; exit 0; } \
	  && $(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip -r requirements/cuda.lock -r requirements/build.lock

dist: $(TOOLS)/.ready
	$(TOOLS)/bin/python -m build

clean:
	rm -rf $(VENV) demo

# make demo | make demo BIDS=/path OUT=/path | make test | make test-fast | make lint
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BIDS   ?=
OUT    ?=
NPROCS ?=
export NO_ET := 1

.PHONY: demo test test-fast lint setup clean
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

clean:
	rm -rf $(VENV) demo

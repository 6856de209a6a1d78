# Two commands for people: `make demo` and `make test`. Each sets up all it needs from a bare Python 3.11+.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := runs/demo-images

.PHONY: help demo test setup oracle lint types unit integration lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    set up, train on handwritten digits with 2 workers, classify a folder of images"
	@echo "make test    set up, then lint, types and the whole test suite"
	@echo "make lint | types | unit | integration    one part of it"
	@echo "make oracle  add a CPU build of PyTorch, so that the tests that compare with it run"
	@echo "make lock    resolve requirements.lock again;   make clean   remove what make made"

demo: setup
	$(BIN)/orchestrator run configs/train/digits.yaml
	$(BIN)/python -m jobs.data.digits $(DEMO)
	$(BIN)/orchestrator classify $(DEMO) --weights run:/latest --top-k 3

test: lint types unit integration

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11. Hint: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

oracle: setup
	$(BIN)/python -m tests.install_torch

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

unit: setup
	$(BIN)/python -m pytest -q -m "not integration" --numprocesses 2 --dist worksteal

integration: setup
	$(BIN)/python -m pytest -q -m integration

lock:
	uv pip compile pyproject.toml --extra test --universal --python-version 3.11 --no-annotate \
	  --custom-compile-command "make lock" --output-file requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# Two commands for people: `make demo` and `make test`. Each sets up everything it needs from a bare Python 3.11+.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := runs/demo

.PHONY: demo test lint types unit integration setup lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up, train on handwritten digits with 2 workers, classify a folder of images"
	@echo "make test   set up, run lint, types and the whole test suite"
	@echo "make lint | types | unit | integration   one part of it;   make lock   resolve requirements.lock again"

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11. Hint: make PYTHON=python3.11 ..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

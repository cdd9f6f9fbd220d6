# SPDX-License-Identifier: GPL-2.0-only
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test check bench fast guests docs campaign clean

run: $(STAMP)
	@$(BIN)/bpfsim run

test: $(STAMP)
	@$(BIN)/python -m pytest --numprocesses auto

campaign: $(STAMP)
	$(BIN)/python -m pytest -m campaign

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py tests/docs

bench: $(STAMP)
	@$(BIN)/bpfsim bench

# The verifier compiled by mypyc, into build/; wants a C compiler. Sources that change fall back to Python.
fast: $(STAMP)
	@$(BIN)/python setup.py --quiet build_fast

docs: $(STAMP)
	@$(BIN)/bpfsim support --markdown > docs/support.md

guests:
	$(MAKE) -C guests

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "cannot make a virtual environment: on Debian, apt-get install python3-venv" >&2; \
	  rm -rf $(VENV); exit 1; }
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

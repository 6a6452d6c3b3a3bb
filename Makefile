# Every target but `setup` and `clean` sets up the environment first, once.

PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check node format clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(STAMP) ## make .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . \
		--group frontends --group dev --group demo
	touch $(STAMP)

demo: $(STAMP) ## train, capture, transform, verify and export two networks on digits
	$(BIN)/python examples/demo.py

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -n 2

check: $(STAMP) ## format, lint, types, layers and tests: what a change must pass
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2

node: $(STAMP) ## run exported files in onnxruntime-node and -web; needs node and npm
	cd tests/node && npm install --ignore-scripts --no-package-lock --no-audit --no-fund
	$(BIN)/python -m tests.node.cases out/node
	node tests/node/compare.mjs out/node

format: $(STAMP) ## format the code and mend what the linter can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## remove what was built, but for .venv
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf *.egg-info .coverage
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# Every target but `setup` and `clean` sets up the environment first, once.

PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench bench-quick sinabs runtimes browser browser-check format clean

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

# Two threads, states of the allocator as they are by default; torch.compile in this process.
MEASURE := PYTHONPATH=. OMP_NUM_THREADS=2 TORCHINDUCTOR_COMPILE_THREADS=1 $(BIN)/python benchmarks
RESULTS := benchmarks/results

bench: $(STAMP) ## measure every table against every peer, over an hour; tables go to README.md
	$(MEASURE)/neuron_scan.py --out $(RESULTS)/neuron_scan.csv
	$(MEASURE)/backward_scan.py
	$(MEASURE)/neuron_layer.py
	if test -e out/sinabs/.installed; then \
		PYTHONPATH=benchmarks OMP_NUM_THREADS=2 out/sinabs/bin/python benchmarks/sinabs_layer.py; \
	else echo "sinabs is left out; make sinabs installs it"; fi
	$(MEASURE)/mlp.py
	$(MEASURE)/conv.py
	$(MEASURE)/networks.py
	$(MEASURE)/growth.py
	$(MEASURE)/compile_time.py
	for steps in 16 64; do \
		$(MEASURE)/online_training.py --network mlp --steps $$steps --threads 1 2 --repeats 5 \
			--out $(RESULTS)/online_$$steps.csv || exit 1; \
	done
	$(MEASURE)/online_training.py --network mlp --memory 16 256 --only steps \
		--out $(RESULTS)/online_memory.csv
	$(MEASURE)/single_spike.py --parts neuron --threads 1 2 --out $(RESULTS)/single_spike.csv
	for table in event_synapses latency; do \
		if test -e benchmarks/$$table.py; then \
			$(MEASURE)/$$table.py --threads 1 2 --out $(RESULTS)/$$table.csv || exit 1; \
		fi; \
	done
	$(BIN)/python benchmarks/summary.py --write

bench-quick: $(STAMP) ## run every table on tiny sizes: do the scripts work?
	$(MEASURE)/quick.py

sinabs: out/sinabs/.installed ## install the peer sinabs, which needs an environment of its own

out/sinabs/.installed: constraints.txt
	$(PYTHON) -m venv out/sinabs
	out/sinabs/bin/python -m pip install --quiet --constraint constraints.txt \
		torch sinabs==3.1.3 'nir<=1.0.4' numpy
	touch $@

runtimes: $(STAMP) ## compare exported files in old onnxruntimes, -node and -web; needs node and npm
	$(BIN)/python -m tests.runtimes.cases out/runtimes/cases
	for version in 1.16.3 1.19.2; do \
		$(PYTHON) -m venv out/runtimes/$$version && \
		out/runtimes/$$version/bin/python -m pip install --quiet onnxruntime==$$version 'numpy<2' && \
		out/runtimes/$$version/bin/python tests/runtimes/compare.py out/runtimes/cases || exit 1; \
	done
	cd tests/runtimes && npm install --ignore-scripts --no-package-lock --no-audit --no-fund
	node tests/runtimes/compare.mjs out/runtimes/cases

browser: $(STAMP) out/browser/net.onnx ## serve the page that reads moving digits; needs node and npm
	cd examples/browser && npm install --ignore-scripts --no-package-lock --no-audit --no-fund
	cp examples/browser/index.html examples/browser/app.mjs out/browser/
	ln -sfn ../../examples/browser/node_modules out/browser/node_modules
	$(BIN)/python -m http.server --directory out/browser 8000

out/browser/net.onnx: examples/browser/train.py
	$(BIN)/python examples/browser/train.py out/browser

browser-check: # while `make browser` runs: draw in headless Chromium, compare with onnxruntime here
	node examples/browser/check.mjs http://localhost:8000/ out/browser
	$(BIN)/python examples/browser/check.py out/browser

format: $(STAMP) ## format the code and mend what the linter can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## remove what was built, but for .venv
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf *.egg-info .coverage
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

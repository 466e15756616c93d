# The two commands that matter: `make demo` and `make test`. Each sets up what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread for each test worker; two workers share two cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

# What pyproject.toml says of torch, and both ends of its range of transformers.
torch := torch>=2.11,<2.14
oldest := transformers==5.17.0
newest := transformers<5.25

.PHONY: demo demo-edit test check docs bench format torture test-range test-export clean

demo: $(VENV)/.installed  ## Train three variants x three seeds on Python's own docs and write runs/demo/report.html
	$(BIN)/memlm run configs/demo.yaml

demo-edit: $(VENV)/.installed  ## Train two memories on made-up worlds, edit ten facts of each, undo them; writes runs/edit*/memory-s0/edits.html
	$(BIN)/memlm run configs/edit.yaml
	$(BIN)/memlm edit runs/edit/memory-s0 --demo 10
	$(BIN)/memlm run configs/edit_readable.yaml
	$(BIN)/memlm edit runs/edit_readable/memory-s0 --demo 10

test: $(VENV)/.installed-dev  ## Run the tests
	$(ONE_THREAD) $(BIN)/pytest -m "not torture and not gpu"

torture: $(VENV)/.installed-dev  ## Try to break it, at length: kills, damage, planted faults, bad input (docs/reliability.md)
	$(ONE_THREAD) $(BIN)/pytest -m "not gpu" tests/resume tests/zoo tests/fuzz tests/kernels

check: $(VENV)/.installed-dev  ## Lint, types, import contracts: what CI runs before the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-dev  ## Write the documentation as a site: site/index.html
	$(BIN)/mkdocs build

bench: $(VENV)/.installed  ## Time layers, stages and training steps on this device, and write docs/performance.md anew
	$(BIN)/memlm bench
	$(BIN)/memlm bench --report

format: $(VENV)/.installed-dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-range: $(VENV)/.oldest $(VENV)/.newest  ## Run the contract tests on the oldest and the newest transformers of the range
	$(ONE_THREAD) $(VENV)/oldest/bin/pytest -n 2 tests/contract
	$(ONE_THREAD) $(VENV)/newest/bin/pytest -n 2 tests/contract

$(VENV)/.oldest: pyproject.toml
	$(PYTHON) -m venv $(VENV)/oldest
	$(VENV)/oldest/bin/pip install -q -e '.[dev]' '$(oldest)'
	touch $@

$(VENV)/.newest: pyproject.toml
	$(PYTHON) -m venv $(VENV)/newest
	$(VENV)/newest/bin/pip install -q -U -e '.[dev]'
	touch $@

test-export: test-export-oldest test-export-newest  ## Load exports where memlm was never installed, on both ends of the range

test-export-%: $(VENV)/.installed-dev $(VENV)/.bare-%
	@$(VENV)/bare-$*/bin/pip freeze | grep -E '^(memlm|pydantic|torch|transformers)\b'
	$(ONE_THREAD) MEMLM_EXPORT_PYTHON=$(VENV)/bare-$*/bin/python $(BIN)/pytest -n 1 tests/unit/export/test_export.py

.PRECIOUS: $(VENV)/.bare-%
$(VENV)/.bare-%: pyproject.toml
	$(PYTHON) -m venv $(VENV)/bare-$*
	$(VENV)/bare-$*/bin/pip install -q '$(torch)' '$($*)' pydantic
	touch $@

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: memlm needs Python 3.11 or newer; choose one with: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q -e '.[dev]'
	touch $@

clean:  ## Remove the environment and caches, never runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache build dist src/*.egg-info

# Each target does its own set-up: a virtual environment with the package and its development tools.
#
#   make demo         convert the shipped checkpoint and let the pipeline answer about the example pictures
#   make test         linters, type checker and all tests on the newest transformers that the package admits
#   make test-page    the tests of the web page, with Gradio; in a browser where Chromium is installed
#   make test-oldest  unit, parity, checkpoint and usage tests on the oldest one
#   make lint         linters and type checker alone
#   make docs-tables  write the README's tables anew from their files
#   make bench        time every stage against transformers' own classes (a quarter of an hour on two cores; 14 GB of memory)
#   make clean        remove environments and build products

PYTHON ?= python3
VENV ?= .venv
OLDEST_VENV ?= .venv-oldest
PAGE_VENV ?= .venv-page
# Installed where $(PYTHON) has no torch to lend. Whether it is the CPU build decides the package index that pip is set
# up for (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL); the general one serves Linux a build with the CUDA libraries.
TORCH ?= torch==2.13.0
HAS_TORCH = import sys, torch; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9))
OLDEST_TRANSFORMERS = transformers==5.18.*

BIN = $(VENV)/bin
OLDEST_BIN = $(OLDEST_VENV)/bin
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test test-oldest test-page lint bench docs-tables clean

comma := ,

# $(call make-environment,folder,requirements,extras)
define make-environment
	@if $(PYTHON) -c '$(HAS_TORCH)' 2>/dev/null; then $(PYTHON) -m venv --system-site-packages $(1); \
	else $(PYTHON) -m venv $(1); fi
	@$(1)/bin/python -c '$(HAS_TORCH)' 2>/dev/null || $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2) -e ".[$(3)]"
	@touch $(1)/.installed
endef

$(VENV)/.installed: pyproject.toml
	$(call make-environment,$(VENV),,dev)

$(OLDEST_VENV)/.installed: pyproject.toml
	$(call make-environment,$(OLDEST_VENV),"$(OLDEST_TRANSFORMERS)",dev)

$(PAGE_VENV)/.installed: pyproject.toml
	$(call make-environment,$(PAGE_VENV),,dev$(comma)demo$(comma)page)

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

test-oldest: $(OLDEST_VENV)/.installed
	$(OLDEST_BIN)/python -m pytest tests/unit tests/parity tests/checkpoints \
		tests/integration/test_usage.py tests/integration/test_interpreters.py tests/integration/test_pipelines.py \
		tests/integration/test_tensor_parallel.py tests/integration/test_chat.py tests/integration/test_chat_input.py

test-page: $(PAGE_VENV)/.installed
	$(PAGE_VENV)/bin/python -m pytest tests/page

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/chart.py
	$(BIN)/python benchmarks/readme_tables.py --write

docs-tables: $(VENV)/.installed
	$(BIN)/python benchmarks/readme_tables.py --write

clean:
	rm -rf $(VENV) $(OLDEST_VENV) $(PAGE_VENV) build dist demo-output .mypy_cache .pytest_cache .ruff_cache src/*.egg-info

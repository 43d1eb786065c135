PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PEERS := .venv-peers/bin
PUBLISHED := .venv-published/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test hard lint types format clean report bench bench-peers gpu-check kernels two-gpus published

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

install: $(STAMP)  ## make .venv with memexp and its dependencies; does nothing if .venv is up to date

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "memexp needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; expected PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## train vanilla, Transformer-XL and kNN memory on the same text, and compare them
	$(BIN)/memexp train -m tag=demo jobs=2 arch=vanilla,xl
	$(BIN)/memexp train -m tag=demo jobs=2 arch=knn mem=256,4096
	$(BIN)/memexp diff xl-code-mem64-s0 knn-code-mem4096-s0 tag=demo out=results/diffs/demo
	$(BIN)/memexp table tag=demo

test: $(STAMP)  ## run the tests, except the slow ones (make hard)
	$(BIN)/python -m pytest -q -n 2 -m 'not hard'

hard: $(STAMP)  ## run the slow tests: killed processes, damaged files, full disks, generated code, every bench
	$(BIN)/python -m pytest -q -n 2 -m hard

lint: $(STAMP)  ## find mistakes and unformatted files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## check the types
	$(BIN)/mypy

format: $(STAMP)  ## format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

report: $(STAMP)  ## build results/index.html, the start page of all tables and records
	$(BIN)/memexp report local=false

bench: $(STAMP)  ## measure search, training step and memory, and compare each with its floor
	$(BIN)/memexp bench

# installs nothing, so that it needs no network; without .venv it runs with PYTHON and its packages
gpu-check: RUN = $(or $(wildcard $(BIN)/python),$(PYTHON))
gpu-check:  ## on a machine with a GPU: check values and times, then run the tests that need one
	@$(RUN) -c 'import sys; from memexp.device import why_no_gpu as why; sys.exit(why() and f"there is no GPU: {why()}; expected a GPU, its driver and a build of torch for it")'
	$(RUN) -m memexp bench gpu; table=$$?; $(RUN) -m pytest -q -m gpu && exit $$table

kernels: $(STAMP)  ## run the tests of the search kernels on this CPU, in the interpreter of Triton (1 GB), which is put into .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt triton
	$(BIN)/python -m pytest -q -n 2 tests/model/knn_memory/test_scores_fused.py

two-gpus: RUN = $(or $(wildcard $(BIN)/python),$(PYTHON)) -m
two-gpus:  ## on a machine with two GPUs or more: compare them with one; without a GPU, two processes on the CPU
	$(RUN) pytest -q -m gpu tests/bench/test_devices.py; tests=$$?; $(RUN) memexp bench devices && exit $$tests

bench-peers: $(STAMP)  ## compare training steps with other packages, which get their own environment
	test -x $(PEERS)/python || $(PYTHON) -m venv .venv-peers
	$(PEERS)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy
	$(PEERS)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt beartype einops einops-exts faiss-cpu filelock hyper-connections joblib
	$(PEERS)/python -m pip install --quiet --disable-pip-version-check --no-deps memorizing-transformers-pytorch==0.4.1 block-recurrent-transformer-pytorch==0.4.4 recurrent-memory-transformer-pytorch==0.7.0
	$(BIN)/memexp bench peers

published:  ## compare models with other packages, which get their own environment
	test -x $(PUBLISHED)/python || $(PYTHON) -m venv .venv-published
	$(PUBLISHED)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy
	$(PUBLISHED)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt hypothesis pytest
	$(PUBLISHED)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt beartype einops packaging
	$(PUBLISHED)/python -m pip install --quiet --disable-pip-version-check --no-deps block-recurrent-transformer-pytorch==0.4.4 colt5-attention==0.11.2 compressive-transformer-pytorch==0.4.0 hyper-connections==0.4.0 local-attention==1.11.2 mogrifier==0.0.5
	$(PUBLISHED)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
	$(PUBLISHED)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[pretrained]'
	$(PUBLISHED)/python -m pytest -q tests/published
	MEMEXP_PRETRAINED=1 $(PUBLISHED)/python -m pytest -q tests/contract -k size.checkpoint

clean:  ## remove builds and caches; keep data/ and results/
	rm -rf .venv .venv-peers .venv-published build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

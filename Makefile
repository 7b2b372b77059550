# Each target sets up what it needs in .venv; a second call finds it there. Linux and macOS.
# On Windows: python -m venv .venv, then the pip and python lines below by hand (see CONTRIBUTING.md).

PYTHON ?= python3
VENV ?= .venv
# Threads per process: tests are many small tensors, more threads only wait for each other.
THREADS ?= 2

PY := $(VENV)/bin/python
TORCH_CPU := https://download.pytorch.org/whl/cpu
# Without an NVIDIA driver the CUDA build of torch is gigabytes of dead weight: on such a Linux take
# the CPU build where its index can be reached. Set PIP_FLAGS yourself to decide otherwise.
PIP_FLAGS ?= $(shell test "$$(uname -s)" = Linux && ! command -v nvidia-smi >/dev/null 2>&1 \
	&& curl -fsI -m 5 $(TORCH_CPU)/torch/ >/dev/null 2>&1 && echo --extra-index-url $(TORCH_CPU))
INSTALL = $(PY) -m pip install --quiet --no-compile --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo demo-data train-tiny train-tiny-tracker bench bench-full test proofs lint format clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 12

demo: $(VENV)/.base  ## segment the bundled CT by typed concepts, with the bundled demonstration model
	$(PY) -m MedicalSAM3Lib.demo

demo-data: $(VENV)/.dev  ## fetch the openly licensed images that the tiny model is trained on
	$(PY) -m Training.prepare

train-tiny: $(VENV)/.dev demo-data  ## train the tiny model again into runs/ (hours on two cores; call again to go on)
	$(VENV)/bin/torchrun --nproc_per_node 2 -m Training.train --config Training/recipes/tiny.yaml --resume auto
	$(PY) -m Training.publish --run runs/tiny --out runs/tiny/model

train-tiny-tracker: $(VENV)/.dev demo-data  ## train the tracker of the bundled tiny model again into runs/ (an hour on two cores)
	$(VENV)/bin/torchrun --nproc_per_node 2 -m Training.train --config Training/recipes/tiny_tracker.yaml --resume auto
	$(PY) -m Training.publish --run runs/tiny_tracker --out runs/tiny_tracker/model

bench: $(VENV)/.dev  ## time, memory and Dice beside transformers' own SAM3: an hour or more on two cores
	$(PY) -m Testing.benchmarks.bench

bench-full: $(VENV)/.dev  ## the same, and a slice at SAM3's full size, inference and training: 20 GB of memory
	$(PY) -m Testing.benchmarks.bench --full

test: $(VENV)/.dev  ## the tests: minutes on two cores, no GPU, no network
	OMP_NUM_THREADS=$(THREADS) $(PY) -m pytest -m "not slow"

proofs: $(VENV)/.dev  ## all tests, also those that take over a minute each
	OMP_NUM_THREADS=$(THREADS) $(PY) -m pytest

lint: $(VENV)/.dev  ## format, lint and types; changes nothing
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: $(VENV)/.dev  ## rewrite the files the way `make lint` wants them
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean:  ## remove the environment and the caches, never data, runs or models
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-output

# Stamp files: installed for good once pip has come back without an error.
$(PY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(PY)
	$(INSTALL) -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(PY)
	$(INSTALL) -e '.[train,server,dicom,surface,dev,slicer]'
	touch $@ $(VENV)/.base

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help demo test check install clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP)  ## train on the embedded digits, then sweep samplers x steps x weights into a table
	$(BIN)/diffgen train
	$(BIN)/diffgen sample -m sampler=ddpm,ddim,heun steps=5,20 guidance.weight=0,1,3 num_samples=359

test: $(STAMP)  ## the whole test suite, a process for each of two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP)  ## formatting, linting, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

install: $(STAMP)  ## .venv with diffgen, editable, and all that its tests need

clean:  ## remove what install and the tools made; runs/ stays
	rm -rf .venv .pytest_cache .ruff_cache build dist

# Only a change of pyproject.toml installs again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "diffgen needs Python 3.11 or newer; name it: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

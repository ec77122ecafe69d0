# `make sweep` and `make test` set everything up by themselves. Without make: see README.md.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Where a CPU build of torch comes from, if pip's own index would bring a GPU build you do not want:
#   make sweep TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORTURE     ?= 1.0
EXPERIMENT  ?= examples/digits.toml

.PHONY: sweep torture test lint docs clean
.DELETE_ON_ERROR:

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

sweep: $(VENV)/.ready  ## run the default sweep and print its front
	$(BIN)/bitfront sweep $(EXPERIMENT) | tee $(VENV)/last-sweep
	$(BIN)/bitfront front $$(tail -n 1 $(VENV)/last-sweep | cut -d ' ' -f 2)

lint: $(VENV)/.ready  ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports

test: lint  ## everything CI runs
	$(BIN)/python -m pytest -n 3 --dist loadfile

torture: $(VENV)/.ready  ## attack the record: kills, full disks, damaged files, failing servers (docs/reliability.md)
	$(BIN)/python -W ignore -m benchmarks.torture --scale $(TORTURE)

docs: $(VENV)/.ready  ## build the documentation into site/, offline
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'open site/index.html'

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache site

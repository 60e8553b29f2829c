# `make demo` and `make test` set everything up themselves, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
export GLOG_v ?= 3

.PHONY: demo test lint types check parity clean

demo: $(STAMP)
	$(BIN)/svdkit demo -o svdkit-demo.mp4

test: $(DEV_STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_STAMP)
	$(BIN)/mypy

check: lint types test

parity: $(DEV_STAMP)  ## the table of errors against diffusers
	$(BIN)/python tests/parity.py

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mindspore]'
	touch $@

$(DEV_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	# Its samplers are a peer to compare with; its dependencies, which train models, are not needed for that.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps k-diffusion==0.1.1.post1
	touch $@

clean:
	rm -rf $(VENV) build dist

# `make demo` and `make test` set up what they need. MEDREP_PYTHON chooses the interpreter (3.11 or newer).
MEDREP_PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo-out

.PHONY: demo test lint bench format clean

demo: .venv/ready
	$(BIN)/medrep demo $(OUT) --overwrite

test: .venv/ready-dev
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST)

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/ready-dev
	$(BIN)/python -m benchmarks $(BENCH)

format: .venv/ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* demo-out bench-out

# The interpreter is made once; the stamps make an interrupted or outdated install run again.
.venv/bin/python:
	$(MEDREP_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medrep needs Python 3.11 or newer; set MEDREP_PYTHON")'
	$(MEDREP_PYTHON) -m venv .venv

.venv/ready: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[connectivity,shapes]'
	touch $@

.venv/ready-dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@ .venv/ready

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint test-gpu test-all-engines test-families test-corpus test-triton clean

# Builds .venv once; rebuilt when the dependencies change.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/protoseg demo --out demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A test process that dies ends the tests; one put in its place would wait for ever (pytest-xdist, --dist loadfile).
test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile --max-worker-restart 0

test-gpu: $(STAMP)
	$(BIN)/python -m pytest tests/gpu -rs

# Engines of every precision of every backbone family for every GPU generation, and an int8 graph of every family;
# `make test` makes a spread of them.
test-all-engines: $(STAMP)
	PROTOSEG_ALL_ENGINES=1 $(BIN)/python -m pytest tests/exporting/test_engines.py tests/exporting/test_quantization.py -n auto

# One network of every module of timm, exported and compared with PyTorch, and how long each took; half an hour on two
# cores. `make test` tries two.
test-families: $(STAMP)
	PROTOSEG_EVERY_FAMILY=1 $(BIN)/python -m pytest tests/exporting/test_every_family.py -n auto --durations 0 --durations-min 0.01

# All broken and hostile inputs; `make test` tries every sixteenth one.
test-corpus: $(STAMP)
	PROTOSEG_WHOLE_CORPUS=1 $(BIN)/python -m pytest tests/corpus -n auto --dist loadfile --max-worker-restart 0

# A real tritonserver, in an environment that is made once; `make test` skips these tests where it cannot be made.
test-triton: $(STAMP)
	PROTOSEG_NEEDS_TRITON=1 $(BIN)/python -m pytest tests/serving/triton

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

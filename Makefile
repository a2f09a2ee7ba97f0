# make demo   a first look: LeNet-5 learns handwritten digits, on our layers and on torch's
# make test   everything that must hold: tests, doctests, lint, formats, types
# make docs   the documentation, into build/docs, with warnings as errors
#
# All set up .venv by themselves. PYTHON names the interpreter it is made from.

PYTHON ?= python3
BIN := .venv/bin
CXX_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.inc')

.PHONY: demo test docs lint format build clean

demo:
	@$(PYTHON) tools/setup_env.py train
	@$(BIN)/python -m cnn_ext demo

test: lint
	@$(PYTHON) tools/setup_env.py test
	@$(BIN)/python -m pytest -n 2 -q

docs:
	@$(PYTHON) tools/setup_env.py test docs
	@$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet docs build/docs
	@SITE=build/docs $(BIN)/python -m pytest -q tests/docs
	@echo "Open build/docs/index.html"

lint:
	@$(PYTHON) tools/setup_env.py test lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)
	$(BIN)/mypy

format:
	@$(PYTHON) tools/setup_env.py lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

build:
	@$(PYTHON) tools/setup_env.py train

clean:
	rm -rf build runs cnn_ext/_C.*.so

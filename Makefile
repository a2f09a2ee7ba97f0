# make help       this list
# make demo       a first look: LeNet-5 learns handwritten digits, on our layers and on torch's
# make test       everything that must hold: tests, doctests, lint, formats, types
# make test-op OP=max_pool  the tests of one operation
# make notebooks  every notebook, run from top to bottom
# make docs       the documentation, into build/docs, with warnings as errors
# make build      the library, after a change to csrc/
# make cuda       the CUDA kernels compiled, linked and loaded, GPU or not; the library in use is left alone
# make lint       ruff, clang-format and mypy
# make format     what the first two ask for; and the exports of operations, from cnn_ext/operations.py
# make compile-commands  compile_commands.json for clangd, after a build
# make clean      removes what was built and what runs left
#
# All set up .venv by themselves. PYTHON names the interpreter it is made from. All but `cuda` build
# without CUDA kernels, which take minutes more; CNN_EXT_CUDA=1 builds them in.

PYTHON ?= python3
BIN := .venv/bin
CXX_SOURCES := $(shell find csrc tests/toy_operation -name '*.cpp' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh') \
	$(wildcard tests/cuda/emulation/*.h tests/cuda/emulation/*.cpp)

.PHONY: help demo test test-op notebooks docs cuda lint format build compile-commands clean

demo test test-op notebooks docs lint build cuda: export CNN_EXT_CUDA ?= 0

help:
	@sed -n 's/^# make/make/p' Makefile

demo:
	@$(PYTHON) tools/setup_env.py train
	@$(BIN)/python -m cnn_ext demo

test: lint
	@$(PYTHON) tools/setup_env.py test
	@$(BIN)/python -m pytest -n 2 -q

test-op:
	@$(PYTHON) tools/setup_env.py test
	@$(BIN)/python -m pytest -q $(wildcard tests/ops/test_$(OP)*.py tests/functional/test_$(OP)*.py \
		tests/nn/test_$(OP)*.py)

notebooks:
	@$(PYTHON) tools/setup_env.py test notebooks
	@$(BIN)/python -m pytest -q --nbmake --nbmake-timeout=300 notebooks

docs:
	@$(PYTHON) tools/setup_env.py test docs
	@rm -rf build/docs
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
	$(PYTHON) tools/exports.py
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

build:
	@$(PYTHON) tools/setup_env.py train

compile-commands: build
	@$(BIN)/ninja -f $$(ls -t build/*/build.ninja | head -n 1) -t compdb compile > compile_commands.json

cuda:
	@$(PYTHON) tools/setup_env.py test
	@$(BIN)/python tools/cuda_build.py

clean:
	rm -rf build runs cnn_ext/_C.*.so

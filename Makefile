# Two commands for a new user: `make demo` and `make test`. Both set up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint lowest rllib clean

demo: $(VENV)/installed
	$(BIN)/gar-env demo

test: $(VENV)/installed
	$(BIN)/python -m pytest -q

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pyright -p strict.pyright.json

# The lowest versions that pyproject.toml claims, of what the environments lean on most.
lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install -q -e ".[dev]" "gymnasium==1.2.2" "pillow==10.1.0" "lazy-loader==0.4"
	.venv-lowest/bin/python -m pytest -q tests/envs tests/augment tests/data tests/test_imports.py

# RLlib pins another Gymnasium, so it gets a virtual environment of its own.
rllib: .venv-rllib/installed
	.venv-rllib/bin/python examples/clients/rllib_ppo.py

.venv-rllib/installed: pyproject.toml
	@$(PYTHON) -m venv .venv-rllib
	@echo "Installing gar-env and RLlib into .venv-rllib ..."
	@.venv-rllib/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[rllib]'
	@touch $@

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing gar-env and what it needs into $(VENV) (torch is large; a minute or two) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-lowest .venv-rllib runs *.egg-info .pytest_cache .ruff_cache .hypothesis

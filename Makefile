# make demo    the main job, end to end, in a few seconds
# make test    all tests
# make bench   speed, beside others, in one run
# make lint    types and style alone
#
# Each installs what it needs, once: system packages with apt (as root), Python packages into .venv.

PYTHON ?= /usr/bin/python3
VENV := .venv
HOST := tests/private-host

.PHONY: demo test bench lint clean

demo: $(VENV)/.daemon
	@$(HOST) examples/demo.sh

test: $(VENV)/.development
	@$(HOST) $(VENV)/bin/python -m pytest -q $(PYTEST_ARGS)
	@$(HOST) --user $(VENV)/bin/python -m pytest -q -m "not root" $(PYTEST_ARGS)

bench: $(VENV)/.development
	@$(HOST) $(VENV)/bin/python -m tests.bench

lint: $(VENV)/.development
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

$(VENV)/.daemon $(VENV)/.development: pyproject.toml .ci/install
	@PYTHON=$(PYTHON) .ci/install $(VENV) $(@F)
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info

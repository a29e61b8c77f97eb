# `make run` and `make test` do all their own set-up; `make` alone lists what there is.
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Half of what the tests do is wait, so there are more of them at a time than two cores.
WORKERS ?= 4
# Only the rules of lint-rules.yml; Semgrep contacts no server.
SEMGREP := PATH=$(VENV)/semgrep/bin:$$PATH SEMGREP_SEND_METRICS=off SEMGREP_ENABLE_VERSION_CHECK=0 semgrep

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-9s %s\n", $$1, $$2}'

run: $(VENV)/.run  ## serve on port 8001 with the bundled model; sets itself up first
	$(BIN)/gunicorn app:app

# Each process of the tests would compile everything anew: with what is kept, `pytest --collect-only`
# takes 10 s of CPU instead of 15, in each worker (2 cores of an EPYC, 2026-11).
test test-long: export PYTHONDONTWRITEBYTECODE :=

test: $(VENV)/.dev  ## test every promise, in 12 minutes; sets itself up first, servers included
	tests/setup.sh
	$(BIN)/python -m pytest -n $(WORKERS) -m "not long" $(ARGS)

test-long: $(VENV)/.dev  ## run the other tests: soaks, fuzzing, overload, whole matrices
	tests/setup.sh
	$(BIN)/python -m pytest -n 2 -m long $(ARGS)

lint: $(VENV)/.dev $(VENV)/.semgrep  ## check the style, the types and what is unsafe
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/bandit -q -r . -c pyproject.toml
	$(SEMGREP) scan --metrics off --test --config lint-rules.yml tests/lint-rules.py
	$(SEMGREP) scan --metrics off --error --quiet --config lint-rules.yml .

wheel: $(BIN)/python  ## build the program in dist/, for `pipx install dist/*.whl`
	$(BIN)/python -m pip wheel --disable-pip-version-check -q --no-deps -w dist .
	rm -rf build embedding_service.egg-info

fix: $(VENV)/.dev  ## format the code and mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev  ## measure the service and its rivals, in under 30 minutes (ARGS=--quick: 5)
	$(BIN)/python -m bench.compare $(ARGS)

overload: $(VENV)/.dev  ## offer the service twice what it can do for a minute
	$(BIN)/python -m bench.overload $(ARGS)

soak: $(VENV)/.dev  ## load it for 30 minutes (MINUTES=..) while things break; nothing may grow
	tests/setup.sh
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),30)

clean:  ## remove the virtual environment and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; found: $$(python3 --version 2>&1)."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	echo "venv is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.run: requirements.txt | $(BIN)/python
	@echo "Installing the pinned packages: up to 3 GB (docs/deploy.md says how without CUDA)."
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	@touch $@ $(VENV)/.run

# Semgrep in a virtual environment of its own: it pins packages that the tests need in other versions.
$(VENV)/.semgrep: requirements-semgrep.txt | $(BIN)/python
	$(BIN)/python -m venv $(VENV)/semgrep
	$(VENV)/semgrep/bin/python -m pip install --disable-pip-version-check -q -r requirements-semgrep.txt
	@touch $@

.PHONY: help run test test-long lint wheel fix bench overload soak clean

# Needs make and Python 3.11 or newer; everything else is installed into .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help env lint check test demo bench bench-drift chaos mutants lock docs fmt clean

BIN := .venv/bin
PACKAGES := app models schemas streamgauge
# Compiled once: a process of ours starts a fifth sooner, and tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'ARGS="…" is passed on by demo, bench, bench-drift, chaos, mutants and test; PYTHON=… chooses the interpreter of .venv.'

env:  ## Make .venv from requirements.lock (every target below does so by itself)
	@sh scripts/environment.sh

lint: env  ## Lint, types, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports --no-logo

check: lint  ## Lint and the fast tests, in a minute
	$(BIN)/python -m pytest -q -n auto -m "not slow" --hypothesis-profile=quick \
		tests/unit tests/architecture app/core app/evaluation/measures.py app/evaluation/ranking.py models schemas/partitioning.py streamgauge

test: env  ## The whole test suite, on real Kafka and ClickHouse's engine; ARGS="-k …" runs a few
	$(BIN)/python -m pytest -n auto $(ARGS)

demo: env  ## Run the whole job on a year of real flights and write demo-report/index.html
	$(BIN)/streamgauge demo $(ARGS)

bench: env  ## Measure this machine, peers beside us, into bench-report (about 55 minutes)
	$(BIN)/streamgauge bench run $(ARGS)

bench-drift: env  ## Measure drift monitoring, other detectors beside us, into bench-report (about an hour)
	$(BIN)/streamgauge drift evaluate --runs 1000 $(ARGS)

chaos: env  ## Break everything that can break and count what it cost: chaos-report/table.md (105 minutes)
	STREAMGAUGE_CHAOS=full STREAMGAUGE_CHAOS_REPORT=chaos-report $(BIN)/python -m pytest tests/chaos tests/integration/test_http_fuzz.py $(ARGS)

mutants: env  ## Make small mistakes on purpose and say which of them no unit test notices (docs/mutants.md)
	$(BIN)/python scripts/mutants $(ARGS)

lock:  ## Rewrite requirements.lock from pyproject.toml (needs uv; pins stay where they still fit)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --all-extras --group dev pyproject.toml \
		-o requirements.lock --no-header --no-annotate --no-emit-index-url

docs: env  ## Rewrite the generated tables of README.md
	$(BIN)/python scripts/docs_tables.py

fmt: env docs  ## Format the code, mend what ruff can mend, rewrite the generated tables
	$(BIN)/ruff check --fix-only --exit-zero
	$(BIN)/ruff format

clean:  ## Remove .venv, caches and reports; the embedded stack's data (.streamgauge) stays
	rm -rf .venv build dist demo-report bench-report chaos-report mutants-report .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(PACKAGES) tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

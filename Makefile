# `make` lists the targets. The environment in .venv is made on first use and again whenever the
# content of the requirement files changes; its stamp files are named after that content.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input

digest = $(shell cat $(1) | sha256sum | cut -c1-16)
BASE := $(VENV)/.base-$(call digest,requirements/torch.txt requirements/base.txt)
DEV := $(VENV)/.dev-$(call digest,requirements/*.txt)
CLIENTS := tests/live_api/node
NODE := $(CLIENTS)/node_modules/.made-$(call digest,$(CLIENTS)/package-lock.json)

.DEFAULT_GOAL := help
.PHONY: help install run test check fmt bench soak endure lock

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(DEV) ## Make .venv with everything, tests and checks included

run: $(BASE) ## Start Casola: database, Redis, web and runners in one terminal (PORT=8000)
	@exec $(BIN)/python manage.py up

test: $(DEV) $(NODE) ## Run the tests on PostgreSQL and on SQLite (ARGS="-k name -x")
	@$(BIN)/python -m tests.run $(ARGS)

check: $(DEV) ## Format, lint, imports, migrations, API schema, Django's own checks
	@.ci/check

fmt: $(DEV) ## Format the code and repair what ruff can
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

bench: $(DEV) ## Measure speed; ARGS="--help" tells what
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(DEV) ## Rate limits over minutes, then load and faults (ARGS="--jobs 10000 --faults 50 --seed 1")
	@$(BIN)/python -m tests.limits.run
	@$(BIN)/python -m tests.chaos.run $(ARGS)

endure: $(DEV) ## Give the chat engine requests of random shape, and compare (ARGS="--requests 20000")
	@$(BIN)/python -m tests.inference.soak $(ARGS)

lock: ## Pin the requirements anew; needs uv (ARGS="--upgrade")
	@requirements/lock $(ARGS)

$(VENV)/.made:
	@.ci/make-venv "$(PYTHON)" "$(VENV)" && touch $@

$(BASE): | $(VENV)/.made
	@echo "Installing what Casola needs into $(VENV) (about a minute, about 1.5 GB) ..."
	@$(PIP) -r requirements/torch.txt
	@$(PIP) --require-hashes -r requirements/base.txt
	@rm -f $(VENV)/.base-* && touch $@

$(DEV): $(BASE)
	@echo "Installing what tests and checks need ..."
	@$(PIP) --require-hashes -r requirements/dev.txt
	@rm -f $(VENV)/.dev-* && touch $@

$(NODE): $(DEV)
	@$(BIN)/python -m tests.live_api.node_tools

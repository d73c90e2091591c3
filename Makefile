# Everything starts here: `make demo` and `make test` need only python3 (3.10 or newer) and make.

PYTHON ?= python3
JOBS ?= 2
SEEDS ?= 3

BIN := .venv/bin
READY := .venv/.ready
FLOOR := .venv-floor
# Shows what pip is busy with, one line per large download, in place of its hundreds of lines.
PROGRESS := while read -r line; do case "$$line" in \
  Downloading*MB\)*) echo "      $$line" ;; \
  "Installing collected"*) echo "      unpacking everything" ;; \
esac; done

SHELL := /bin/bash

.PHONY: setup demo test lint docs speed results floor wheel clean

setup: $(READY)

demo: setup
	$(BIN)/holdfast compare split-digits --methods finetune,ewc,classp,joint --seeds $(SEEDS) --out demo/task
	$(BIN)/holdfast compare split-digits --scenario class --methods finetune,ewc,ncm,slda,ridge,joint --seeds $(SEEDS) \
		--out demo/class

# Two workers of one thread each: the tests are small, and more threads only get into each other's way.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/python tools/verify_types.py

# The documentation site, in site/: warnings are errors, links and anchors are checked, nothing is fetched.
docs: setup
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

speed: setup
	$(BIN)/python -m speed $(ARGS)

results: setup
	$(BIN)/holdfast results $(ARGS)

# The core's part of the suite on the oldest supported versions; by hand, for their PyTorch is a CUDA build of several GB.
# What was run when stands in docs/compatibility.md.
CORE := tests src README.md --ignore=tests/bench --ignore=src/holdfast/bench --ignore=src/holdfast/cli \
  --ignore-glob='tests/test_cli*' --ignore=tests/test_speed.py
floor: $(FLOOR)/.ready
	OMP_NUM_THREADS=1 $(FLOOR)/bin/python -m pytest -q -n $(JOBS) $(or $(ARGS),$(CORE))

# What is committed, built, checked, installed in an empty environment and used there; ARGS="--extras all" takes all extras.
wheel:
	$(PYTHON) tools/try_wheel.py $(ARGS)

clean:
	rm -rf .venv $(FLOOR) demo site

$(READY): pyproject.toml constraints.txt
	@$(call install,.venv,constraints.txt,bench$(,)dev$(,)docs)
$(FLOOR)/.ready: pyproject.toml constraints-floor.txt
	@$(call install,$(FLOOR),constraints-floor.txt,dev$(,)wandb)

, := ,
# $(call install,FOLDER,CONSTRAINTS,EXTRAS): timm without what it needs, for torchvision has no build for every CPU build
# of PyTorch; the tests have a stand-in for it.
define install
set -o pipefail; \
command -v $(PYTHON) >/dev/null || { echo "Holdfast needs Python 3.10 or newer, and there is no '$(PYTHON)' here: install it, or name another one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
  || { echo "Holdfast needs Python 3.10 or newer, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1): name another one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
echo "[1/3] a virtual environment in $(1)"; \
[ -x $(1)/bin/pip ] || $(PYTHON) -m venv $(1) >$(1).log 2>&1 \
  || { cat $(1).log >&2; echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu, install the package python3-venv" >&2; exit 1; }; \
rm -f $(1).log; \
echo "[2/3] the packages of $(2) (PyTorch is large: minutes, the first time)"; \
$(1)/bin/pip install --disable-pip-version-check --progress-bar off -c $(2) -e ".[$(3)]" 2>$(1)/errors.log | $(PROGRESS) \
  || { cat $(1)/errors.log >&2; exit 1; }; \
$(1)/bin/pip install --disable-pip-version-check --progress-bar off -c $(2) --no-deps timm 2>$(1)/errors.log >/dev/null \
  || { cat $(1)/errors.log >&2; exit 1; }; \
touch $(1)/.ready; \
echo "[3/3] ready"
endef

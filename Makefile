# make demo   set up, learn from handwritten digits, measure, report (a few minutes on two cores)
# make test   set up, lint, fast tests; SLOW=1 runs the slow ones too
# make lint   ruff and mypy
# make bench  every ratio that is claimed, measured here beside its target: make bench PHOTOS=DIR
# make drills breaks the suite on purpose in every way that is promised to lose nothing, and counts (20 minutes)
# make docs  the pages of docs/ as a site in build/site, without network; runs the code blocks that are marked
# make setup  .venv with everything that the others need
# make cluster-packages  the daemons of a SLURM cluster on this machine, for slurm/devcluster and its tests (root)

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SLOW ?=
TEST_PROCESSES ?= 2
PHOTOS ?=
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint bench docs drills clean cluster-packages

help:
	@sed -n 's/^# //p' Makefile

setup: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml requirements.lock system_packages.sh
	@./system_packages.sh $(PYTHON)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing what requirements.lock pins into .venv (torch with CUDA: 6 GB, a minute or two)"
	@sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > .venv/build.lock # FFCV is built with it, so it comes first
	@$(INSTALL) --require-hashes --requirement .venv/build.lock
	@sed '/^ffcv==/,/[^\\]$$/d' requirements.lock > .venv/all-but-ffcv.lock
	@$(INSTALL) --require-hashes --no-build-isolation --requirement .venv/all-but-ffcv.lock
	@sed -n '/^ffcv==/,/[^\\]$$/p' requirements.lock > .venv/ffcv.lock
	@$(INSTALL) --require-hashes --no-build-isolation --no-deps --requirement .venv/ffcv.lock 2> .venv/ffcv-build.log \
		|| echo "note: FFCV could not be built (.venv/ffcv-build.log); only FFCV's own loader and the comparisons with it are missing"
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	$(BIN)/python dataprep/write_ffcv.py digits --out data/digits --split train
	$(BIN)/python dataprep/write_ffcv.py digits --out data/digits --split val
	$(BIN)/python dataprep/write_ffcv.py digits --multi-label --out data/digits-multi-label --split train
	$(BIN)/python dataprep/write_ffcv.py digits --multi-label --out data/digits-multi-label --split val
	$(BIN)/python jobs/pretrain.py --cluster local --recipe digits
	$(BIN)/python jobs/eval_all.py --cluster local runs/digits

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder $(if $(SLOW),,-m "not slow")

bench: setup
	@test -n "$(PHOTOS)" || { echo "error: say which photos: make bench PHOTOS=DIR (any folder tree of JPEGs)"; exit 1; }
	$(BIN)/python benchmarks/all.py $(PHOTOS)

docs: setup
	$(BIN)/mkdocs build --strict
	$(BIN)/python docs/run_blocks.py
	@echo "written: build/site/index.html"

drills: setup
	$(BIN)/python drills/all.py

cluster-packages:
	@./cluster_packages.sh

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

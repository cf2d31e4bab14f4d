PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
HALF   := tests/test_notebooks.py tests/test_study.py tests/test_site.py   # of the tests' time: one core each
PIP    := -m pip install -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo test quick lint lib readme docs rerun extras matrix bench clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## make .venv and install everything (done by the other targets when needed)
$(STAMP): setup.py settings.ini pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) '$(TORCH)'
	$(BIN)/python $(PIP) -e '.[dev]'
	! git rev-parse --git-dir >/dev/null 2>&1 || git config merge.nbdev-merge.driver '$(BIN)/nbdev_merge %O %A %B %P'
	@touch $@

demo: $(STAMP)  ## the main job: networks on real handwritten digits, and on words far longer than those trained on (under 5 minutes)
	$(BIN)/deq-irnn study
	$(BIN)/deq-irnn study --preset words --tasks a5 --models householder-5,lstm --seeds 2 --lr 3e-2 \
	  --rest 16 --lengths 32,64,256,1024,4096

test: $(STAMP)  ## every test: notebooks, library, command line
	@env -u IN_TEST OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(HALF) > $(VENV)/half.log 2>&1 & half=$$!; \
	env -u IN_TEST OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests $(HALF:%=--ignore=%); rest=$$?; \
	wait $$half; half=$$?; cat $(VENV)/half.log; exit $$((half + rest))

quick: $(STAMP)  ## what a change to one chapter needs, in under a minute: make quick NB=05_scan (without NB: what git sees changed)
	env -u IN_TEST $(BIN)/python docs/quick.py $(NB)

lint: $(STAMP)  ## line lengths and plain mistakes (ruff), types (pyright)
	$(BIN)/ruff check -q
	$(BIN)/basedpyright -p pyrightconfig.json

lib: $(STAMP)  ## after editing a notebook: export the library, clean the notebooks, regenerate README.md
	cd nbs && env -u IN_TEST ../$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python docs/readme.py

readme: $(STAMP)  ## README.md from nbs/index.ipynb
	$(BIN)/python docs/readme.py

docs: $(STAMP)  ## build the documentation site in _docs/
	$(BIN)/python docs/build.py

rerun: $(STAMP)  ## run every notebook from a clean kernel and compare its outputs with the committed ones
	$(BIN)/python docs/rerun.py

extras:  ## the tests that need other packages (ONNX, Lightning, Transformers, …), in a second environment: .extras/
	test -x .extras/bin/python || $(PYTHON) -m venv .extras
	.extras/bin/python $(PIP) '$(TORCH)'
	.extras/bin/python $(PIP) -e '.[onnx,recipes]' pytest matplotlib
	env -u IN_TEST .extras/bin/python -m pytest -q tests/test_deploy.py tests/test_recipes.py

matrix:  ## smoke tests on the oldest and the newest torch, each in an environment of its own: .matrix/ (large downloads; make matrix TORCHES='torch==2.4.1')
	$(PYTHON) docs/matrix.py $(TORCHES)

bench: $(STAMP)  ## side by side with peers (with a GPU, there too); writes results/*.json
	for b in $(filter-out benchmarks/gpu.py benchmarks/common.py,$(wildcard benchmarks/[a-z]*.py)); do $(BIN)/python $$b || exit 1; done
	! $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || $(BIN)/python benchmarks/gpu.py

clean:  ## remove what the other targets built
	rm -rf $(VENV) .extras .matrix _proc _docs _docs.work build dist *.egg-info

PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test lib readme docs rerun bench clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## make .venv and install everything (done by the other targets when needed)
$(STAMP): setup.py settings.ini Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## the main job: networks on real handwritten digits, and on words far longer than those trained on (under 5 minutes)
	$(BIN)/deq-irnn study
	$(BIN)/deq-irnn study --preset words --tasks a5 --models householder-5,lstm --seeds 2 --lr 3e-2

test: $(STAMP)  ## every test: notebooks, library, command line
	env -u IN_TEST $(BIN)/python -m pytest -q tests

lib: $(STAMP)  ## after editing a notebook: export the library, clean the notebooks, regenerate README.md
	cd nbs && env -u IN_TEST ../$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(MAKE) readme

readme: $(STAMP)  ## README.md from nbs/index.ipynb
	$(BIN)/python docs/readme.py

docs: $(STAMP)  ## build the documentation site in _docs/
	$(BIN)/python docs/build.py

rerun: $(STAMP)  ## run every notebook from a clean kernel and compare its outputs with the committed ones
	$(BIN)/python docs/rerun.py

bench: $(STAMP)  ## side by side with peers (with a GPU, there too); writes results/*.json
	for b in $(filter-out benchmarks/gpu.py benchmarks/common.py,$(wildcard benchmarks/[a-z]*.py)); do $(BIN)/python $$b || exit 1; done
	! $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || $(BIN)/python benchmarks/gpu.py

clean:  ## remove what the other targets built
	rm -rf $(VENV) _proc _docs _docs.work *.egg-info

# One command each: `make tour` shows sparse training at work, `make lab` opens the notebooks, `make test` runs the tests.
# They use .venv. If it is missing or out of date, make installs the packages of constraints.txt into it.

PYTHON ?= python3
BIN := .venv/bin
COLAB := tests/colab/constraints.txt
# pip does not compile, which cuts its time to 60 %. Python compiles a module at its first import, and must keep the
# result. Otherwise every process compiles all modules that it imports, which takes seven seconds for a notebook.
unexport PYTHONDONTWRITEBYTECODE
PIP_OPTIONS := --quiet --disable-pip-version-check --no-compile

.PHONY: tour lab test test-full test-browser test-colab site lint types check-notebooks refresh-notebooks wheel bench gpu gpu-results clean

# This runs all stages. To run only some: make tour STAGES="00 06"
PROFILE ?= laptop
tour: .venv/notebooks.stamp
	$(BIN)/chts tour $(STAGES) --profile $(PROFILE) --out runs/tour

lab: .venv/notebooks.stamp
	$(BIN)/jupyter lab notebooks

# Two processes run the tests. A lock makes sure that they do shared work only once (tests/notebooks/conftest.py).
TEST_PROCESSES ?= 2
PYTEST = $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
test: .venv/test.stamp
	$(PYTEST) $(PYTEST_OPTIONS)

# This also runs the tests with the mark full, and tries more examples of each property.
test-full: .venv/test.stamp
	$(PYTEST) -m "not browser" --hypothesis-profile full $(PYTEST_OPTIONS)

# This tests the widgets in a browser: with ipywidgets 8 in one process, and with Colab's ipywidgets in another.
test-browser: .venv/test.stamp .venv-colab/stamp
	CHTS_BROWSER_PYTHON=$(BIN)/python:.venv-colab/bin/python $(BIN)/python -m pytest -m "browser and not full" \
		--numprocesses $(TEST_PROCESSES) --dist loadgroup tests/browser/test_widgets_in_browser.py $(PYTEST_OPTIONS)

# This tries Colab's versions: the first cell of the notebooks, a few notebooks, and the widgets without a browser.
test-colab: .venv-colab/stamp
	.venv-colab/bin/chts tour 00 06 --profile ci --out runs/colab
	.venv-colab/bin/python -m pytest -q -W ignore::DeprecationWarning -m "not browser" --numprocesses $(TEST_PROCESSES) --dist loadfile tests/lab/test_widgets.py tests/lab/test_widgets_in_kernel.py

# This builds the pages for readers in runs/site/html, then checks the links, and the accessibility in a browser.
site: .venv/site.stamp
	$(BIN)/python docs/build.py
	$(BIN)/python -m pytest -m browser --numprocesses $(TEST_PROCESSES) tests/browser/test_site.py $(PYTEST_OPTIONS)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tests/prose.py

types: .venv/dev.stamp
	$(BIN)/mypy

# This runs the stages with numbers to check by hand. No cell may fail, and these numbers must equal the committed ones.
check-notebooks: .venv/test.stamp
	CHTS_PROFILE=ci $(BIN)/python -m pytest -c /dev/null --rootdir notebooks --nbval-lax --nbval-current-env \
		--numprocesses $(TEST_PROCESSES) --dist loadfile $(wildcard notebooks/0[1-5]_*.ipynb) $(PYTEST_OPTIONS)

# This rebuilds the committed .ipynb from their .py sources, with outputs of the laptop profile, then the exercises.
# To rebuild only one: make refresh-notebooks NOTEBOOKS=notebooks/06_mlp.ipynb
NOTEBOOKS = $(patsubst %.py,%.ipynb,$(wildcard notebooks/*.py))
refresh-notebooks: .venv/notebooks.stamp
	$(BIN)/jupytext --update --to ipynb $(NOTEBOOKS:.ipynb=.py)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False $(NOTEBOOKS)
	@# This keeps only the end of a progress bar. It needs its own command, which comes after the cells have run.
	$(BIN)/jupyter nbconvert --to notebook --inplace --CoalesceStreamsPreprocessor.enabled=True $(NOTEBOOKS)
	$(BIN)/chts exercises

# This builds the wheel twice, expects the same bits, and tries the wheel in its own environment and folder.
wheel: .venv/dev.stamp
	rm -rf dist runs/wheel
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m build --quiet --outdir runs/wheel/again
	cd dist && sha256sum * | (cd ../runs/wheel/again && sha256sum --check --quiet)
	$(PYTHON) -m venv runs/wheel/venv
	runs/wheel/venv/bin/pip install $(PIP_OPTIONS) --constraint constraints.txt dist/*.whl
	cd runs/wheel && venv/bin/python ../../tests/imports.py core
	runs/wheel/venv/bin/pip install $(PIP_OPTIONS) --constraint constraints.txt "$$(echo dist/*.whl)[notebooks]"
	cd runs/wheel && venv/bin/python ../../tests/imports.py all && venv/bin/chts doctor && venv/bin/chts list && venv/bin/chts lab --help && venv/bin/chts run 06 --profile ci --out out

bench: .venv/bench.stamp
	$(BIN)/chts bench

# This runs what needs a GPU, in 8 minutes: tests, conformance, timings, training. Run it again for unfinished items.
gpu: .venv/test.stamp
	$(BIN)/python -m benchmarks.gpu --out runs/gpu --minutes 8

# This puts the results of `make gpu` into benchmarks/results/gpu.json and results/gpu.jsonl.
gpu-results: .venv/test.stamp
	$(BIN)/python -m benchmarks.gpu --out runs/gpu --take-over

clean:
	rm -rf .venv .venv-colab dist runs

.venv/%.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install $(PIP_OPTIONS) --constraint constraints.txt --editable ".[$*]"
	touch $@

# This first installs only Colab's packages, to try the first cell of the notebooks. Then it installs what tests need.
.venv-colab/stamp: pyproject.toml $(wildcard tests/colab/*) | .venv/test.stamp
	.venv/bin/python -m venv --clear .venv-colab
	.venv-colab/bin/python -m pip install $(PIP_OPTIONS) --constraint $(COLAB) --requirement tests/colab/has.txt
	$(BIN)/python tests/colab/try_bootstrap.py .venv-colab/bin/python
	.venv-colab/bin/python -m pip install $(PIP_OPTIONS) --no-deps --editable .
	.venv-colab/bin/python -m pip install $(PIP_OPTIONS) --constraint $(COLAB) hypothesis jupyterlab pytest pytest-xdist voila
	touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "chts needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

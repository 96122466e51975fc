# One command each: `make tour` shows sparse training at work, `make lab` opens the notebooks, `make test` runs the tests.
# All work in .venv, made from constraints.txt when it is missing or out of date.

PYTHON ?= python3
BIN := .venv/bin
COLAB := tests/colab/constraints.txt

.PHONY: tour lab test test-browser test-colab site lint types check-notebooks refresh-notebooks wheel bench clean

tour: .venv/notebooks.stamp
	$(BIN)/chts tour --profile laptop --out runs/tour

lab: .venv/notebooks.stamp
	$(BIN)/jupyter lab notebooks

# Two processes; what must be done once for several files is, by a lock (tests/notebooks/conftest.py).
TEST_PROCESSES ?= 2
test: .venv/test.stamp
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_OPTIONS)

# The widgets in a browser, with the newest ipywidgets and with that of Colab.
test-browser: .venv/test.stamp .venv-colab/stamp
	$(BIN)/python -m pytest -m browser tests/browser/test_widgets_in_browser.py $(PYTEST_OPTIONS)
	CHTS_BROWSER_PYTHON=.venv-colab/bin/python $(BIN)/python -m pytest -m browser tests/browser/test_widgets_in_browser.py $(PYTEST_OPTIONS_COLAB)

# With Colab's versions: what its first cell does there, a few notebooks, and the widgets without a browser.
test-colab: .venv-colab/stamp
	for stage in 00 06; do .venv-colab/bin/chts run $$stage --profile ci --out runs/colab || exit 1; done
	.venv-colab/bin/python -m pytest -q -W ignore::DeprecationWarning tests/lab/test_widgets.py tests/lab/test_widgets_in_kernel.py

# The pages for readers, in runs/site/html; then its links, and its accessibility in a browser.
site: .venv/site.stamp
	$(BIN)/python docs/build.py
	$(BIN)/python -m pytest -m browser tests/browser/test_site.py $(PYTEST_OPTIONS)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/dev.stamp
	$(BIN)/mypy

# The notebooks at the smallest profile, then each of their cells once more under nbval.
check-notebooks: .venv/test.stamp
	$(BIN)/chts tour --profile ci --out runs/ci
	$(BIN)/python -m pytest -c /dev/null --rootdir runs/ci --nbval-lax --nbval-current-env \
		--numprocesses $(TEST_PROCESSES) --dist loadfile runs/ci $(PYTEST_OPTIONS)

# Rebuild the committed .ipynb from their .py sources, with outputs of the laptop profile; and what is handed out.
# One alone: make refresh-notebooks NOTEBOOKS=notebooks/06_mlp.ipynb
NOTEBOOKS = $(patsubst %.py,%.ipynb,$(wildcard notebooks/*.py))
refresh-notebooks: .venv/notebooks.stamp
	$(BIN)/jupytext --update --to ipynb $(NOTEBOOKS:.ipynb=.py)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False $(NOTEBOOKS)
	@# Of a progress bar, how it ended is enough; before the cells have run there is nothing to merge.
	$(BIN)/jupyter nbconvert --to notebook --inplace --CoalesceStreamsPreprocessor.enabled=True $(NOTEBOOKS)
	$(BIN)/chts exercises

# The wheel: the same bits each time it is built, as a package index wants it, and tried from an environment and a folder of its own.
wheel: .venv/dev.stamp
	rm -rf dist runs/wheel
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m build --quiet --outdir runs/wheel/again
	cd dist && sha256sum * | (cd ../runs/wheel/again && sha256sum --check --quiet)
	$(PYTHON) -m venv runs/wheel/venv
	runs/wheel/venv/bin/pip install --quiet --constraint constraints.txt "$$(echo dist/*.whl)[notebooks]"
	cd runs/wheel && venv/bin/chts doctor && venv/bin/chts list && venv/bin/chts lab --help && venv/bin/chts run 06 --profile ci --out out

bench: .venv/bench.stamp
	$(BIN)/chts bench

clean:
	rm -rf .venv .venv-colab dist runs

.venv/%.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$*]"
	touch $@

# First Colab's packages alone, in which the bootstrap cell of the notebooks is tried; then what tests need.
.venv-colab/stamp: pyproject.toml $(wildcard tests/colab/*) | .venv/test.stamp
	.venv/bin/python -m venv --clear .venv-colab
	.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(COLAB) --requirement tests/colab/has.txt
	$(BIN)/python tests/colab/try_bootstrap.py .venv-colab/bin/python
	.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(COLAB) hypothesis jupyterlab pytest voila
	touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "chts needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

# The book in two commands: `make book`, `make test`. `make` alone lists the rest.
# Needed: GNU make and Python >= 3.11. Variables: PYTHON (python3), VENV (.venv), CHAPTERS, WORKERS, LOCKED,
# OMP_NUM_THREADS, and for `make portable` QUICK, CASES, PYTHON_UNDER_TEST, for `make mutants` N, SEED.

PYTHON ?= python3
VENV ?= .venv
CHAPTERS ?=
WORKERS ?= 2
SCREENSHOTS ?=
N ?= 150
SEED ?= 0
LOCKED ?=

BIN := $(if $(filter /%,$(VENV)),$(VENV),$(CURDIR)/$(VENV))/bin
READY := $(VENV)/.ddi-ready
TOOLS := $(VENV)/.ddi-tools
BUILD := "$$BIN/jupyter-book" build . -W -n --keep-going --all
SAY := @printf '\n== %s\n'

# The shell reads paths from its environment, as they are: a folder's name may hold an apostrophe.
export BIN
export HERE := $(CURDIR)
export OMP_NUM_THREADS ?= 1
export JUPYTER_PREFER_ENV_PATH := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export PATH := $(BIN):$(PATH)
unexport MPLBACKEND PYTHONHOME

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help environment book preview notebooks test portable mutants lint pages pdf lab dist clean FORCE

help: ## list the targets
	@echo "Descent directions in adversarial training"
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

environment: $(READY) ## create the environment (.venv) and install the requirements; quick if it is there (LOCKED=1: the very versions)

# The mark holds the folder it was made for: an environment lent by another copy of the book is installed into again.
ifneq ($(shell cat '$(READY)' 2>/dev/null),$(CURDIR))
$(READY): FORCE
endif
$(READY): requirements.txt pyproject.toml
	$(SAY) "Environment: $(VENV) (the first time a few minutes and about 6 GB)"
	@"$$BIN/python" -m pip --version >/dev/null 2>&1 || { \
	  command -v '$(PYTHON)' >/dev/null || { echo "There is no '$(PYTHON)'. Install Python 3.11 or newer, or say where: make PYTHON=/path/to/python3"; exit 1; }; \
	  '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "'$(PYTHON)' is" $$('$(PYTHON)' --version)", and the book needs 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }; \
	  '$(PYTHON)' -m venv '$(VENV)' || { echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu the package python3-venv is missing"; exit 1; }; }
	@"$$BIN/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(VENV) holds" $$("$$BIN/python" --version)", and the book needs 3.11 or newer: remove that folder, or name another: make VENV=..."; exit 1; }
	"$$BIN/python" -m pip install --disable-pip-version-check -r requirements.txt $(if $(LOCKED),-c constraints.txt)
	@mkdir -p '$(VENV)/etc/ipython' && echo 'c.IPKernelApp.log_level = 40  # a kernel on this machine need not warn of TCP' > '$(VENV)/etc/ipython/ipython_kernel_config.py'
	@printf '%s\n' "$$HERE" > '$(READY)'

# What only those need who change the book: mypy, the page check, the builder of packages.
$(TOOLS): requirements-dev.txt $(READY)
	$(SAY) "Tools: what requirements-dev.txt names"
	"$$BIN/python" -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch '$(TOOLS)'

book: environment ## execute every chapter afresh and build the book, strictly, into _build/
	$(SAY) "Book: executing every chapter and building, from scratch"
	@rm -rf _build && mkdir _build
	@sed -e 's/execute_notebooks: "off"/execute_notebooks: "force"/' -e 's|house: book/tools|house: ../book/tools|' _config.yml > _build/book.yml
	@grep -q 'execute_notebooks: "force"' _build/book.yml
	$(BUILD) --config _build/book.yml || { "$$BIN/python" book/tools/failures.py; exit 1; }
	@printf '\nThe book is ready. Open\n\n    file://%s/_build/html/index.html\n\n' "$$HERE"

preview: environment ## build the book from the stored outputs (seconds)
	$(SAY) "Preview: building from the stored outputs, nothing is executed"
	@rm -rf _build
	$(BUILD)
	@printf '\nThe preview is ready. Open\n\n    file://%s/_build/html/index.html\n\n' "$$HERE"

notebooks: environment ## execute the chapters and store their outputs: all, or CHAPTERS="02 05"
	$(SAY) "Notebooks: executing $(or $(CHAPTERS),every chapter) and storing the outputs"
	"$$BIN/python" book/tools/notebooks.py $(CHAPTERS)

test: environment ## test the package and the book, and compare every chapter with its stored outputs
	$(SAY) "Tests: the package, the book's rules, and every chapter against its stored outputs"
	"$$BIN/python" -m pytest --nbval --nbval-current-env --nbval-cell-timeout=300 -n $(WORKERS) --dist loadfile tests notebooks || { \
	  printf '\nIf the repository is as you got it, please report the FAILED lines above with what this prints:\n\n    %s\n\n' "$(VENV)/bin/python -m ddi report"; exit 1; }

portable: environment ## chapters and tests under emulated processors, threads, seeds: CHAPTERS, QUICK=1, CASES="sse noise", PYTHON_UNDER_TEST
	$(SAY) "Portable: do the checks hold on other processors, with other threads and seeds?"
	"$$BIN/python" book/tools/portable.py --workers $(WORKERS) $(if $(QUICK),--quick) $(if $(CHAPTERS),--chapters $(CHAPTERS)) $(if $(CASES),--cases $(CASES)) $(if $(PYTHON_UNDER_TEST),--python '$(PYTHON_UNDER_TEST)')

mutants: environment ## break the package in N=150 random places (SEED=0) and by planted faults, and see the tests notice
	$(SAY) "Mutants: N=$(N), SEED=$(SEED), WORKERS=$(WORKERS); an hour or two, and goes on where it was stopped"
	@[ -d .mutation ] || "$$BIN/python" -m pip install --disable-pip-version-check --quiet --no-deps --target .mutation cosmic-ray==8.7.0 parso==0.8.7 stevedore==5.10.0
	PYTHONPATH="$$HERE:$$HERE/.mutation" "$$BIN/python" tests/mutants.py --n $(N) --seed $(SEED) --workers $(WORKERS)
	"$$BIN/python" tests/mutants.py --planted --workers $(WORKERS)

lint: environment $(TOOLS) ## check the style of the code, its types, and the rules of the house
	$(SAY) "Lint"
	"$$BIN/ruff" check .
	"$$BIN/ruff" format --check .
	"$$BIN/mypy" --python-executable "$$BIN/python"
	"$$BIN/python" -m pytest -q -p no:nbval tests/test_house.py

pages: environment $(TOOLS) ## open every built page in headless Chromium: SCREENSHOTS=folder takes pictures
	$(SAY) "Pages: opening every page of _build/html in Chromium"
	"$$BIN/python" book/tools/check_pages.py $(if $(SCREENSHOTS),--screenshots '$(SCREENSHOTS)')

pdf: environment ## the book as LaTeX from the stored outputs, and as a PDF where TeX is installed
	$(SAY) "PDF: LaTeX sources from the stored outputs"
	@rm -rf _build/latex
	"$$BIN/jupyter-book" build . --builder latex --all
	@if command -v latexmk >/dev/null && command -v xelatex >/dev/null; then \
	  $(MAKE) -C _build/latex all-pdf && ls _build/latex/*.pdf; else \
	  printf '\nThe LaTeX sources are in _build/latex. A PDF needs latexmk and XeLaTeX, on Debian and Ubuntu\n'; \
	  printf '  apt-get install latexmk texlive-xetex texlive-latex-extra texlive-fonts-recommended fonts-freefont-otf xindy\n'; fi

lab: environment ## open the chapters in JupyterLab
	$(SAY) "Lab: the chapters in notebooks/"
	@"$$BIN/python" -c 'import jupyterlab' 2>/dev/null || "$$BIN/python" -m pip install --disable-pip-version-check jupyterlab
	"$$BIN/jupyter" lab notebooks

dist: environment $(TOOLS) ## build the wheel and the source distribution into dist/, and check them
	$(SAY) "Dist: wheel and source distribution"
	@rm -rf dist build
	"$$BIN/python" -m build
	"$$BIN/twine" check --strict dist/*
	"$$BIN/python" book/tools/check_dist.py

clean: ## remove what was built, not the environment
	$(SAY) "Clean: removing build products and caches"
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis danskin.egg-info ddi.egg-info build dist
	find ddi tests notebooks book benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# One command a job; `make` alone lists them. README.md has the same in plain pip lines.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
SITE := _build/html
PORT ?= 8000
POINTS ?=
BUILD := $(BIN)/jupyter-book build . -W -n --keep-going
# The build forks kernels: two pages of numpy on two cores are quickest with one thread each.
export OMP_NUM_THREADS ?= 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: help book page serve lab test zip bench bench-grading fidelity audit clean

help:  ## list the commands
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "  make %-18s%s\n", $$1, $$2}' Makefile

book: $(VENV)/.course  ## set up, build the site, say where to open it
	@$(BUILD)
	@echo "The site is built. Open $(CURDIR)/$(SITE)/index.html, or run: make serve"

# The chapter, and all pages that are none: so its links and citations lead somewhere, and only its cells run.
CHAPTER = $(wildcard book/ch$(CH)_*.md)
page: $(VENV)/.course  ## build one chapter alone: make page CH=08
	@test "$(words $(CHAPTER))" = 1 || { echo "CH=$(CH): no such chapter; try CH=08, there is" book/ch*.md; exit 2; }
	@mkdir -p _build
	@awk '!/book\/ch[0-9]/ || /book\/ch$(CH)_/' _toc.yml > _build/page.yml
	@$(BIN)/jupyter-book build . --toc _build/page.yml --path-output _build/page
	@echo "Open $(CURDIR)/_build/page/$(SITE)/$(CHAPTER:.md=.html)"

serve: book  ## serve the site on this machine only: make serve PORT=8000
	@$(PY) -c "import socket; socket.create_server(('127.0.0.1', $(PORT)))" 2>/dev/null || \
		{ echo "PORT=$(PORT): in use, or no port that you may open; try another from 1024 to 65535"; exit 2; }
	@$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory $(SITE)

lab: $(VENV)/.course  ## open the labs in JupyterLab, in your own copies in work/
	$(BIN)/vlib lab work
	$(BIN)/jupyter lab --ServerApp.root_dir=. --FileContentsManager.preferred_dir=work

test: $(VENV)/.tests book  ## check the style and run every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PY) -m pytest -n 2 --dist loadfile

DIST := dist/virtualization-you-can-run
zip: book  ## put the site and the labs into one file for use offline, in dist/
	@rm -rf dist && mkdir -p $(DIST)
	@cp -r $(SITE) $(DIST)/site
	@cp -r labs vlib requirements.txt pyproject.toml LICENSE LICENSE-TEXT $(DIST)/
	@cp book/_ext/offline.md $(DIST)/README.md
	@rm -rf $(DIST)/labs/solutions
	@find $(DIST) \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
	@$(PY) -m zipfile -c $(DIST).zip.part $(DIST) && mv $(DIST).zip.part $(DIST).zip
	@echo "$(CURDIR)/$(DIST).zip"

bench: $(VENV)/.tests  ## measure the models
	$(PY) -m bench.bench_migration

bench-grading: $(VENV)/.tests  ## measure the marking
	$(PY) -m bench.bench_grading

fidelity: $(VENV)/.course  ## predicted beside measured migrations: make fidelity POINTS=file.json
	@$(PY) -m vlib.fidelity $(if $(POINTS),"$(POINTS)")

audit: $(VENV)/.tests book  ## lighthouse and axe-core on the built site (needs node, npm and chromium)
	$(PY) -m bench.audit

clean:  ## forget what was built; the environment and work/ stay
	rm -rf _build dist

$(VENV)/.course: requirements.txt pyproject.toml book/_ext/overrides.json
	$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('Python 3.11 or newer is needed; this is ' + sys.version)"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	mkdir -p $(VENV)/share/jupyter/lab/settings
	cp book/_ext/overrides.json $(VENV)/share/jupyter/lab/settings/
	touch $@

$(VENV)/.tests: $(VENV)/.course tests/requirements.txt
	$(PY) -m pip install --disable-pip-version-check -r tests/requirements.txt
	touch $@

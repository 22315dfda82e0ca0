PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

$(VENV)/.course: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -r requirements.txt
	touch $@

$(VENV)/.tests: $(VENV)/.course tests/requirements.txt
	$(PY) -m pip install -r tests/requirements.txt
	touch $@

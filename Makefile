# Two commands: `make book` and `make test`. Each sets up what it needs; run again, it keeps what is there.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python

.PHONY: book test coverage clean
book: $(VENV)/.installed
	$(PY) scripts/build_book.py

test: $(VENV)/.installed
	sh scripts/install_chromium.sh
	$(PY) -m ruff check .
	$(PY) -m codespell_lib
	$(PY) -m mypy
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2

# Lines of geonb that the tests reach, without those of the book; fails below 90 %.
coverage: $(VENV)/.installed
	$(PY) -m coverage erase
	OMP_NUM_THREADS=1 $(PY) -m coverage run -m pytest -n 2 --ignore tests/book
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --constraint constraints.txt --editable '.[book,test]'
	touch $@

# Everything that is made, but not the environment.
clean:
	rm -rf _build $(foreach store,atlas workshop smoke grid-smoke,data/$(store) runs/$(store))

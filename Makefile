# Two commands: `make book` and `make test`. Each sets up what it needs; run again, it keeps what is there.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
export OMP_NUM_THREADS := 1 # and two processes: on two cores, two threads in each would wait for each other

.PHONY: book test lint smoke test-mutations coverage clean
book: $(VENV)/.installed
	$(PY) scripts/build_book.py

test: $(VENV)/.installed
	sh scripts/install_chromium.sh
	$(MAKE) --jobs 2 lint smoke
	$(PY) -m pytest -n 2

# Beside the chapters; what it says comes in one piece, at its end.
lint: $(VENV)/.installed
	@said=$$( ($(PY) -m ruff check . && $(PY) -m codespell_lib && $(VENV)/bin/lint-imports && $(PY) -m mypy) 2>&1); \
	failed=$$?; echo "$$said"; exit $$failed

smoke: $(VENV)/.installed
	$(PY) tests/book/smoke_book.py

# The checks of the checks: a fault is planted in a page, a chapter or a script, and its check must find it.
test-mutations: smoke
	$(PY) -m pytest -n 2 -m mutation

# Lines of geonb that the tests reach, without those of the book; fails below 90 %.
coverage: $(VENV)/.installed
	$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest -n 2 --ignore tests/book
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --constraint constraints.txt --editable '.[book,test]'
	touch $@

# Everything that is made, but not the environment.
clean:
	rm -rf _build $(foreach store,atlas workshop smoke grid-smoke,data/$(store) runs/$(store))

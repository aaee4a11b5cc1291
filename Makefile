# Everything is done by `make demo` and `make test`; both set up .venv first where it is missing.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.heed-installed
DEMO ?=
PYTEST ?=
# Tests wait for processes as much as they compute: two cores have room for three.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); if [ $$n -lt 3 ]; then echo 3; elif [ $$n -gt 4 ]; then echo 4; else echo $$n; fi)

.DEFAULT_GOAL := help
.PHONY: help install demo serve test test-vllm lint format wheel vendor clean

help:
	@echo "make demo     the whole loop on a demonstration company, then the page (DEMO='--once' ends after it)"
	@echo "make test     every check and test"
	@echo "make test-vllm  the tests of serving with a real vLLM, in an environment of its own"
	@echo "make lint     ruff, mypy and the import contracts alone"
	@echo "make format   let ruff format the code"
	@echo "make serve    serve the page and the API with the settings in heed.toml"
	@echo "make wheel    build the wheel into dist/"
	@echo "make vendor   bundle the pages' libraries anew (needs Node; its results are committed)"
	@echo "make clean    remove what was built, and $(VENV)"
	@echo "PYTHON=... chooses the interpreter (3.11 or newer), VENV=... the environment's folder"

install: $(INSTALLED)

# The stamp is younger than what it was installed from, so a second call installs nothing.
$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; install Python 3.11 or newer, or set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is %d.%d; set PYTHON=..." % sys.version_info[:2])'
	@echo "Installing into $(VENV): torch and about 120 more packages; this takes minutes the first time"
	test -x $(BIN)/python && $(BIN)/python -m pip --version || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/heed demo $(DEMO)

serve: $(INSTALLED)
	$(BIN)/heed serve

# One thread in each worker: more would wait for each other. A test that fails is tried once more, and the summary tells of it: other work on the machine may
# have held it up.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --reruns 1 -r fEsxXR -m "not benchmark and not vllm" $(PYTEST)

test-vllm: $(INSTALLED)
	$(BIN)/python -m tests.engines.vllm_environment
	$(BIN)/python -m pytest -m vllm tests/engines $(PYTEST)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .

wheel: $(INSTALLED)
	rm -rf build
	$(BIN)/python -m build --wheel --no-isolation
	rm -rf build

vendor:
	cd service/web/vendor && npm install --no-package-lock && npm run build
	cd service/web/static/vendor && sha256sum *.css *.js *.txt > ../../vendor/SHA256SUMS

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# make demo | test | coverage | lint | docs-check | clean; `make constraints` resolves all versions.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
# What setuptools leaves in the checkout.
BUILT := build/lib build/bdist.* mnv4_deploy.egg-info demo_data/build demo_data/*.egg-info
# Errors only: a corporate index or an old pip would otherwise bury them in warnings.
PIP_INSTALL := install -qq --disable-pip-version-check
# PyPI's torch for Linux on x86-64 brings CUDA libraries of several GB, and PyTorch's own index has a
# build without. It is asked where pip's settings name no place of yours for packages; give another
# one as TORCH_INDEX, or an empty one for what pip finds.
PYTORCH_CPU := https://download.pytorch.org/whl/cpu
TORCH_INDEX ?= $(shell [ "$$(uname -sm)" = "Linux x86_64" ] && \
  ! $(BIN)/pip config list | grep -E '(index-url|find-links|no-index)=' > /dev/null && \
  echo $(PYTORCH_CPU))
SOURCES := $(shell find mnv4_deploy models exporters profiles -type f -not -name '*.pyc')

.PHONY: demo test coverage lint docs-check clean constraints

demo: $(VENV)/.installed-export
	HF_HUB_OFFLINE=1 $(BIN)/mnv4-deploy export --model hybrid-m --int8 --out out/hybrid-m --overwrite
	$(BIN)/mnv4-deploy profile out/hybrid-m/hybrid-m-int8.tflite --out out/hybrid-m-profile --overwrite
	$(BIN)/mnv4-deploy drift --reference out/hybrid-m/hybrid-m-fp32.tflite --candidate out/hybrid-m/hybrid-m-int8.tflite --out out/hybrid-m-drift --overwrite

# The installed package is tested, so Python must not find the checkout first.
test: $(VENV)/.installed-dev
	PYTHONSAFEPATH=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

# The same with SlipCover in every process that the tests start: what share of the lines ran.
coverage: COUNTED := $(abspath $(VENV))/.counted-lines
coverage: $(VENV)/.installed-dev
	@rm -rf $(COUNTED) && mkdir $(COUNTED)
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" | while read -r site; do \
	  echo 'import os; "COUNT_LINES" in os.environ and exec(open(os.environ["COUNT_LINES"]).read())' \
	    > "$$site/count_lines.pth"; done
	COUNT_LINES=$(CURDIR)/tests/coverage/count.py COUNTED_LINES=$(COUNTED) $(MAKE) test
	@$(BIN)/python tests/coverage/report.py $(COUNTED) $(REPORT_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Every command line of README.md and docs/ is parsed, those that are marked are run.
docs-check: $(VENV)/.installed-dev
	PYTHONSAFEPATH=1 $(BIN)/python tests/docs_commands.py

# Only what make itself has made: out/ may hold other exports, and VENV may be anything.
clean:
	for folder in $(VENV) $(VENV)-fresh; do \
	  if [ -e $$folder/pyvenv.cfg ]; then rm -rf $$folder; fi; done
	rm -rf $(BUILT) .pytest_cache .mypy_cache .ruff_cache

# Without its requirements: that index has few versions of them.
define install_torch
	@index='$(TORCH_INDEX)'; [ -z "$$index" ] || { echo "Installing $(1) from $$index" && \
	  $(BIN)/pip $(PIP_INSTALL) --retries 1 --no-deps --index-url "$$index" $(1); } || \
	  echo "That failed, so torch comes from where pip finds it, on Linux with CUDA (several GB)." >&2
endef

$(VENV)/.installed-export $(VENV)/.installed-dev: | $(VENV)/.torch
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(call install_torch,$(shell grep '^torch==' constraints.txt))
	@touch $@

# A copy is installed, not the checkout, so any change of a source installs it again.
$(VENV)/.installed-%: pyproject.toml demo_data/pyproject.toml constraints.txt README.md LICENSE $(SOURCES) | $(BIN)/python
	@echo "Installing mnv4-deploy[$*] into $(VENV) (minutes and 3 GB the first time)"
	@rm -rf $(BUILT)  # setuptools would install modules deleted since
	$(BIN)/pip $(PIP_INSTALL) --constraint constraints.txt '.[$*]' ./demo_data
	@rm -rf $(BUILT)
	@touch $@

$(BIN)/python:
	@[ ! -e $(VENV) ] || [ -e $(VENV)/pyvenv.cfg ] || \
	  { echo "$(VENV) is no virtual environment: move it away, or give make another VENV."; exit 2; }
	$(PYTHON) -m venv $(VENV) || { [ ! -e $(VENV)/pyvenv.cfg ] || rm -rf $(VENV); exit 1; }

# torch is chosen by hand: a new one changes what the exporters see.
constraints: TORCH ?= 2.13.0
constraints: FRESH := $(VENV)-fresh
constraints: BIN := $(FRESH)/bin
constraints:
	@[ ! -e $(FRESH) ] || { echo "$(FRESH) exists: move it away."; exit 2; }
	$(PYTHON) -m venv $(FRESH)
	$(call install_torch,torch==$(TORCH))
	$(BIN)/pip $(PIP_INSTALL) torch==$(TORCH) '.[dev]'
	{ sed -n '/^#/p' constraints.txt; \
	  $(BIN)/pip freeze --exclude mnv4-deploy | sed 's/+[^+]*$$//'; } > $(FRESH)/constraints
	mv $(FRESH)/constraints constraints.txt
	rm -rf $(FRESH)

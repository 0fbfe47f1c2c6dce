# Two commands matter: `make demo` and `make test`. Each sets up what is missing first.
#
# torch's CPU build (2.13.0+cpu) is not on PyPI: where pip's own settings do not offer it, set PIP_EXTRA_INDEX_URL to
# PyTorch's CPU wheel index; pip reads that variable by itself.

PYTHON ?= python3.11
# Without byte code every process compiles torch, transformers and vLLM anew.
unexport PYTHONDONTWRITEBYTECODE
NOT_LOCKED = '^(vl-harness|torchaudio|torchcodec|triton|pip)\b'
PIP_INSTALL = bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps

# Two processes share the tests; then one of them starts all engines, one after the other.
SHARED = -n 2 --no-loadscope-reorder

.PHONY: demo test fast lint environments lock clean

demo: environments
	.venv/bin/python -m harness run suites/vl_accuracy.yaml

test: environments .venv/ready-to-test lint
	.venv/bin/python -m pytest $(SHARED)

fast: .venv/ready-to-test lint
	.venv/bin/python -m pytest $(SHARED) -m "not e2e"

lint: .venv/ready-to-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

environments:
	@$(MAKE) --no-print-directory -j2 .venv/ready .venv-quantize/ready

.venv/ready: requirements/serve-cpu.txt pyproject.toml
	@echo "setting up .venv (vLLM, lm-eval)" >&2
	@$(PYTHON) -m venv .venv
	@.venv/$(PIP_INSTALL) -r requirements/serve-cpu.txt
	@touch $@

.venv/ready-to-test: .venv/ready requirements/test.txt
	@.venv/$(PIP_INSTALL) -r requirements/test.txt
	@touch $@

.venv-quantize/ready: requirements/quantize-cpu.txt pyproject.toml
	@echo "setting up .venv-quantize (llm-compressor)" >&2
	@$(PYTHON) -m venv .venv-quantize
	@.venv-quantize/$(PIP_INSTALL) -r requirements/quantize-cpu.txt
	@touch $@

.venv-quantize: .venv-quantize/ready

lock:
	.venv/bin/python -m pip freeze --exclude-editable | grep -vE $(NOT_LOCKED) | grep -vxFf requirements/test.txt > requirements/serve-cpu.txt
	.venv-quantize/bin/python -m pip freeze --exclude-editable | grep -vE $(NOT_LOCKED) > requirements/quantize-cpu.txt

clean:
	rm -rf .venv .venv-quantize build *.egg-info

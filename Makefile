.PHONY: install test gpu vllm lint cards docs demo

install:  ## everything for development, in the current environment
	python -m pip install -e '.[dev]'

test:  ## the test suite
	python -m pytest

gpu:  ## everything that needs a GPU, in stages of minutes; figures and targets, into docs/performance/gpu/
	python scripts/gpu_run_book.py

vllm:  ## the tests of serving, in an environment with vLLM; one process, an engine takes all cores
	python -c 'import vllm'
	python -m pytest -n 0 tests/engines tests/cards/test_cards.py::test_the_vllm_block_runs_on_pocket_llava

lint:  ## ruff and mypy, as CI runs them
	ruff check . && ruff format --check . && mypy

cards:  ## the model cards, from their template and table
	python scripts/render_cards.py

docs:  ## the site, into site/; needs the extra `docs`, and fails on a broken link
	mkdocs build --strict

demo:  ## the small model that ships with the package
	divprune-hf demo

# Everyday commands. `make check` is what CI runs.
.PHONY: sync test slow lint format check data all_caps notebooks

sync:
	uv sync

test:
	uv run pytest

slow:
	uv run pytest -m slow

lint:
	uv run ruff check
	uv run ruff format --check

format:
	uv run ruff check --fix
	uv run ruff format

check:
	bash .ci/run

data:
	uv run python routing/embedded/make_stories.py

notebooks:
	uv run python tools/notebooks.py

all_caps:
	uv run --directory all_caps python experiment.py

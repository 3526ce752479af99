"""Every `# %%` script as a notebook beside it: `uv run python tools/notebooks.py`, or `make notebooks`.

A notebook that was edited stays as it is, unless OVERWRITE is True. They are git-ignored: the scripts are
what is kept. To open them: `uv run --with jupyterlab jupyter lab`.
"""

# %% Constants
from pathlib import Path

from lab.constants import override_constants

FOLDERS = ["all_caps", "mbpp", "template", "reward_hack_data", "tools"]  # in the repository, or anywhere
OVERWRITE = False  # also those that were edited

# from the shell: CONSTANT=value
override_constants(globals())
REPOSITORY = Path(__file__).resolve().parents[1]

# %% A script's docstring, the names of its cells, and its cells
import ast

from lab.errors import BadInput
from lab.files import fingerprint, write_text

try:
    import jupytext
    import nbformat
except ModuleNotFoundError as error:
    raise BadInput(f"{error}; `uv sync` brings the group dev, which has it") from error
from nbformat.v4 import new_code_cell, new_markdown_cell


def to_notebook(script: Path) -> nbformat.NotebookNode:
    text = script.read_text(encoding="utf-8")
    # above the first cell stands the docstring alone
    found = jupytext.reads(text[text.index("\n# %%") + 1 :], fmt="py:percent").cells
    # a kernel has no __file__
    found[0].source = f"__file__ = {script.name!r}\n{found[0].source}"
    cells = [new_markdown_cell(f"# {script.stem}\n\n{ast.get_docstring(ast.parse(text))}")]
    for cell in found:
        title = cell.metadata.get("title")
        cells += [new_markdown_cell(f"## {title}")] if title else []
        cells.append(new_code_cell(cell.source))
    # the same script gives the same file
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    notebook.metadata["written"] = sources(notebook)
    return notebook


def sources(notebook: nbformat.NotebookNode) -> str:
    """A hash of what stands in the cells, without what they put out."""
    return fingerprint(f"{cell.cell_type} {cell.source}" for cell in notebook.cells)


def is_edited(path: Path) -> bool:
    """Whether the notebook is another one than was written here; also if it cannot be read."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        return False
    except Exception:
        return True
    return notebook.metadata.get("written") != sources(notebook)


# %% Writing
for folder in FOLDERS:
    scripts = [path for path in sorted((REPOSITORY / folder).glob("*.py")) if "\n# %%" in path.read_text()]
    notebooks = {script.with_suffix(".ipynb"): script for script in scripts}
    kept = [path for path in notebooks if not OVERWRITE and is_edited(path)]
    for path, script in notebooks.items():
        if path not in kept:
            write_text(path, nbformat.writes(to_notebook(script)))
    print(f"{REPOSITORY / folder}: {len(notebooks) - len(kept)} notebooks")
    if kept:
        names = ", ".join(path.name for path in kept)
        print(f"  left as they are, since they were edited (OVERWRITE=True replaces them): {names}")

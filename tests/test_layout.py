"""Who may import whom, that lab does without torch, and that files stay short."""

import ast
import subprocess
import sys

import pytest
from conftest import REPO

# each package -> what it may import of this repository
MAY_IMPORT = {
    "adapters": set(),
    "lab": set(),
    "routing": {"adapters", "lab"},
    "all_caps": {"adapters", "lab", "routing"},
    "mbpp": {"adapters", "lab", "routing"},
}
LIBRARY = [path for package in MAY_IMPORT for path in sorted((REPO / package).glob("*.py"))]


def imported(path) -> list[str]:
    """The modules that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return found + [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]


def is_script(path) -> bool:
    return "# %%" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(REPO)))
def test_imports_point_one_way(path):
    package = path.parent.name
    for module in imported(path):
        owner = module.split(".")[0]
        if owner in MAY_IMPORT and owner != package:
            assert owner in MAY_IMPORT[package], f"{path.name} imports {module}"
        if owner == "routing" or owner == package:
            target = REPO / (module.replace(".", "/") + ".py")
            assert not (target.exists() and is_script(target)), f"{path.name} imports a script"
        if package == "lab" and owner != "lab":
            assert owner not in MAY_IMPORT


def test_lab_imports_no_torch():
    modules = [f"lab.{path.stem}" for path in sorted((REPO / "lab").glob("*.py")) if path.stem != "__init__"]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(REPO)))
def test_files_are_short_and_narrow(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= (140 if is_script(path) else 260)
    assert [line for line in lines if len(line) > 120 and "_NAMES" not in line] == []

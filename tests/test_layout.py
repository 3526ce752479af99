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
    # scripts for every data set
    "tools": {"adapters", "lab", "routing", "all_caps", "mbpp"},
    "template": {"adapters", "lab", "routing"},
}
# what a training run reads, writes and is named by; evaluation and its tables are the tasks' business
LAB_IN_ROUTING = ("errors", "files", "labels", "splits", "runs", "logs", "live", "timing")
LIBRARY = [path for package in MAY_IMPORT for path in sorted((REPO / package).rglob("*.py"))]


def imported(path) -> list[str]:
    """The modules that a file imports; of `from a import b` both a and a.b, which may be one too."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def is_script_module(module: str) -> bool:
    target = REPO / (module.replace(".", "/") + ".py")
    return target.exists() and is_script(target)


def is_script(path) -> bool:
    return any(line.startswith("# %%") for line in path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(REPO)))
def test_imports_point_one_way(path):
    package = path.relative_to(REPO).parts[0]
    for module in imported(path):
        owner = module.split(".")[0]
        if owner in MAY_IMPORT and owner != package:
            assert owner in MAY_IMPORT[package], f"{path.name} imports {module}"
        if owner == "routing" or owner == package:
            assert not is_script_module(module), f"{path.name} imports a script"
        # a script finds its neighbours without the folder's name
        assert not is_script_module(f"{package}.{module}"), f"{path.name} imports a script"
        if package == "routing" and owner == "lab":
            assert module.split(".")[1:2] in [[], *([name] for name in LAB_IN_ROUTING)], module


def test_lab_imports_no_torch():
    modules = [f"lab.{path.stem}" for path in sorted((REPO / "lab").glob("*.py")) if path.stem != "__init__"]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(REPO)))
def test_files_are_short_and_narrow(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= (160 if is_script(path) else 280)
    # judging.py and sandbox.py hold tables of names and of system calls
    long = [line for line in lines if len(line) > 110]
    assert long == [] or path.stem in ("judging", "sandbox")

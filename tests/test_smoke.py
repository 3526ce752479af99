"""The smoke test: everything is found here, and what is missing is named without stopping at it."""

import subprocess
import sys

import pytest
from conftest import REPO

from mbpp.execution import sandbox_level


@pytest.fixture
def smoke(scripts):
    """smoke("SANDBOX=none"): runs tools/smoke_test.py on the tiny model."""
    # the model is the test's own, so the first of the usual constants
    scripts.constants = [*scripts.constants[:1], "PROBLEMS=['embedded:basics']"]
    return lambda *constants: scripts("tools/smoke_test.py", *constants, check=False)


def verdicts(done) -> dict[str, str]:
    """What is named at the start of each line: part or group -> verdict."""
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[1]: row[0] for row in rows if row[0] in ("ok", "missing", "optional")}


PARTS = ["packages", "assets", "sandbox", "judge", "reward", "training"]


@pytest.mark.skipif(sandbox_level() == "none", reason="no sandbox works on this machine")
def test_everything_is_here(smoke):
    done = smoke()
    assert done.returncode == 0, done.stdout
    assert list(verdicts(done)) == [*PARTS, "[rl]", "[judge]", "[eval]"]
    assert "missing" not in done.stdout and "bad moved, good did not" in done.stdout


def test_what_is_missing_is_named_and_the_rest_is_still_looked_at(smoke, monkeypatch):
    # as if these were not installed: their import fails
    monkeypatch.setitem(sys.modules, "all_caps.judge", None)
    monkeypatch.setitem(sys.modules, "trl", None)
    done = smoke("MODEL_NAME=embedded:gpt5", "SANDBOX=nowhere")
    found = verdicts(done)
    assert done.returncode == 1 and found["packages"] == found["reward"] == "ok"
    assert all(found[part] == "missing" for part in ("assets", "sandbox", "judge", "training"))
    assert "needed and missing: assets, sandbox, judge, training" in done.stderr
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert "embedded:SmolLM2-135M-Instruct" in lines["training"] and 'give "auto"' in lines["sandbox"]
    assert found["[rl]"] == "optional" and "uv sync --group rl" in lines["[rl]"]


def test_without_this_projects_packages_it_says_what_to_run():
    # -S leaves out all that is installed
    command = [sys.executable, "-S", "-E", "tools/smoke_test.py"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1 and "uv sync" in done.stderr and "Traceback" not in done.stderr

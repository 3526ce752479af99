"""Two processes on one run, cache, sweep or grid: the second is told who has it; what was killed blocks nobody."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.constants import Constants
from lab.errors import BadInput
from lab.grid import Cell, Store, run_cells
from lab.lock import held, hold, lock_file, release, release_all, working_on
from lab.results import ResultsCache
from lab.runs import open_run
from lab.sweeps import Job, run_jobs, run_sweep

HOLDER = "import sys; from pathlib import Path; from lab.lock import hold; hold(Path(sys.argv[1]))"


@contextmanager
def another_process(path: Path, *more: str):
    """Another process that holds `path` while the block runs."""
    command = [
        sys.executable,
        "-c",
        "; ".join([HOLDER, *more, "print(flush=True)", "sys.stdin.read()"]),
        path,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def nothing_held():
    yield
    release_all()


def constants(**given):
    return Constants({"ADAPTER_TYPE": "lora", "SEED": 0, "RUN_NAME": "mine", "RESUME": False, **given})


def test_the_second_process_is_told_who_has_it_and_writes_nothing(tmp_path):
    script = tmp_path / "experiment.py"
    script.write_text('RUN_NAME = ""\nRESUME = False\n# %%\n')
    job = Job("mine", script, ())
    (tmp_path / "checkpoints/mine").mkdir(parents=True)
    (tmp_path / "checkpoints/mine/started.json").write_text('{"constants": {"OTHER": 1}}')
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/mine.log").write_text("what it prints")
    with another_process(tmp_path / "results/mine") as process:
        for resume in (False, True):
            with pytest.raises(BadInput, match=f"results/mine: process {process.pid} is working on it"):
                open_run(str(script), "route", constants(RESUME=resume), {})
        # a sweep would take a run of other constants away, and its log
        assert run_jobs([job], tmp_path / "logs") == [job]
        assert (tmp_path / "checkpoints/mine/started.json").exists()
        assert (tmp_path / "logs/mine.log").read_text() == "what it prints"
        open_run(str(script), "route", constants(RUN_NAME="another"), {})
    run = open_run(str(script), "route", constants(RESUME=True), {})
    assert lock_file(run.results).read_text() == f"{os.getpid()}\n"


def test_a_damaged_run_fails_alone_and_one_of_other_constants_is_put_aside(tmp_path):
    script = tmp_path / "script.py"
    lines = ["from pathlib import Path", "SEED = 0", 'RUN_NAME = ""', "RESUME = False", "# %%",
             "import sys", "Path('ran').write_text(' '.join(sys.argv))"]  # fmt: skip
    script.write_text("\n".join(lines))
    for name, config in (("damaged", "{"), ("other", '{"constants": {"SEED": 7}}')):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "config.json").write_text(config)
    (tmp_path / "results/other").mkdir(parents=True)
    jobs = [Job(name, script, ()) for name in ("damaged", "other")]
    # the second one ran, but left no results
    assert run_jobs(jobs, tmp_path / "logs") == jobs
    assert "RUN_NAME=other RESUME=False" in (tmp_path / "ran").read_text()
    assert (tmp_path / "checkpoints/other.1/config.json").exists() and (tmp_path / "results/other.1").exists()


def test_caches_sweeps_and_grids(tmp_path):
    store = Store(tmp_path / "cells.jsonl")
    cell = Cell("route", 1.0, "lora", 0, Job("mine", tmp_path / "none.py", ()))
    (tmp_path / "none.py").write_text("SEED = 0\n# %%\n")
    more = [f"hold(Path({str(tmp_path / name)!r}))" for name in ("results/compared.json", "results/sweep")]
    with another_process(store.path, *more) as process:
        who = f"process {process.pid} is working on it"
        with pytest.raises(BadInput, match=who):
            run_cells([cell], store, tmp_path / "logs", workers=1)
        # a report of what is there disturbs nobody
        assert run_cells([cell], store, tmp_path / "logs", workers=0) == []
        with pytest.raises(BadInput, match=who):
            ResultsCache(tmp_path / "results/compared.json")
        with pytest.raises(BadInput, match=who):
            run_sweep(tmp_path, [], [0], ["lora"], [("a", "none.py", [])], [], [], "sweep")


def test_what_a_killed_process_held_is_free(tmp_path):
    with another_process(tmp_path / "mine") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert lock_file(tmp_path / "mine").exists() and working_on(tmp_path / "mine") is None
        hold(tmp_path / "mine")
        assert lock_file(tmp_path / "mine").read_text() == f"{os.getpid()}\n"


def test_a_lock_leaves_nothing_and_may_be_taken_again(tmp_path):
    path = tmp_path / "results/mine"
    hold(path)
    with held(path):
        hold(path)
    assert lock_file(path).exists()
    release(path)
    assert list(tmp_path.iterdir()) == []
    with held(path):
        # the user deletes the folder: what is held then is no file any more
        lock_file(path).unlink()
        hold(path)
        assert lock_file(path).exists()
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_process_of_a_run_holds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with another_process(tmp_path / "mine"):
        hold(tmp_path / "mine")
    hold(tmp_path / "free")
    assert not lock_file(tmp_path / "free").exists()


def test_a_forked_process_does_not_take_the_lock_away(tmp_path):
    hold(tmp_path / "mine")
    child = os.fork()
    if child == 0:
        release_all()
        os._exit(0)
    os.waitpid(child, 0)
    assert lock_file(tmp_path / "mine").exists()


def test_who_only_looks_is_in_nobodys_way(tmp_path):
    """`working_on` locks the file for an instant; a sweep asks again and again."""
    looker = os.fork()
    if looker == 0:
        while True:
            working_on(tmp_path / "mine")
    try:
        for _ in range(1000):
            hold(tmp_path / "mine")
            assert lock_file(tmp_path / "mine").read_text() == f"{os.getpid()}\n"
            release(tmp_path / "mine")
    finally:
        os.kill(looker, signal.SIGKILL)
        os.waitpid(looker, 0)


def test_of_many_at_once_one_has_it(tmp_path):
    """Processes that take it and let it go as fast as they can: never two at once."""
    code = f"""
import os, sys, time
from pathlib import Path
from lab.errors import BadInput
from lab.lock import hold, release
path, inside = Path({str(tmp_path / "mine")!r}), {str(tmp_path / "inside")!r}
end, taken = time.time() + 0.5, 0
while time.time() < end:
    try:
        hold(path)
    except BadInput:
        continue
    os.mkdir(inside)  # fails if another one is there
    os.rmdir(inside)
    release(path)
    taken += 1
print(taken)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    taken = [int(process.communicate()[0] or 0) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0] and sum(taken) > 10

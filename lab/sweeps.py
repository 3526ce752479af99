"""Run scripts with constants as processes, one after another.

Skips what is complete, goes on after a failure.
"""

import ast
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lab import defaults
from lab.constants import constants_of, is_bookkeeping, override_constants
from lab.errors import BadInput


@dataclass(frozen=True)
class Job:
    """One run of a script: `run` becomes its RUN_NAME, `constants` are NAME=value arguments."""

    run: str
    script: Path
    constants: tuple[str, ...]


def merge_constants(*parts: Sequence[str]) -> tuple[str, ...]:
    """NAME=value arguments of which a later one replaces an earlier one of the same name."""
    merged = {argument.split("=", 1)[0]: argument for part in parts for argument in part}
    return tuple(merged.values())


def is_complete(job: Job) -> bool:
    """True if the run's eval.json was made with the constants that the job would run with now."""
    return _made_with(job, job.script.parent / "results" / job.run / "eval.json", is_procedure)


def is_procedure(name: str) -> bool:
    """True for constants that change neither what a run learns nor how it is evaluated."""
    return is_bookkeeping(name) and not name.startswith(("EVAL_", "NUM_EVAL_"))


def constants_as_run(job: Job) -> dict[str, Any]:
    """All constants of the job's script, read from its first cell, with the job's own in their place.

    Raises BadInput for a constant that the script does not have, or of another type.
    """
    first_cell = job.script.read_text(encoding="utf-8").split("\n# %%")[:2]
    found: dict[str, Any] = {}
    for node in ast.parse("\n# %%".join(first_cell)).body:
        if isinstance(node, ast.ImportFrom) and node.module == defaults.__name__:
            found |= {alias.name: getattr(defaults, alias.name) for alias in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            # what is computed is no constant
            with contextlib.suppress(ValueError):
                found[node.targets[0].id] = ast.literal_eval(node.value)
    override_constants(found, list(job.constants))
    return constants_of(found)


def _made_with(job: Job, path: Path, aside: Callable[[str], bool]) -> bool:
    """True if the JSON file is there and its "constants" are those of the job.

    What stands `aside` does not count.
    """
    try:
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["constants"]
    except (OSError, ValueError, KeyError):
        return False
    # tuples are lists in JSON
    now = json.loads(json.dumps(constants_as_run(job)))
    return all(
        name in saved and name in now and saved[name] == now[name]
        for name in saved.keys() | now.keys()
        if not aside(name)
    )


def run_jobs(jobs: Sequence[Job], logs: Path) -> list[Job]:
    """Run the jobs that are not complete, with a progress bar and the time left; returns those that failed.

    What a job prints goes to logs/<run>.log. Raises BadInput for two jobs of one name.
    """
    if len({job.run for job in jobs}) < len(jobs):
        raise BadInput("two runs of the sweep have the same name; make the names of its conditions distinct")
    open_jobs = [job for job in jobs if not is_complete(job)]
    if len(open_jobs) < len(jobs):
        print(f"{len(jobs) - len(open_jobs)} of {len(jobs)} runs are complete already")
    logs.mkdir(parents=True, exist_ok=True)
    failed = []
    for job in tqdm(open_jobs, desc="sweep", unit="run"):
        # a finished checkpoint of other constants is trained again; an interrupted run, or one without
        # evaluation, goes on
        config = job.script.parent / "checkpoints" / job.run / "config.json"
        resume = not config.exists() or _made_with(job, config, is_bookkeeping)
        if not resume:
            # a run does not overwrite another by itself
            config.unlink()
        command = [sys.executable, job.script.name, f"RUN_NAME={job.run}", f"RESUME={resume}", *job.constants]
        with (logs / f"{job.run}.log").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(command, cwd=job.script.parent, stdout=log, stderr=subprocess.STDOUT)
            try:
                process.wait()
            except KeyboardInterrupt:  # the run got it, too: let it save its last step
                process.wait()
                raise
        if process.returncode or not is_complete(job):
            failed.append(job)
            tqdm.write(f"failed: {job.run} (see {logs / job.run}.log)")
    return failed

"""Run scripts with constants as processes, one after another: skip what is complete, go on after a failure."""

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

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
    """True if the run's eval.json is there and was made with the job's constants."""
    return _made_with(job, job.script.parent / "results" / job.run / "eval.json")


def _made_with(job: Job, path: Path) -> bool:
    """True if the JSON file is there and its "constants" are the job's."""
    try:
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["constants"]
    except (OSError, ValueError, KeyError):
        return False
    return all(_same(saved, *constant.split("=", 1)) for constant in job.constants)


def _same(saved: dict[str, Any], name: str, text: str) -> bool:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    return name in saved and saved[name] in (text, json.loads(json.dumps(value)))  # tuples are lists in JSON


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
        # a finished checkpoint of other constants is trained again; an interrupted run, or one without evaluation, goes on
        config = job.script.parent / "checkpoints" / job.run / "config.json"
        resume = not config.exists() or _made_with(job, config)
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

"""Run scripts with constants as processes, one or a few at a time, and sum up what came out over seeds.

Skips what is complete, goes on after a failure.
"""

import ast
import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lab import defaults
from lab.constants import constants_of, is_bookkeeping, override_constants
from lab.errors import BadInput
from lab.files import read_object, write_json, write_text
from lab.lock import held, hold, working_on
from lab.plots import plot_comparison
from lab.results import ResultsCache
from lab.runs import CONFIG, saved_constants
from lab.tables import Column, seed_table


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
    result = job.script.parent / "results" / job.run / "eval.json"
    try:
        saved = read_object(result, constants=dict)["constants"]
    # what is damaged is made again
    except (OSError, BadInput):
        return False
    return _made_with(job, saved, is_procedure)


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
    return {**constants_of(found), "SCRIPT": job.script.stem}


def _made_with(job: Job, saved: Mapping[str, Any], aside: Callable[[str], bool]) -> bool:
    """True if the `saved` constants are those of the job. What stands `aside` does not count."""
    # tuples are lists in JSON
    now = json.loads(json.dumps(constants_as_run(job)))
    return all(
        name in saved and name in now and saved[name] == now[name]
        for name in saved.keys() | now.keys()
        if not aside(name)
    )


def run_jobs(
    jobs: Sequence[Job], logs: Path, workers: int = 1, finished: Callable[[Job], None] | None = None
) -> list[Job]:
    """Run the jobs that are not complete, with a progress bar and the time left; returns those that failed.

    What a job prints goes to logs/<run>.log. `workers` run at a time and share the cores: two processes of
    one thread each do more than one of two. `finished` is called with every job that is complete, also those
    that were before. Raises BadInput for two jobs of one name.
    """
    if len({job.run for job in jobs}) < len(jobs):
        raise BadInput("two runs of the sweep have the same name; make the names of its conditions distinct")
    complete = [job for job in jobs if is_complete(job)]
    open_jobs = [job for job in jobs if job not in complete]
    if complete:
        print(f"{len(complete)} of {len(jobs)} runs are complete already")
    for job in complete if finished else ():
        finished(job)
    logs.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if workers > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    failed = []
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(_run, job, logs / f"{job.run}.log", environment): job for job in open_jobs}
        try:
            for future in tqdm(as_completed(running), total=len(running), desc="sweep", unit="run"):
                job, reason = running[future], future.result()
                if reason or not is_complete(job):
                    failed.append(job)
                    tqdm.write(f"failed: {job.run} ({reason or f'see {logs / job.run}.log'})")
                elif finished:
                    finished(job)
        except BaseException:
            # nothing more is started; after Ctrl-C, which the runs got, too, they save their last step
            pool.shutdown(cancel_futures=True)
            raise
    return [job for job in jobs if job in failed]


def _run(job: Job, log: Path, environment: Mapping[str, str]) -> str | None:
    """Run a job as a process; returns why it failed."""
    try:
        return _run_as_process(job, log, environment)
    # the others go on
    except (BadInput, OSError) as error:
        return str(error)


def _run_as_process(job: Job, log: Path, environment: Mapping[str, str]) -> str | None:
    # after a kill of a sweep its runs go on
    if reason := working_on(job.script.parent / "results" / job.run):
        return reason
    # and may have ended since they were looked at
    if is_complete(job):
        return None
    # a run of other constants is trained again; one that was interrupted, or not evaluated, goes on
    checkpoint = job.script.parent / "checkpoints" / job.run
    saved = saved_constants(checkpoint)
    resume = saved is None or _made_with(job, saved, is_bookkeeping)
    if not resume:
        # a run does not overwrite another, nor does a sweep: its name is needed, and it may have taken hours
        for folder in (checkpoint, job.script.parent / "results" / job.run):
            _put_aside(folder)
    command = [sys.executable, job.script.name, f"RUN_NAME={job.run}", *job.constants]
    # what takes a minute cannot be resumed
    if "RESUME" in constants_as_run(job):
        command.append(f"RESUME={resume}")
    with log.open("w", encoding="utf-8") as output:
        code = subprocess.run(
            command, cwd=job.script.parent, env=environment, stdout=output, stderr=subprocess.STDOUT
        ).returncode
    return f"see {log}" if code else None


def _put_aside(folder: Path) -> None:
    """Give a folder another name, with a number behind it."""
    if folder.exists():
        numbered = (folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
        aside = next(other for other in numbered if not other.exists())
        folder.rename(aside)
        tqdm.write(f"{folder} is of other constants; it is {aside.name} now")


def run_sweep(
    folder: Path,
    columns: Sequence[Column],
    seeds: Sequence[int],
    adapter_types: Sequence[str],
    conditions: Sequence[tuple[str, str, Sequence[str]]],
    common: Sequence[str],
    evaluation: Sequence[str],
    output: str,
) -> None:
    """Train conditions x adapter types x seeds in a data set's folder; then eval_multi.py, table and figure.

    A condition is (name, script, constants). Evaluation is the same for all runs. Writes, under `folder`,
    results/<output>_{results,summary}.json and _table.md, and plots/<output>_plot.png and _seeds_plot.png.
    Exits with a message that names the runs that failed, after the others are finished. Raises BadInput if
    another process makes a sweep of this `output`.
    """
    jobs = {
        (adapter_type, name, seed): Job(
            f"{output}_{name}_{adapter_type}_seed{seed}",
            folder / script,
            merge_constants(common, constants, [f"ADAPTER_TYPE={adapter_type}", f"SEED={seed}"]),
        )
        for seed in seeds
        for adapter_type in adapter_types
        for name, script, constants in conditions
    }
    logs = folder / "results" / f"{output}_logs"
    hold(folder / "results" / output)
    for job in jobs.values():
        # what cannot be evaluated is trained again, or the table would show what it was once
        if is_complete(job) and not (folder / "checkpoints" / job.run / CONFIG).exists():
            (folder / "results" / job.run / "eval.json").unlink()
    failed = run_jobs(list(jobs.values()), logs)
    names = [job.run for job in jobs.values() if job not in failed]
    if not names:
        sys.exit(f"every run failed; see {logs}")
    arguments = [f"RUN_NAMES={names}", f"OUTPUT={output}", *evaluation]
    subprocess.run([sys.executable, "eval_multi.py", *arguments], cwd=folder, check=True)

    # The table: mean and range over seeds (of one seed: its 95% interval).
    # What failed may have older results.
    results = folder / "results" / f"{output}_results.json"
    # let go of again: in a notebook this process lives on
    with held(results):
        stored = ResultsCache(results).entries
    groups = {
        f"{name}, {adapter_type}": [
            stored[job.run]
            for (kind, other, _), job in jobs.items()
            if (kind, other) == (adapter_type, name) and job.run in names
        ]
        for adapter_type in adapter_types
        for name, _, _ in conditions
    }
    table, summary = seed_table({label: entries for label, entries in groups.items() if entries}, columns)
    print(f"\n{table}")
    write_json(folder / "results" / f"{output}_summary.json", summary)
    write_text(folder / "results" / f"{output}_table.md", table + "\n")
    compared = {label: {"label": label, "modes": modes} for label, modes in summary.items()}
    spread = "mean and range over seeds" if len(seeds) > 1 else "95% interval"
    figure = folder / "plots" / f"{output}_seeds_plot.png"
    plot_comparison(compared, [job.run for job in failed], columns, figure, spread)
    if failed:
        sys.exit(f"failed: {', '.join(job.run for job in failed)}; run the sweep again to try only these")

"""A run: its name, its constants, and the folders beside the script that its files go to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab.constants import Constants, is_bookkeeping
from lab.errors import BadInput
from lab.files import is_writer, read_object, remove_leftovers, write_json
from lab.lock import hold
from lab.trackers import report, track

CONFIG = "config.json"
# the constants of a run that has begun and not ended
STARTED = "started.json"


@dataclass(frozen=True)
class Run:
    """One run of a script.

    Its outputs lie in folder/checkpoints/name, folder/results/name and folder/plots.
    """

    name: str
    folder: Path
    constants: dict[str, Any]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / self.name

    @property
    def results(self) -> Path:
        return self.folder / "results" / self.name

    def plot(self, what: str) -> Path:
        return self.folder / "plots" / f"{self.name}_{what}.png"

    def part(self, what: str) -> "Run":
        """A part of this run that has a checkpoint of its own, inside the run's folder."""
        return replace(self, name=f"{self.name}/{what}")


def open_run(
    script: str, variant: str, constants: Constants, name_parts: Mapping[str, str], report_to: str = ""
) -> Run:
    """The run of `script` (its `__file__`) with these constants. RUN_NAME names it, or else `run_name`.

    Its constants get one more, SCRIPT: two scripts may differ in nothing else. `report_to` is a tracker that
    gets its numbers as well (lab/trackers.py). Raises BadInput for a number that is too small, for a tracker
    that is not there, if a run of that name has other constants, and if another process is working on it:
    nothing is overwritten silently. From here on this process holds the run (`lab.lock`)."""
    for name, value in constants.items():
        counts = "NUM_" in name or name.endswith("REPEATS") or name in COUNTS
        least = 2 if name.endswith("SEQ_LENGTH") else 1 if counts else None
        if least is not None and value < least:
            raise BadInput(f"{name}={value}: give a number from {least} up")
        if "_UPDATES_" in name and not 0 <= value <= 1:
            raise BadInput(f"{name}={value}: give a share between 0.0 and 1.0")
        if name.endswith("TIMEOUT") and value <= 0:
            raise BadInput(f"{name}={value}: give seconds, more than 0")
    name = constants["RUN_NAME"] or run_name(variant, constants, name_parts)
    run = Run(name, Path(script).parent, {**constants, "SCRIPT": Path(script).stem})
    track(report_to, run.results, run.name, run.folder.resolve().name, run.constants)
    hold(run.results)
    if is_writer():
        remove_leftovers(run.checkpoint)
        remove_leftovers(run.results)
    if not constants["RESUME"]:
        refuse_to_overwrite(run)
    return run


COUNTS = ("MAX_STEPS", "BATCH_SIZE", "SAVE_EVERY", "MEASURE_EVERY", "EVAL_NEW_TOKENS")


def write_results(run: Run, results: Mapping[str, Any]) -> None:
    """Write what the run's evaluation found, and its constants, to results/<run>/eval.json."""
    file = run.results / "eval.json"
    write_json(file, {**results, "constants": run.constants})
    report(file, results)


def saved_constants(folder: Path) -> dict[str, Any] | None:
    """The constants of the run in a checkpoint's folder, finished or not; None if there is no run."""
    for file in (STARTED, CONFIG):
        if (folder / file).exists():
            return read_object(folder / file, "train the run again: delete that folder", constants=dict)[
                "constants"
            ]
    return None


def refuse_other_results(output: Path, constants: Mapping[str, Any]) -> None:
    """Raise BadInput if the JSON file `output` is there, and was made with other constants."""
    if output.exists():
        saved = read_object(output, "delete it", constants=dict)["constants"]
        refuse_other_constants(output, saved, constants, "Delete that file")


def refuse_to_overwrite(run: Run) -> None:
    """Raise BadInput if another run, one of other constants, lies in this run's folder."""
    saved = saved_constants(run.checkpoint)
    if saved is not None:
        refuse_other_constants(run.checkpoint, saved, run.constants)


def run_name(variant: str, constants: Constants, name_parts: Mapping[str, str]) -> str:
    """A run's name, built from what distinguishes it: "route_lora32+32_caps10_labeled50_seed0".

    Variant, adapter type and dimensions, and seed are always there, and so are the percentages in
    `name_parts` (constant -> what it is called in the name). Every other constant that was overridden from
    the shell is added, unless it only concerns evaluation or bookkeeping."""
    kind = constants["ADAPTER_TYPE"]
    dims = [name for name in constants if name.endswith("LORA_RANK" if kind == "lora" else "ADAPTER_DIM")]
    parts = [variant, kind + "+".join(str(constants[name]) for name in dims)]
    parts += [f"{short}{100 * constants[name]:g}" for name, short in name_parts.items()]
    named = {"ADAPTER_TYPE", "SEED", *dims, *name_parts}
    for name in constants.overridden:
        if name not in named and not is_bookkeeping(name):
            value = constants[name]
            # of a path or Hub id its last part
            plain = Path(value).name.removesuffix(".jsonl") if isinstance(value, str) else f"{value}"
            parts.append(f"{name.lower().replace('_', '-')}{plain.replace(':', '-')}")
    return "_".join([*parts, f"seed{constants['SEED']}"])


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config. Raises BadInput if there is none, or if it is damaged."""
    if not (folder / CONFIG).exists():
        raise BadInput(f"{folder}: no checkpoint here (no {CONFIG}); train first, or correct the path")
    texts = dict.fromkeys(("model", "base_signature", "base_dtype", "weights_sha256"), str)
    advice = "put back what was there, or train the run again"
    return read_object(folder / CONFIG, advice, adapter=dict, constants=dict, **texts)


def refuse_other_constants(
    folder: Path,
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    advice: str = "Give this run another RUN_NAME, or delete that folder",
) -> None:
    """Raise BadInput, naming the differences, if what is in `folder` has other constants than `now`."""
    # tuples are lists in JSON
    saved, now = json.loads(json.dumps(saved)), json.loads(json.dumps(now))
    differing = [
        f"{name} was {saved.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(set(saved) | set(now))
        if saved.get(name) != now.get(name) and not is_bookkeeping(name)
    ]
    if differing:
        raise BadInput(f"{folder} holds a run with other constants: {'; '.join(differing)}. {advice}")

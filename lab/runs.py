"""A run: its name, its constants, and the folders beside the script that its files go to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab.constants import Constants, is_bookkeeping
from lab.errors import BadInput

CONFIG = "config.json"


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
        """A part of this run that has a checkpoint of its own."""
        return replace(self, name=f"{self.name}_{what}")


def open_run(script: str, variant: str, constants: Constants, name_parts: Mapping[str, str]) -> Run:
    """The run of `script` (its `__file__`) with these constants. RUN_NAME names it, or else `run_name`.

    Raises BadInput for a count below 1, and if a finished run of that name has other constants: nothing is
    overwritten silently."""
    for name, value in constants.items():
        if ("NUM_" in name or name in COUNTS) and value < 1:
            raise BadInput(f"{name}={value}: give a number from 1 up")
    name = constants["RUN_NAME"] or run_name(variant, constants, name_parts)
    run = Run(name, Path(script).parent, dict(constants))
    if (run.checkpoint / CONFIG).exists() and not constants["RESUME"]:
        refuse_other_constants(run.checkpoint, read_config(run.checkpoint)["constants"], constants)
    return run


COUNTS = ("MAX_STEPS", "BATCH_SIZE", "SAVE_EVERY", "EVAL_NEW_TOKENS")


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
    """A checkpoint's config. Raises BadInput if there is none."""
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(
            f"{folder}: no checkpoint here (no {CONFIG}); train first, or correct the path"
        ) from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{folder / CONFIG} is not valid JSON ({error}); train the run again") from None


def refuse_other_constants(folder: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise BadInput, naming the differences, if the run in `folder` has other constants than `now`."""
    # tuples are lists in JSON
    saved, now = json.loads(json.dumps(saved)), json.loads(json.dumps(now))
    differing = [
        f"{name} was {saved.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(set(saved) | set(now))
        if saved.get(name) != now.get(name) and not is_bookkeeping(name)
    ]
    if differing:
        raise BadInput(
            f"{folder} holds a run with other constants: {'; '.join(differing)}. "
            "Give this run another RUN_NAME, or delete that folder"
        )

"""Which checkpoints a comparison evaluates, and in which ablation modes.

What is typed is checked against the checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lab.errors import BadInput
from lab.runs import CONFIG, read_config

EvalMode = tuple[float, float, str]


@dataclass
class RunConfig:
    """One checkpoint to evaluate. Name and path are enough: type and dimensions are read from the checkpoint.

    Those that are given are compared with it. `eval_modes`: [(good_scale, bad_scale, mode_name), ...], by
    default DEFAULT_MODES; the label in tables and figures is by default the name."""

    name: str
    checkpoint_path: str
    adapter_type: str | None = None
    good_dim: int | None = None
    bad_dim: int | None = None
    eval_modes: Sequence[EvalMode] | None = None
    label: str = ""

    DIM_NAMES: ClassVar[tuple[str, str]] = ("good_dim", "bad_dim")
    DEFAULT_MODES: ClassVar[tuple[EvalMode, ...]] = (
        (1.0, 1.0, "full"),
        (1.0, 0.0, "bad_ablated"),
        (0.0, 1.0, "good_ablated"),
    )

    def __post_init__(self):
        if self.eval_modes is None:
            self.eval_modes = list(self.DEFAULT_MODES)
        self.label = self.label or self.name


def has_checkpoint(folder: Path) -> bool:
    return (folder / CONFIG).exists()


def described_dims(config: Mapping[str, Any]) -> tuple[str, int, int]:
    """(adapter type, good dimension, bad dimension) of a checkpoint's config."""
    adapter = config["adapter"]
    try:
        return adapter["type"], adapter["good_dim"], adapter["bad_dim"]
    except KeyError as error:
        raise BadInput(
            f"{CONFIG} of {config['model']}: no {error} of the adapter; train the run again"
        ) from None


def check_run(run: RunConfig, folder: Path) -> None:
    """Raise BadInput, naming both sides, if a RunConfig and its checkpoint's config do not agree."""
    names = ("adapter_type", *run.DIM_NAMES)
    given = dict(zip(names, (run.adapter_type, run.good_dim, run.bad_dim), strict=True))
    there = dict(zip(names, described_dims(read_config(folder)), strict=True))
    wrong = [name for name in names if given[name] is not None and given[name] != there[name]]
    if wrong:
        says, has = (", ".join(f"{name}={side[name]!r}" for name in wrong) for side in (given, there))
        raise BadInput(f"RUNS: {run.name!r} says {says}, but its checkpoint has {has}; correct the RunConfig")


def check_names(runs: Sequence[RunConfig]) -> None:
    """Raise BadInput if two runs, or two modes of a run, share a name.

    No mode may be called "base" either: it is always there.
    """
    groups = {"RUNS": [run.name for run in runs]}
    groups |= {
        f"eval_modes of {run.name!r}": [*(name for _, _, name in run.eval_modes), "base"] for run in runs
    }
    for what, names in groups.items():
        if len(set(names)) < len(names):
            raise BadInput(
                f"{what}: each name may stand there once (base adds itself); got {', '.join(names)}"
            )

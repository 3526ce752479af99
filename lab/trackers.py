"""REPORT_TO: what a run writes to train.jsonl and eval.json, sent to a tracker as well.

Files and figures are always written, and need none of these (extra `trackers`). A process tracks one run at
a time. A tracker that fails costs one line on stderr, never the run.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from lab.errors import BadInput
from lab.files import is_writer

# sends numbers, by name, of one line of a log: (the log's name, numbers, step or None)
Send = Callable[[str, dict[str, float], int | None], None]


@dataclass
class Tracked:
    """The run that is tracked. Its tracker is opened with the first numbers: a run may not get that far."""

    kind: str
    folder: Path
    name: str
    project: str
    constants: Mapping[str, Any]
    send: Send | None = None
    close: Callable[[], Any] = lambda: None


_tracked: Tracked | None = None


def track(kind: str, folder: Path, name: str, project: str, constants: Mapping[str, Any]) -> None:
    """From here on `report` sends what is written under `folder` to the tracker `kind`; "" is none.

    A run that was tracked before is closed. Raises BadInput if `kind` is unknown or not installed.
    """
    global _tracked
    if kind and kind not in OPEN:
        raise BadInput(f"REPORT_TO={kind!r}: choose '' or one of {', '.join(map(repr, OPEN))}")
    if kind and importlib.util.find_spec(kind) is None:
        raise BadInput(f"REPORT_TO={kind!r}: {kind} is not installed; `uv sync --extra trackers` brings it")
    if _tracked is not None:
        _try(_tracked.close)
    _tracked = Tracked(kind, folder, name, project, constants) if kind and is_writer() else None


def report(file: Path, values: Mapping[str, Any], step: int | None = None) -> None:
    """Send the numbers in `values`, which `file` got, if its run is tracked.

    Their names are those of the file and of the keys: "train/loss_by_kind/caps".
    """
    if _tracked is None or _tracked.folder not in file.parents:
        return
    log = file.relative_to(_tracked.folder).with_suffix("").as_posix()
    _try(_send, _tracked, log, dict(numbers_in(values, log)), step)


def numbers_in(values: Any, name: str) -> Iterator[tuple[str, float]]:
    """The numbers in nested mappings, each with its path; lists, texts, truth values and None are none."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from numbers_in(value, f"{name}/{key}")
    elif isinstance(values, Real) and not isinstance(values, bool):
        yield name, float(values)


def _send(run: Tracked, log: str, numbers: dict[str, float], step: int | None) -> None:
    if run.send is None:
        run.send, run.close = OPEN[run.kind](run)
    run.send(log, numbers, step)


def _try(call: Callable[..., Any], *arguments: Any) -> None:
    global _tracked
    try:
        call(*arguments)
    except Exception as error:
        print(
            f"warning: {_tracked.kind} failed ({type(error).__name__}: {error}); the run goes on without it, "
            "its files are complete",
            file=sys.stderr,
        )
        _tracked = None


def _tensorboard(run: Tracked) -> tuple[Send, Callable[[], Any]]:
    from tensorboard.summary import Writer

    writer = Writer(str(run.folder / "tensorboard"))

    def send(log: str, numbers: dict[str, float], step: int | None) -> None:
        for name, number in numbers.items():
            writer.add_scalar(name, number, step or 0)
        writer.flush()

    return send, writer.close


def _trackio(run: Tracked) -> tuple[Send, Callable[[], Any]]:
    import trackio

    resume = "allow" if run.constants.get("RESUME") else "never"
    trackio.init(
        run.project, run.name, config=dict(run.constants), resume=resume,
        embed=False, auto_log_gpu=False, auto_log_cpu=False,
    )  # fmt: skip
    return lambda log, numbers, step: trackio.log(numbers, step), trackio.finish


def _wandb(run: Tracked) -> tuple[Send, Callable[[], Any]]:
    import wandb

    project = os.environ.get("WANDB_PROJECT", run.project)
    opened = wandb.init(project=project, name=run.name, config=dict(run.constants), dir=run.folder)
    logs = set()

    def send(log: str, numbers: dict[str, float], step: int | None) -> None:
        # every log counts its own steps: W&B's single count must not go back
        if step is not None and log not in logs:
            opened.define_metric(f"{log}/*", step_metric=f"{log}/step")
            logs.add(log)
        opened.log(numbers if step is None else {**numbers, f"{log}/step": step})

    return send, opened.finish


# what REPORT_TO may be -> opens it; each is also the module's name
OPEN = {"trackio": _trackio, "wandb": _wandb, "tensorboard": _tensorboard}

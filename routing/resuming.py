"""Runs of transformers' Trainers that can be stopped at any moment and go on from there, bit for bit.

A Trainer's checkpoint is a folder of several files that are written one after another: adapters, optimizer,
schedule, random state, position and log. Here it counts only once all of them are there.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lab.errors import BadInput
from lab.files import fingerprint, read_object, write_json
from lab.runs import CONFIG, STARTED, Run, refuse_to_overwrite
from routing.checkpoints import WEIGHTS, load_adapters, write_checkpoint
from routing.distributed import from_main, gathered, is_main
from routing.notebooks import begin_again
from routing.stopping import stopped_by
from routing.stream import deferred_interrupts

# of a checkpoint's folder: the hash of every other file in it
COMPLETE = "complete.json"
# checkpoints that are kept: while one is written the one before is there
KEPT = 2


def file_hashes(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of the files in a checkpoint's folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != COMPLETE)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def is_complete(folder: Path) -> bool:
    """Whether this checkpoint was written to its end, and every file is still what it was then."""
    try:
        marked = read_object(folder / COMPLETE)
        return bool(marked) and marked == file_hashes(folder)
    except (OSError, BadInput):
        return False


def checkpoints_in(folder: Path) -> list[Path]:
    """The Trainer's checkpoints in `folder`, complete or not, those of fewer steps first."""
    return sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-[0-9]*"), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the most steps; None if there is none."""
    return next((path for path in reversed(checkpoints_in(folder)) if is_complete(path)), None)


class Checkpoints(TrainerCallback):
    """Marks checkpoints that are complete, and saves one at the end of a step in which a signal came."""

    def __init__(self, signals: Sequence[int]):
        self.signals, self.interrupted = signals, False

    def on_step_end(self, args, state, control, **kwargs):
        # a signal may reach the processes in different steps
        if any(gathered([bool(self.signals)])):
            self.interrupted = control.should_save = control.should_training_stop = True
        return control

    def on_save(self, args, state, control, **kwargs):
        # here every process has written its files
        gathered([state.global_step])
        if is_main():
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            write_json(folder / COMPLETE, file_hashes(folder))
            # by number of steps: after a clock was set back the Trainer would delete the newest one
            for old in checkpoints_in(folder.parent)[:-KEPT]:
                shutil.rmtree(old)


def train_to_end(trainer: Trainer, run: Run, **more: Any) -> str | None:
    """Train, and leave the run's checkpoint; with RESUME go on from where the run was interrupted.

    `trainer` is one of `routing.trainer` or `routing.trl` that saves into run.checkpoint. Adapters,
    optimizer, random state, position and history of logs come back. So the run ends bit for bit as if it had
    not stopped, if its rows come in one order and in one epoch. Ctrl-C and SIGTERM let the step end, save it,
    and raise KeyboardInterrupt. What is left in the end is what `save_checkpoint` leaves, with `more` in its
    config; the Trainer's checkpoints go. A finished run is loaded and not trained again.

    Returns the reason if a guard (`routing.stopping`) ended it. Raises BadInput if the run has other
    constants, or other rows."""
    folder, model = run.checkpoint, trainer.model
    refuse_to_overwrite(run)
    data = fingerprint(json.dumps(row, sort_keys=True, default=str) for row in trainer.train_dataset)
    if run.constants["RESUME"] and from_main((folder / CONFIG).exists):
        config = load_adapters(folder, model)
        refuse_other_rows(folder, config, data)
        stopped = config["stopped"]
    else:
        found = from_main(lambda: _begin(run, data))
        if not found:
            begin_again(model, run.name)
        stopped = _train(trainer, found)
        write_checkpoint(folder, model, run.constants, data, stopped=stopped, **more)
    if is_main():
        for old in checkpoints_in(folder):
            shutil.rmtree(old)
        (folder / STARTED).unlink(missing_ok=True)
    return stopped


def _train(trainer: Trainer, found: Path | None) -> str | None:
    """Train from the checkpoint `found` to the end; returns what a guard says that the end is."""
    if found:
        state = json.loads((found / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        stopped = stopped_by(state["log_history"])
        if stopped:
            # it was saved, and the process died before the run's checkpoint was written
            load_adapters(found, trainer.model)
            return stopped
    # the frame of this function: what runs in it is let finish its step
    with deferred_interrupts(sys._getframe()) as signals:
        checkpoints = Checkpoints(signals)
        trainer.add_callback(checkpoints)
        trainer.train(resume_from_checkpoint=str(found) if found else None)
        trainer.remove_callback(checkpoints)
    # also a signal that came after the last step: it is not to be swallowed
    if checkpoints.interrupted or any(gathered([bool(signals)])):
        step = trainer.state.global_step
        raise KeyboardInterrupt(f"after step {step}; RESUME=True goes on from there")
    return stopped_by(trainer.state.log_history)


def _begin(run: Run, data: str) -> Path | None:
    """Return what the run goes on from, and take away what must not be taken for it."""
    folder, found = run.checkpoint, None
    if run.constants["RESUME"]:
        found = latest_checkpoint(folder)
        if found is None:
            print(f"{folder}: nothing to resume; starting at the first step")
        else:
            started = read_object(folder / STARTED, "train afresh: delete that folder", data_fingerprint=str)
            refuse_other_rows(folder, started, data)
    for file in (CONFIG, WEIGHTS):
        (folder / file).unlink(missing_ok=True)
    for old in checkpoints_in(folder):
        if found is None or not is_complete(old):
            shutil.rmtree(old)
    # from here on a resume goes on with this run, not with an older one of the same name
    write_json(folder / STARTED, {"constants": run.constants, "data_fingerprint": data})
    return found


def refuse_other_rows(folder: Path, saved: Mapping[str, Any], data: str) -> None:
    """Raise BadInput unless what was `saved` in `folder` was trained on rows with the fingerprint `data`."""
    if saved["data_fingerprint"] != data:
        raise BadInput(
            f"{folder} was trained on other rows than these: the data has changed. "
            "Put it back, or train afresh: delete that folder"
        )

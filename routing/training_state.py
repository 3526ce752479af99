"""What an interrupted run goes on from: a file that says where it was, written and read with care."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lab.errors import BadInput
from lab.files import atomic_write, write_json
from lab.runs import CONFIG, STARTED, Run, read_config, refuse_other_constants
from routing.checkpoints import (
    TRAINING_STATE,
    adapter_state,
    base_dtype,
    base_signature,
    copy_strictly,
    load_adapters,
)
from routing.distributed import from_main, is_main

STATE = {"step", "base", "constants", "data_fingerprint", "adapters", "optimizer", "rng", "cuda_rng"}
# what the base of a state may differ in -> what to do about it
BASE = {"weights": "put that base back, or train afresh", "dtype": "give DTYPE the one that it was"}


def save_training_state(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, data_fingerprint: str
) -> None:
    """Everything needed to go on after `step` steps, in one file, atomically."""
    # of a sharded base every process has a part
    signature = base_signature(model)
    if not is_main():
        return
    state = {
        "step": step,
        "base": [signature, base_dtype(model)],
        "constants": run.constants,
        "data_fingerprint": data_fingerprint,
        "adapters": adapter_state(model),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }
    write_json(run.checkpoint / STARTED, {"constants": run.constants})
    # by way of memory: torch has no errno for a full disk
    written = io.BytesIO()
    torch.save(state, written)
    with atomic_write(run.checkpoint / TRAINING_STATE) as temporary:
        temporary.write_bytes(written.getbuffer())


def read_training_state(path: Path) -> dict[str, Any]:
    """What `save_training_state` wrote. Nothing that is in the file is run as code.

    Raises BadInput for a file that is damaged, or holds anything else than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as file:
            # torch itself looks at no checksum
            damaged = file.testzip()
        state = torch.load(path, map_location="cpu", weights_only=True)
        if damaged or state.keys() != STATE:
            raise ValueError(damaged or "other entries")
    # pickles and archives fail in a dozen ways
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"{path} is damaged, or no training state ({reason}); put back what was there, "
            "or delete it, and RESUME=True trains from the first step"
        ) from None
    return state


def load_training_state(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, data_fingerprint: str
) -> int:
    """Restore the last saved state and return the number of finished steps.

    That is 0, with a notice, if nothing was saved. A run that finished keeps only its checkpoint: its
    adapters are loaded and `steps` returned. Raises BadInput if the run was trained with other constants, on
    other examples, or over another base (or one of another dtype, which DTYPE="auto" measures anew). Of
    several processes the first one reads for all: the others may have no such folder.
    """
    saved = run.checkpoint / TRAINING_STATE
    unfinished = from_main(saved.exists)
    if unfinished:
        state = from_main(lambda: read_training_state(saved))
    # a checkpoint beside a run that is started is an older one
    elif from_main(lambda: (run.checkpoint / CONFIG).exists() and not (run.checkpoint / STARTED).exists()):
        state = from_main(lambda: read_config(run.checkpoint))
    else:
        print(f"{run.checkpoint}: nothing to resume; starting at the first step")
        return 0
    refuse_other_constants(run.checkpoint, state["constants"], run.constants)
    if state["data_fingerprint"] != data_fingerprint:
        raise BadInput(
            f"{run.checkpoint} was trained on other examples than these: "
            "the data or the tokenizer has changed. "
            "Put them back, or train afresh: delete that folder"
        )
    if not unfinished:
        load_adapters(run.checkpoint, model)
        return steps
    for was, now, what in zip(state["base"], (base_signature(model), base_dtype(model)), BASE, strict=True):
        if was != now:
            raise BadInput(f"{saved} is of a base with other {what} ({was}, here {now}); {BASE[what]}")
    copy_strictly(state["adapters"], adapter_state(model), f"{saved}")
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda_rng"])
    return state["step"]

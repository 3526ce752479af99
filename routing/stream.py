"""The stream of batches of a run: the learning rate's schedule, averaging, interrupts, and resuming.

Averaging is over processes.
"""

import math
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import torch
from torch import nn

from lab.errors import BadInput
from lab.runs import Run, refuse_to_overwrite
from routing.batches import Batch, Example, batch_order, collate
from routing.checkpoints import examples_fingerprint
from routing.distributed import average_gradients, gathered, rank, world_size
from routing.notebooks import begin_again
from routing.training_state import load_training_state, save_training_state


def cosine_schedule(step: int, steps: int, warmup_steps: int = 0) -> float:
    """The factor on the learning rate at `step`, from 0.

    A linear rise over the warm-up, then a cosine to zero at `steps`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def training_stream(
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[Example],
    batch_size: int,
    steps: int,
    warmup_steps: int = 0,
    first: Sequence[int] = (),
) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch) for every step of a run, and keep the run resumable.

    The code between two items is one training step. Before it the learning rates are set: `cosine_schedule`
    times what the optimizer was made with, for all its groups alike. Of several processes each gets its rows
    of the step's batch, the same number on each, and gradients are averaged when the optimizer steps: a step
    is that of one process with the whole batch. Order and labels do not depend on the number of processes.
    The examples with the indices `first` come before all others.

    Every SAVE_EVERY steps, and at the end of the step in which the run is interrupted (Ctrl-C, SIGTERM),
    parameters, optimizer, random state and position go to run.checkpoint. With RESUME the run goes on from
    there, bit for bit as if it had not stopped. A checkpoint of other constants or other examples raises
    BadInput. In a notebook a run that is begun a second time begins again (`begin_again`)."""
    if batch_size % world_size():
        raise BadInput(f"BATCH_SIZE={batch_size}: give a multiple of the number of processes, {world_size()}")
    seed, save_every = run.constants["SEED"], run.constants["SAVE_EVERY"]
    device = next(model.parameters()).device
    if not run.constants["RESUME"]:
        refuse_to_overwrite(run)
    order = batch_order([example.bucket_size for example in examples], batch_size, steps, seed, first)
    data = examples_fingerprint(examples)
    start = load_training_state(run, model, optimizer, steps, data) if run.constants["RESUME"] else 0
    if start == 0:
        begin_again(model, run.name)
        # from here on a resume goes on with this run, not with an older one of the same name
        save_training_state(run, model, optimizer, 0, data)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    averaged = True

    def average(optimizer: torch.optim.Optimizer, *_) -> None:
        # torch may call the hook twice a step: for the optimizer's class, and for the class it inherits from
        nonlocal averaged
        if not averaged:
            average_gradients(p for group in optimizer.param_groups for p in group["params"])
            averaged = True

    hook = optimizer.register_step_pre_hook(average)
    if rank():
        # dropout is to differ between processes
        # (so there a resumed run does not repeat what it would have drawn)
        torch.manual_seed(hash((seed, start, rank())))
    # the frame above: the code that iterates over this generator
    with deferred_interrupts(sys._getframe(1)) as interrupted:
        try:
            for step in range(start, steps):
                rows = order[step][rank() :: world_size()]
                batch = collate([examples[i] for i in rows], device)
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * cosine_schedule(step, steps, warmup_steps)
                counts = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(batch.kinds).items()))
                optimizer.where = f"step {step} (examples: {counts})"
                averaged = False
                yield step, batch
                # a signal may reach the processes in different steps
                stop = any(gathered([bool(interrupted)]))
                if stop or ((step + 1) % save_every == 0 and step + 1 < steps):
                    save_training_state(run, model, optimizer, step + 1, data)
                if stop:
                    raise KeyboardInterrupt(f"after step {step + 1}; RESUME=True goes on from there")
        finally:
            hook.remove()


@contextmanager
def deferred_interrupts(loop: FrameType) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list.

    The code in frame `loop` then does not die in the middle of a step. A second one kills. A signal that
    comes outside that code does what it did before: after an error in a notebook's cell the generator lives
    on, suspended, and must not swallow the user's Ctrl-C.
    """
    received: list[int] = []
    # only the main thread may set handlers
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        restore()
        while frame is not None and frame is not loop:
            frame = frame.f_back
        if frame is loop:
            received.append(number)
        else:
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        restore()

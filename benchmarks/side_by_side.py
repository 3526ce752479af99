"""Runs contestants of a routed step in turns: all in one process, or each in a process of its own."""

import copy
import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from common import emit, interleave, make_model, median, mixed_batch, peak_memory_mb, ratio
from contestants import CONTESTANTS, Step
from torch import nn

from routing.batches import Batch


def workload(shape: str, layers: int | None, batch: int, tokens: int) -> tuple[nn.Module, Batch]:
    """The frozen model and the mixed batch that all contestants get."""
    model = make_model(shape, layers)
    return model, mixed_batch(model.config.vocab_size, batch, tokens, model.device)


def here(name: str, rank: int, alpha: float, model: nn.Module, batch: Batch) -> tuple[Step, Callable]:
    """The contestant's step and what measures its peak memory, in this process.

    All share the model's weights.
    """
    frozen = {id(p): p for p in model.parameters()}  # deepcopy keeps what is in its memo
    step = CONTESTANTS[name](copy.deepcopy(model, frozen), batch, rank, alpha)
    return step, lambda: peak_memory_mb(step)


def apart(name: str, rank: int, alpha: float, *setting: Any) -> tuple[Step, Callable]:
    """The same in a process of its own, as a user would run it.

    On a CPU it matters what else has run in a process: large tensors are mapped afresh each time, or not,
    depending on the allocator's history, which changes PEFT's time by a fifth."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=serve, args=(theirs, name, rank, alpha, *setting), daemon=True).start()
    theirs.close()

    def ask(number: int) -> Any:
        try:
            ours.send(number)
            answer = ours.recv()
        except (EOFError, OSError):
            answer = "its process ended"
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    return lambda: ask(0), lambda: ask(1)


def serve(connection: Connection, name: str, rank: int, alpha: float, *setting: Any) -> None:
    """In the contestant's process: run what is asked for, until nobody asks any more.

    0 is a step, 1 the same for its memory.
    """
    actions = None
    with suppress(EOFError):
        while True:
            number = connection.recv()
            try:
                actions = actions or here(name, rank, alpha, *workload(*setting))
                connection.send(actions[number]())
            except Exception as error:
                connection.send(f"{type(error).__name__}: {error}")


def measure(
    names: Sequence[str],
    shape: str,
    layers: int | None = None,
    batch: int = 8,
    tokens: int = 64,
    rank: int = 32,
    rounds: int = 5,
    own_process: bool = False,
    alpha: float | None = None,
) -> dict[str, dict]:
    """{name: {"tokens_per_s", "peak_memory_mb", "seconds", "time_over_ours"}} of interleaved steps.

    What cannot run here says why. `names` begins with "ours". `rank` is that of each of the two adapters; the
    others get the sum. What an adapter contributes is multiplied by alpha / rank in all of them (`alpha`:
    default rank). All run in this process, or each in its own.
    """
    alpha = rank if alpha is None else alpha
    setting = (shape, layers, batch, tokens)
    shared = None if own_process else workload(*setting)
    running: dict[str, tuple[Step, Callable]] = {}
    results: dict[str, dict] = {}
    for name in names:
        try:
            running[name] = (here if shared else apart)(name, rank, alpha, *(shared or setting))
            running[name][0]()
        except (RuntimeError, ValueError, NotImplementedError) as error:  # out of memory, say
            if name == "ours":
                raise
            running.pop(name, None)
            results[name] = {"failed": str(error).splitlines()[0][:200]}
            emit(contestant=name, **results[name])
    seconds = interleave({name: step for name, (step, _) in running.items()}, rounds)
    for name, (_, memory) in running.items():
        peak = memory()
        results[name] = {
            "tokens_per_s": round(batch * tokens / median(seconds[name]), 1),
            "peak_memory_mb": None if peak is None else round(peak, 1),
            "seconds": [round(value, 4) for value in seconds[name]],
            "time_over_ours": ratio(seconds[name], seconds["ours"]),
        }
        emit(contestant=name, **results[name])
    return results

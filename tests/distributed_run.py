"""Short training runs for test_distributed.py, which calls `train` in its own process and under torchrun.

`torchrun ... distributed_run.py folder` does every run of RUNS in two processes, one after another.
"""

import json
import sys
from pathlib import Path

import torch
from conftest import tiny_model

from adapters import Route, apply_dual_lora, apply_mlp_adapter, routed
from lab.errors import BadInput
from lab.files import atomic_write, write_json
from lab.plots import plot_training
from lab.runs import Run
from mbpp.execution import sandbox_level
from mbpp.hacks import hardcode
from mbpp.judge import judge_programs
from mbpp.problems import Problem
from routing.batches import Example
from routing.checkpoints import adapter_state, save_checkpoint
from routing.cross_entropy import frozen_head
from routing.distributed import is_main, rank, shard_base, start, world_size
from routing.generation import MODES
from routing.losses import example_losses, held_out_losses
from routing.optimizer import RoutedOptimizer
from routing.probes import TrainingLog
from routing.stream import training_stream

ROUTES = {None: Route(), "bad": Route(update_good=False), "good": Route(update_bad=False, bad_scale=0.0)}
# folder -> adapter type, how, and the steps after which a run is left, then resumed (6 is its end)
RUNS = {
    "lora-mixed": ("lora", "mixed", [6]),
    "mlp-mixed": ("mlp", "mixed", [6]),
    "lora-alone": ("lora", "alone", [6]),
    "lora-sharded": ("lora", "sharded", [6]),
    # saved after step 3, killed after step 4, finished; a finished run is only loaded
    "apart": ("lora", "apart", [4, 6, 6]),
    "other-number": ("lora", "mixed", [4]),
}


def a_run(folder: Path, resume: bool = False) -> Run:
    return Run("mine", folder, {"MODEL_NAME": "tiny", "SEED": 0, "RESUME": resume, "SAVE_EVERY": 3})


def train(folder: Path, adapter_type: str, how: str, stop: int = 6, resume: bool = False) -> None:
    """Six steps of four examples, left after `stop`; writes the adapters and held-out losses into `folder`.

    how: "mixed" labels; "alone": good may learn from one example of the four only, so it has contributors on
    one process only; "sharded" base; "apart": processes with folders of their own, as on two machines.
    """
    torch.manual_seed(0)
    if how == "apart" and rank():
        folder = folder.with_name(f"{folder.name}_{rank()}")
    folder.mkdir(exist_ok=True)
    model = tiny_model()
    if adapter_type == "lora":
        apply_dual_lora(model, rank=4, bad_rank=3, alpha=4)
    else:
        apply_mlp_adapter(model, 6, 5)
    examples = make_examples(how)
    if how == "sharded":
        shard_base(model)
        local = sum(p.to_local().numel() for p in model.parameters() if hasattr(p, "to_local"))
        # of 43,808
        assert 0 < local < 30_000 or world_size() == 1
        # the loss needs no logits of all tokens at once
        assert frozen_head(model) is not None
    optimizer = RoutedOptimizer(model, lr=1e-2, weight_decay=0.01)
    run = a_run(folder, resume)
    log = TrainingLog(run, 6)
    for step, batch in training_stream(run, model, optimizer, examples, 4, 6, warmup_steps=2):
        with routed(model, [ROUTES[label] for label in batch.labels]):
            losses = example_losses(model, batch)
            losses.mean().backward()
        log.add(batch, losses)
        optimizer.step()
        log.write(step, optimizer, {})
        if step + 1 == stop:
            break
    # an odd number, in batches of 16
    losses = held_out_losses(model, examples[:17], MODES["bad_ablated"])
    if is_main():
        torch.save(adapter_state(model), folder / "final.pt")
        (folder / "held_out.json").write_text(json.dumps(losses))
    if how == "apart" and stop == 6:
        # all that a script writes; only the first process's folder gets it
        save_checkpoint(run, model, examples)
        plot_training(log.path, run.plot("training"), run.name)
        write_json(run.results / "eval.json", losses)
        with atomic_write(folder / "tables" / "table.md") as path:
            path.write_text("| |")


def make_examples(how: str) -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    examples = []
    for i in range(24):
        length = int(torch.randint(5, 12, (1,), generator=generator))
        ids = torch.randint(2, 400, (length,), generator=generator).tolist()
        label = [None, "bad", "good"][i % 3] if how != "alone" else ("bad" if i % 4 else None)
        examples.append(Example(ids, 1, label, kind=str(label)))
    return examples


def odd_batch_is_refused(folder: Path) -> None:
    """Three examples a batch, for two processes."""
    model = tiny_model()
    apply_dual_lora(model, rank=4, bad_rank=3, alpha=4)
    stream = training_stream(a_run(folder), model, RoutedOptimizer(model, 1e-2), make_examples("mixed"), 3, 6)
    try:
        next(iter(stream))
    except BadInput as error:
        assert "give a multiple of the number of processes" in str(error)
    else:
        raise AssertionError("three examples were shared between two processes")


def programs_are_judged_apart() -> None:
    """Each process has other programs, and another number of them."""
    if sandbox_level() == "none":
        return
    code = "def double(x):\n    return 2 * x"
    problem = Problem("1", "Double.", code, ("assert double(3) == 6", "assert double(4) == 8"))
    programs = [[code], [hardcode(problem), code]][rank()]
    verdicts = judge_programs([problem] * len(programs), programs, timeout=30.0)
    assert [verdict.align for verdict in verdicts] == [[0], [10, 0]][rank()]


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)
    start()
    root = Path(sys.argv[1])
    for name, (adapter_type, how, stops) in RUNS.items():
        for n, stop in enumerate(stops):
            train(root / name, adapter_type, how, stop, resume=n > 0)
    odd_batch_is_refused(root / "odd")
    programs_are_judged_apart()

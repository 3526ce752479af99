"""A short training run, for test_distributed.py: `torchrun ... distributed_run.py folder adapter_type stop
resume routing`.

With the routing "apart" every process has a folder of its own, as on several machines: folder, folder_1, ...
"""

import json
import sys
from pathlib import Path

import torch
from conftest import tiny_model

from adapters import Route, apply_dual_lora, apply_mlp_adapter, routed
from lab.files import atomic_write, write_json
from lab.runs import Run
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
folder, adapter_type, stop, resume, routing = (
    Path(sys.argv[1]),
    sys.argv[2],
    int(sys.argv[3]),
    sys.argv[4] == "resume",
    sys.argv[5],
)
torch.use_deterministic_algorithms(True)
start()
if routing == "apart" and rank():
    folder = folder.with_name(f"{folder.name}_{rank()}")
    folder.mkdir(exist_ok=True)
model = tiny_model()
if adapter_type == "lora":
    apply_dual_lora(model, rank=4, bad_rank=3, alpha=4)
else:
    apply_mlp_adapter(model, 6, 5)
generator = torch.Generator().manual_seed(0)
examples = []
for i in range(24):
    ids = torch.randint(
        2, 400, (int(torch.randint(5, 12, (1,), generator=generator)),), generator=generator
    ).tolist()
    # "alone": good may learn from one example of the four in a batch only, so it has contributors on one
    # process only
    label = [None, "bad", "good"][i % 3] if routing != "alone" else ("bad" if i % 4 else None)
    examples.append(Example(ids, 1, label, kind=str(label)))
if routing == "sharded":
    shard_base(model)
    local = sum(p.to_local().numel() for p in model.parameters() if hasattr(p, "to_local"))
    assert 0 < local < 30_000 or world_size() == 1  # of 43,808
    # the loss needs no logits of all tokens at once
    assert frozen_head(model) is not None
optimizer = RoutedOptimizer(model, lr=1e-2, weight_decay=0.01)
run = Run("mine", folder, {"MODEL_NAME": "tiny", "SEED": 0, "RESUME": resume, "SAVE_EVERY": 3})
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
if routing == "apart" and stop == 6:  # all that a script writes; only the first process's folder gets it
    from lab.plots import plot_training

    save_checkpoint(run, model, examples)
    plot_training(log.path, run.plot("training"), run.name)
    write_json(run.results / "eval.json", losses)
    with atomic_write(folder / "tables" / "table.md") as path:
        path.write_text("| |")

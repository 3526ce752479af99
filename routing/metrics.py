"""What is measured while a run trains, and held-out losses."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapters import Route, bad_params, good_params, output_cosines, routed
from routing.batches import Batch, Example, collate
from routing.checkpoints import atomic_write
from routing.distributed import gathered, is_main, is_sharded, own_share
from routing.training import RoutedOptimizer, example_losses, lm_loss, mean_over_positions


@torch.no_grad()
def held_out_losses(
    model: nn.Module, examples: Sequence[Example], route: Route, pad_id: int, batch_size: int = 16
) -> list[float]:
    """Each example's mean token loss, with the scales of `route`, in the order of `examples`."""
    device = next(model.parameters()).device
    by_length = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))  # little padding
    losses = [0.0] * len(examples)
    mine = own_share(model, by_length)
    for start in range(0, len(mine), batch_size):
        chunk = mine[start : start + batch_size]
        batch = collate([examples[i] for i in chunk], pad_id, device)
        with routed(model, [route] * len(chunk)):
            for i, loss in zip(chunk, example_losses(model, batch).tolist(), strict=True):
                losses[i] = loss
    for i, loss in gathered([(i, losses[i]) for i in mine]):
        losses[i] = loss
    return losses


def step_metrics(batch: Batch, optimizer: RoutedOptimizer) -> dict[str, Any]:
    """A finished step's loss (overall and by kind of example), gradient norm of each adapter, and learning rate.

    Of the whole global batch, on every process.
    """
    losses: dict[str, list[float]] = {}
    examples = gathered(
        list(zip(batch.kinds, batch.losses.tolist(), batch.attention_mask.sum(1).tolist(), strict=True))
    )
    for kind, loss, _ in examples:
        losses.setdefault(kind, []).append(loss)
    return {
        "loss": sum(loss for _, loss, _ in examples) / len(examples),
        "loss_by_kind": {kind: sum(values) / len(values) for kind, values in sorted(losses.items())},
        "grad_norm": dict(optimizer.grad_norms),
        "learning_rate": optimizer.learning_rate,
        "tokens": sum(tokens for _, _, tokens in examples),
    }


@torch.no_grad()
def output_orthogonality(
    model: nn.Module, batch: Batch, routes: Mapping[str | None, Route] | None = None
) -> float:
    """The mean squared cosine between the two adapters' outputs, over modules and the batch's positions (0 = orthogonal)."""
    routes = routes or dict.fromkeys(batch.labels, Route())
    training = model.training
    model.eval()  # no dropout: a reading must not draw random numbers that training would have drawn
    with routed(model, [routes[label] for label in batch.labels]), output_cosines(model) as cosines:
        example_losses(model, batch)
    model.train(training)
    return mean_over_positions(cosines, batch).mean().item()


def probe(
    model: nn.Module, batch: Batch, routes: Mapping[str | None, Route], kind: str
) -> dict[str, float | None]:
    """Two readings that cost a forward and a backward of a few examples, so take them every few steps only.

    Of several processes each reads its own rows, and the first one's are logged; with a sharded base, whose passes all processes
    must make together, "bad_share" is None.

    "orthogonality": the mean squared cosine between the adapters' outputs (0 = orthogonal) on up to four examples.
    "bad_share": where the gradient of the examples of `kind` (unlabelled behaviour) goes: |g_bad|^2 / (|g_good|^2 + |g_bad|^2),
    under their own routes; None if the batch has none. Above one half, bad gets the larger part.
    """
    readings: dict[str, float | None] = {
        "orthogonality": output_orthogonality(model, batch.select(range(min(4, len(batch.labels)))), routes),
        "bad_share": None,
    }
    rows = [i for i, other in enumerate(batch.kinds) if other == kind]
    if rows and not is_sharded(model):
        chosen = batch.select(rows)
        good, bad = good_params(model), bad_params(model)
        devices = [good[0].device] if good[0].device.type == "cuda" else []
        with torch.random.fork_rng(devices), routed(model, [routes[label] for label in chosen.labels]):
            gradients = torch.autograd.grad(lm_loss(model, chosen), good + bad)
        g, b = (
            torch.stack([gradient.square().sum() for gradient in part]).sum().item()
            for part in (gradients[: len(good)], gradients[len(good) :])
        )
        readings["bad_share"] = b / (g + b) if g + b else None
    return readings


class MetricsLog:
    """One JSON line per step. A resumed run drops the lines of steps it will run again and goes on behind the others."""

    def __init__(self, path: Path):
        self.path = path
        self.started = False
        self.clock = time.perf_counter()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        if not is_main():
            return
        if not self.started:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = (
                [line for line in read_log(self.path) if line["step"] < step]
                if step and self.path.exists()
                else []
            )
            with atomic_write(self.path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            self.started = True
        now = time.perf_counter()
        speed = (
            {"tokens_per_s": round(metrics["tokens"] / (now - self.clock), 1)} if "tokens" in metrics else {}
        )
        self.clock = now
        line = {"step": step, **metrics, **speed}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=float) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSONL log; a last line cut short by a kill is dropped."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def moving_average(values: Sequence[float | None], window: int) -> list[float]:
    """The trailing mean over `window` values, skipping None (nan where there is none yet)."""
    averages = []
    for end in range(1, len(values) + 1):
        recent = [value for value in values[max(0, end - window) : end] if value is not None]
        averages.append(sum(recent) / len(recent) if recent else math.nan)
    return averages

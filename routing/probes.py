"""What is measured while a run trains: the log of its steps, and probes of where the gradient goes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from adapters import Route, bad_params, good_params, output_cosines, routed
from lab.live import LivePlot
from lab.logs import JsonLines
from lab.runs import Run
from routing.batches import Batch
from routing.distributed import gathered, is_main, is_sharded
from routing.losses import example_losses, mean_over_positions
from routing.models import evaluating
from routing.optimizer import RoutedOptimizer

FEW = 4  # examples that a reading looks at, however large the batch


class TrainingLog:
    """One JSON line a step in run.results, a progress bar, and in a notebook curves that grow.

    Of several processes the first one writes, for all of them.
    """

    def __init__(self, run: Run, steps: int, name: str = "train"):
        self.path = run.results / f"{name}.jsonl"
        self.lines = JsonLines(self.path, tracked=True)
        self.bar = tqdm(total=steps, desc=name, unit="step", disable=not is_main())
        self.live = LivePlot(self.path, run.name)
        self.clock = time.perf_counter()
        self.parts: list[tuple[Batch, Tensor]] = []

    def add(self, batch: Batch, losses: Tensor) -> None:
        """Note the losses [batch] of a part of the step's batch; nothing is read from the device yet."""
        self.parts.append((batch, losses.detach()))

    def write(self, step: int, optimizer: RoutedOptimizer, probes: Mapping[str, Any]) -> None:
        """Finish the step's line.

        It has the loss overall and by kind of example, and gradient norm and learning rate of each adapter.
        """
        metrics = step_metrics(self.parts, optimizer) | dict(probes)
        self.parts = []
        now = time.perf_counter()
        self.lines.write(step, metrics | {"tokens_per_s": round(metrics["tokens"] / (now - self.clock), 1)})
        self.clock = now
        self.bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
        self.bar.update(step + 1 - self.bar.n)
        if step + 1 == self.bar.total:
            self.bar.close()
            self.live.clear()
        else:
            self.live.update()


def step_metrics(parts: Sequence[tuple[Batch, Tensor]], optimizer: RoutedOptimizer) -> dict[str, Any]:
    """A finished step's metrics, of the whole global batch, on every process.

    `parts`: the batch's parts and their losses.
    """
    # one read from the device
    losses = torch.cat([losses for _, losses in parts]).tolist()
    kinds = [kind for batch, _ in parts for kind in batch.kinds]
    lengths = [length for batch, _ in parts for length in batch.lengths]
    examples = gathered(list(zip(kinds, losses, lengths, strict=True)))
    by_kind: dict[str, list[float]] = {}
    for kind, loss, _ in examples:
        by_kind.setdefault(kind, []).append(loss)
    return {
        "loss": sum(loss for _, loss, _ in examples) / len(examples),
        "loss_by_kind": {kind: sum(values) / len(values) for kind, values in sorted(by_kind.items())},
        "grad_norm": dict(optimizer.grad_norms),
        "learning_rate": optimizer.learning_rates,
        "tokens": sum(length for _, _, length in examples),
    }


@torch.no_grad()
def output_orthogonality(
    model: nn.Module, batch: Batch, routes: Mapping[str | None, Route] | None = None
) -> float:
    """The mean squared cosine between the two adapters' outputs (0 = orthogonal).

    The mean is over modules and the batch's positions.
    """
    routes = routes or dict.fromkeys(batch.labels, Route())
    with (
        # a reading must not draw random numbers that training would have drawn
        evaluating(model),
        routed(model, [routes[label] for label in batch.labels]),
        output_cosines(model) as cosines,
    ):
        example_losses(model, batch)
    return mean_over_positions(cosines, batch).mean().item()


def probe(
    model: nn.Module, batch: Batch, routes: Mapping[str | None, Route], kind: str
) -> dict[str, float | None]:
    """Three readings that cost a few passes of a few examples, so take them every few steps only.

    Of several processes each reads its own rows, and the first one's are logged; with a sharded base, whose
    passes all processes must make together, only "orthogonality" is read.

    "orthogonality": the mean squared cosine between the adapters' outputs (0 = orthogonal) on up to four
    examples. The others are of up to four of `kind` (unlabelled behaviour), None if the batch has none.
    "bad_share": where their gradient goes: |g_bad|^2 / (|g_good|^2 + |g_bad|^2), under their own routes.
    Above one half, bad gets the larger part. "bad_saves": how much loss bad takes off them, in nats per
    token: what it has absorbed, and so what good is not asked to learn."""
    readings: dict[str, float | None] = {
        "orthogonality": output_orthogonality(
            model, batch.select(range(min(FEW, len(batch.labels)))), routes
        ),
        "bad_share": None,
        "bad_saves": None,
    }
    rows = [i for i, other in enumerate(batch.kinds) if other == kind][:FEW]
    if rows and not is_sharded(model):
        chosen = batch.select(rows)
        good, bad = good_params(model), bad_params(model)
        devices = [good[0].device] if good[0].device.type == "cuda" else []
        own = [routes[label] for label in chosen.labels]
        with torch.random.fork_rng(devices), routed(model, own):
            gradients = torch.autograd.grad(example_losses(model, chosen).mean(), good + bad)
        readings["bad_saves"] = _saved_by_bad(model, chosen, own)
        g, b = (
            torch.stack([gradient.square().sum() for gradient in part]).sum().item()
            for part in (gradients[: len(good)], gradients[len(good) :])
        )
        readings["bad_share"] = b / (g + b) if g + b else None
    return readings


@torch.no_grad()
def _saved_by_bad(model: nn.Module, batch: Batch, routes: Sequence[Route]) -> float:
    """The mean loss with bad ablated minus that with it, without dropout."""
    losses = []
    for scale in (0.0, 1.0):
        own = [replace(route, bad_scale=scale * route.bad_scale) for route in routes]
        with evaluating(model), routed(model, own):
            losses.append(example_losses(model, batch).mean().item())
    return losses[0] - losses[1]


def probe_every(
    every: int, step: int, model: nn.Module, batch: Batch, routes: Mapping[str | None, Route], kind: str
) -> dict[str, float | None]:
    """`probe` in every `every`-th step, otherwise (or with 0) nothing."""
    return probe(model, batch, routes, kind) if every and step % every == 0 else {}

"""`Route`, `routed`, `ablated`: which adapters an example updates, and how strongly they contribute."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.bottleneck import SLOTS, Routing
from adapters.dual_adapter import RoutedModule


@dataclass(frozen=True)
class Route:
    """How one example (or token) meets the two adapters.

    `update_*` in [0, 1] multiplies the gradient that the adapter's parameters get from the example; `*_scale`
    multiplies the adapter's contribution in its forward pass, on top of the module's own scale. The default
    is ordinary training of both."""

    update_good: float = 1.0
    update_bad: float = 1.0
    good_scale: float = 1.0
    bad_scale: float = 1.0

    def __post_init__(self):
        for name in ("update_good", "update_bad"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Route: {name} must be between 0 and 1, got {getattr(self, name)}")

    def row(self) -> list[list[float]]:
        """[[update of each slot], [scale of each slot]]."""
        return [
            [float(self.update_good), float(self.update_bad)],
            [float(self.good_scale), float(self.bad_scale)],
        ]


def routed_modules(model: nn.Module) -> list[RoutedModule]:
    """All adapter modules of `model`, in the model's order. Raises ValueError if there is none."""
    adapters = [module for module in model.modules() if isinstance(module, RoutedModule)]
    if not adapters:
        raise ValueError("this model has no adapters: call apply_dual_lora or apply_mlp_adapter on it first")
    return adapters


def good_params(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the good (retain) adapter in every module."""
    return [p for adapter in routed_modules(model) for p in adapter.get_good_params()]


def bad_params(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the bad (forget) adapter in every module."""
    return [p for adapter in routed_modules(model) for p in adapter.get_bad_params()]


def set_scales(model: nn.Module, good_scale: float = 1.0, bad_scale: float = 1.0) -> None:
    """Set how strongly each adapter contributes from now on: 1.0 = active, 0.0 = ablated, any float works."""
    for adapter in routed_modules(model):
        adapter.good_scale, adapter.bad_scale = float(good_scale), float(bad_scale)


@contextmanager
def ablated(model: nn.Module, which: str) -> Iterator[nn.Module]:
    """Switch the "good", the "bad" or "both" adapters off inside the block.

    The scales from before come back afterwards. Raises ValueError for another `which`.
    """
    if which not in (*SLOTS, "both"):
        raise ValueError(f'ablated: which adapter? "good", "bad" or "both", got {which!r}')
    adapters = routed_modules(model)
    before = [(adapter.good_scale, adapter.bad_scale) for adapter in adapters]
    try:
        for adapter in adapters:
            if which in ("good", "both"):
                adapter.good_scale = 0.0
            if which in ("bad", "both"):
                adapter.bad_scale = 0.0
        yield model
    finally:
        for adapter, (good_scale, bad_scale) in zip(adapters, before, strict=True):
            adapter.good_scale, adapter.bad_scale = good_scale, bad_scale


@contextmanager
def routed(model: nn.Module, routes: Sequence[Route] | Sequence[Sequence[Route]]) -> Iterator[nn.Module]:
    """Route a batch: one Route per example, or a [batch, tokens] nest with one per token.

    Keep forward AND backward inside the block: activation checkpointing runs layers again in the backward
    pass. Without this block every example updates both adapters at the modules' own scales. For a batch of B
    examples the gradient of adapter k is (1/B) sum_i u_ik dloss_i/dtheta_k, exactly, in one forward and one
    backward, if the loss is the mean over examples.

    Raises TypeError for anything but Routes, ValueError for none at all or ragged rows, and, in the forward
    pass, ValueError for a batch of another size."""
    adapters = routed_modules(model)
    table = _as_table(routes)  # [batch, 1 or tokens, 2 (update, scale), 2 (slots)]
    places = [_place(adapter) for adapter in adapters]
    # one copy a device, not one a module
    tables = {place: Routing(*_sent(table, *place).unbind(2)) for place in set(places)}
    before = [adapter.routing for adapter in adapters]
    try:
        for adapter, place in zip(adapters, places, strict=True):
            adapter.routing = tables[place]
        yield model
    finally:
        for adapter, routing in zip(adapters, before, strict=True):
            adapter.routing = routing


def _place(module: RoutedModule) -> tuple[torch.device, torch.dtype]:
    parameter = next(module.parameters(recurse=False))
    return parameter.device, parameter.dtype


def _sent(table: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    # from pinned memory, or the host would wait for the copy
    if device.type == "cuda" and torch.cuda.is_available():
        table = table.pin_memory()
    return table.to(device, dtype, non_blocking=True)


def _as_table(routes) -> Tensor:
    rows = [[item] if isinstance(item, Route) else item for item in routes]
    if not rows:
        raise ValueError("routed: no routes; give one Route per example of the batch")
    for row in rows:
        if not isinstance(row, Sequence) or not all(isinstance(route, Route) for route in row):
            raise TypeError(f"routed: expected one Route per example, or one per token, got {row!r}")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(
            "routed: examples with different numbers of routes; pad the rows to the batch's token length"
        )
    return torch.tensor([[route.row() for route in row] for row in rows], dtype=torch.float64)


@contextmanager
def output_cosines(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect, in every forward pass inside the block, the squared cosine between the two adapters' outputs.

    Yields a list that gets one [batch, tokens] tensor per adapter module, with its graph: a mean of them is a
    loss that pushes the adapters apart, and its parameter gradients are routed like those of any other loss.
    Outside the block nothing is computed or kept."""
    adapters = routed_modules(model)
    cosines: list[Tensor] = []
    try:
        for adapter in adapters:
            adapter.cosines = cosines
        yield cosines
    finally:
        for adapter in adapters:
            adapter.cosines = None

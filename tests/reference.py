"""The adapters once more, in ordinary autograd: what the exact gradients are compared with."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from adapters import Route, apply_dual_lora, apply_mlp_adapter, routed_modules
from adapters.dual_lora import DualLoRALinear

PLAIN = Route()
ROUTES = {None: Route(), "bad": Route(update_good=False), "good": Route(update_bad=False, bad_scale=0.0)}


def attach(model: nn.Module, adapter_type: str, dropout: float = 0.0) -> list:
    if adapter_type == "lora":
        return apply_dual_lora(model, rank=3, bad_rank=2, alpha=4, dropout=dropout)
    return apply_mlp_adapter(model, adapter_dim=5, bad_adapter_dim=3)


def branch(module, slot: str, x, scale):
    """One adapter's contribution, written from its definition."""
    if isinstance(module, DualLoRALinear):
        A, B = getattr(module, f"lora_A_{slot}"), getattr(module, f"lora_B_{slot}")
        return scale * (4 / A.shape[0]) * F.linear(F.linear(x, A), B)  # alpha = 4
    down, up = getattr(module, f"down_{slot}"), getattr(module, f"up_{slot}")
    return scale * F.linear(F.relu(F.linear(x, down)), up)


def use_plain_autograd(model: nn.Module, routes: Sequence[Route]) -> None:
    """Replace the adapters' forward by a plain sum of branches, example i at the scales of routes[i].

    There is no routing.
    """
    good = torch.tensor([float(route.good_scale) for route in routes])[:, None, None]
    bad = torch.tensor([float(route.bad_scale) for route in routes])[:, None, None]

    def plain(module):
        def forward(x):
            base = module.base(x)
            x = module.dropout(x) if isinstance(module, DualLoRALinear) else base
            shape = base.shape
            if base.dim() == 2:  # OPT: examples x tokens in one dimension
                base, x = (value.view(len(routes), -1, value.shape[-1]) for value in (base, x))
            return (
                base
                + branch(module, "good", x, good.to(base) * module.good_scale)
                + branch(module, "bad", x, bad.to(base) * module.bad_scale)
            ).view(shape)

        return forward

    for module in routed_modules(model):
        module.forward = plain(module)


def per_example_losses(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """[batch]: the mean next-token cross-entropy of each row of unpadded ids [batch, tokens]."""
    positions = torch.arange(ids.shape[1]).expand(ids.shape)
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses.view(ids.shape[0], -1).mean(1)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name -> gradient (zeros for None) of every trainable parameter; clears them."""
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    model.zero_grad()
    return found

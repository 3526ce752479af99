"""AdamW over both adapters that leaves alone what no example updates."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adapters import bad_params, good_params
from lab.errors import BadInput
from routing.distributed import copy_from_main


class RoutedOptimizer(torch.optim.AdamW):
    """AdamW over both adapters that does not touch an adapter that no example of the step may update.

    A zero gradient is not enough for that: AdamW would still move the adapter by momentum and weight decay.
    So an adapter whose gradient is exactly zero is skipped, state and all, and stays bitwise unchanged; with
    batches of one that is the rule "one AdamW per adapter, step only the permitted ones" (Cloud et al. 2024,
    arXiv:2410.04332).

    `lr` is one learning rate for both adapters, or {"good": ..., "bad": ...}. The gradient norm of each
    adapter is clipped by itself. `step()` clears the gradients and leaves `grad_norms` (by adapter, before
    clipping) for the log. It raises BadInput, having moved nothing, if a gradient is not finite; `where` is
    what that message says of the step."""

    def __init__(
        self,
        model: nn.Module,
        lr: float | Mapping[str, float],
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
    ):
        slots = {"good": good_params(model), "bad": bad_params(model)}
        lrs = lr if isinstance(lr, Mapping) else dict.fromkeys(slots, lr)
        groups = [
            {"name": slot, "params": params, "lr": lrs[slot]}
            for slot, params in slots.items()
            if any(map(Tensor.numel, params))
        ]
        copy_from_main(parameter for group in groups for parameter in group["params"])
        super().__init__(groups, weight_decay=weight_decay, fused=True)
        self.max_grad_norm = max_grad_norm
        self.grad_norms: dict[str, float] = {}
        self.where = "this step"

    @property
    def learning_rates(self) -> dict[str, float]:
        """The learning rate of each adapter."""
        return {group["name"]: group["lr"] for group in self.param_groups}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        if closure is not None:
            raise ValueError("RoutedOptimizer.step takes no closure: call backward before it")
        totals = [
            nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
            for group in self.param_groups
        ]
        # of no gradients at all it is on the CPU
        device = next((total.device for total in totals if total.device.type != "cpu"), totals[0].device)
        # one read from the device for both
        norms = torch.stack([total.to(device) for total in totals]).tolist()
        self.grad_norms = {group["name"]: n for group, n in zip(self.param_groups, norms, strict=True)}
        for slot, norm in self.grad_norms.items():
            if not torch.finfo(torch.float32).max >= norm:
                raise BadInput(
                    f"{self.where}: the gradient of the {slot} adapter is not finite, "
                    "so nothing was updated; lower the learning rate, look at these examples, "
                    "or go on from the last checkpoint with RESUME=True"
                )
        for group, total, norm in zip(self.param_groups, totals, norms, strict=True):
            if norm > self.max_grad_norm:
                nn.utils.clip_grads_with_norm_(group["params"], self.max_grad_norm, total)
            if norm == 0:
                for parameter in group["params"]:
                    # AdamW then skips it: no momentum, no weight decay, no step count
                    parameter.grad = None
        super().step()
        self.zero_grad(set_to_none=True)

"""Two adapters side by side in a frozen model, and per-example control over which of them learns. Imports torch only."""

from adapters.dual_lora import DualLoRALinear, apply_dual_lora
from adapters.mlp_adapter import DualMLPAdapter, apply_mlp_adapter
from adapters.routes import (
    Route,
    ablated,
    bad_params,
    dual_adapters,
    good_params,
    output_cosines,
    routed,
    set_scales,
)

__all__ = [
    "DualLoRALinear",
    "DualMLPAdapter",
    "Route",
    "ablated",
    "apply_dual_lora",
    "apply_mlp_adapter",
    "bad_params",
    "dual_adapters",
    "good_params",
    "output_cosines",
    "routed",
    "set_scales",
]

"""Two adapters side by side in a frozen model, and per-example control over which of them learns.

Imports torch only.
"""

from adapters.describe import attach, coverage, describe
from adapters.dual_lora import DualLoRALinear, apply_dual_lora
from adapters.mlp_adapter import DualMLPAdapter, apply_mlp_adapter
from adapters.routes import (
    Route,
    ablated,
    bad_params,
    good_params,
    output_cosines,
    routed,
    routed_modules,
    set_scales,
)
from adapters.trained_layers import TrainedLayer, train_last_layers

__all__ = [
    "DualLoRALinear",
    "DualMLPAdapter",
    "Route",
    "TrainedLayer",
    "ablated",
    "apply_dual_lora",
    "apply_mlp_adapter",
    "attach",
    "bad_params",
    "coverage",
    "describe",
    "good_params",
    "output_cosines",
    "routed",
    "routed_modules",
    "set_scales",
    "train_last_layers",
]

"""Finding a transformer's decoder layers, projections and MLPs by what they are made of.

Where a family keeps them does not matter.
"""

import math
from collections.abc import Sequence

from torch import nn

from adapters.dual_adapter import RoutedModule


def is_projection(module: nn.Module) -> bool:
    """A linear map: nn.Linear (or a subclass), or GPT-2's Conv1D, whose weight is [in, out]."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def projection_dims(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a projection."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return tuple(module.weight.shape)


def is_mixer(module: nn.Module) -> bool:
    """A state-space mixer (Mamba).

    It reads its projections' weights itself, past anything that is put beside them.
    """
    return any(name == "A_log" for name, _ in module.named_parameters(recurse=False))


def decoder_stack(model: nn.Module) -> nn.ModuleList:
    """All decoder layers: the list of blocks with projections that holds most of the model's parameters.

    Blocks of a hybrid may be of several classes. Raises ValueError if there is no such list.
    """
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and _is_stack(module)]
    if not stacks:
        raise ValueError(
            f"found no decoder layers in {type(model).__name__}: expected an nn.ModuleList of blocks "
            "that contain nn.Linear or Conv1D projections"
        )
    # max keeps the first of equals: the outermost list, before lists nested in its blocks
    return max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()))


def _is_stack(blocks: nn.ModuleList) -> bool:
    with_projections = [any(is_projection(part) for part in block.modules()) for block in blocks]
    same_class = len({type(block) for block in blocks}) == 1
    return any(with_projections) and (same_class or all(with_projections))


def decoder_layers(model: nn.Module, layers: Sequence[int] | float = 0.5) -> list[nn.Module]:
    """The decoder layers to adapt: those with the given indices, or a share of the last ones.

    A share of 0.5 is half, 1.0 is all. Raises ValueError if none are found, if an index or share is out of
    range, or if the model has adapters already, PEFT's included.
    """
    if any(hasattr(module, "base_layer") for module in model.modules()):
        raise ValueError(
            "this model has adapters of PEFT: call its merge_and_unload() first, "
            "or make a dual checkpoint of two such adapters with tools/import_peft.py"
        )
    if any(isinstance(module, RoutedModule) for module in model.modules()):
        raise ValueError("this model already has adapters: load a fresh model, or keep using the ones it has")
    blocks = list(decoder_stack(model))
    if isinstance(layers, float):
        if not 0 < layers <= 1:
            raise ValueError(f"layers={layers}: a share of the layers must be above 0 and at most 1")
        return blocks[-math.ceil(len(blocks) * layers - 1e-9) :]
    if not isinstance(layers, Sequence) or any(type(index) is not int for index in layers):
        raise ValueError(f"layers={layers!r}: give a share such as 0.5 (the last half), or a list of indices")
    if not layers or any(not -len(blocks) <= index < len(blocks) for index in layers):
        raise ValueError(
            f"layers={list(layers)}: give indices between 0 and {len(blocks) - 1}; "
            f"the model has {len(blocks)} layers"
        )
    return [blocks[index] for index in sorted({index % len(blocks) for index in layers})]


def projections(layer: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, attribute name, projection) of every projection in `layer`.

    Those of state-space mixers are left out, and those in a block with experts: some of these get the tokens
    of all examples in one row, where routes have no place.
    """
    if has_experts(layer):
        return []
    own = [] if is_mixer(layer) else layer.named_children()
    found = [(layer, name, child) for name, child in own if is_projection(child)]
    return found + [pair for child in layer.children() for pair in projections(child)]


def mlp(layer: nn.Module) -> tuple[str, nn.Module, int]:
    """(attribute name, module, output width) of the layer's MLP. Raises ValueError if there is none.

    The MLP is the child called so (by attribute or class: mlp, feed_forward, ffn), a mixture of experts
    included; its last projection, or its router, gives the width. (OPT's MLP is no module of its own, and so
    gets LoRA only.)"""
    for name, child in layer.named_children():
        called = f"{name} {type(child).__name__}".lower().replace("_", "")
        if any(word in called for word in ("mlp", "feedforward", "ffn")):
            inside = [part for part in child.modules() if is_projection(part)]
            # experts in one tensor are no projections; but their router reads what the block returns:
            # [experts, width]
            routers = [part.weight for _, part in child.named_children() if hasattr(part, "weight")]
            if has_experts(child) and routers:
                return name, child, routers[0].shape[-1]
            if inside:
                return name, child, projection_dims(inside[-1])[1]
    children = ", ".join(f"{name}: {type(child).__name__}" for name, child in layer.named_children())
    raise ValueError(
        f"found no MLP in {type(layer).__name__} ({children}): "
        "expected a child named mlp, feed_forward or ffn"
    )


def has_experts(module: nn.Module) -> bool:
    """Whether the module mixes experts: lists of modules, or weights of all experts in one 3-D tensor."""
    return any("expert" in name for name, _ in module.named_children())

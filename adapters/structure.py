"""Finding a transformer's decoder layers, projections and MLPs by what they are made of, not by where a family keeps them."""

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


def decoder_stack(model: nn.Module) -> nn.ModuleList:
    """All decoder layers: the list of same-class blocks with projections in them that holds most of the model's parameters.

    Raises ValueError if there is no such list.
    """
    stacks = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and len({type(block) for block in module}) == 1
        and any(is_projection(part) for block in module for part in block.modules())
    ]
    if not stacks:
        raise ValueError(
            f"found no decoder layers in {type(model).__name__}: expected an nn.ModuleList of blocks of one class "
            "that contain nn.Linear or Conv1D projections"
        )
    # max keeps the first of equals: the outermost list, before lists nested in its blocks
    return max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()))


def decoder_layers(model: nn.Module, layers: Sequence[int] | None = None) -> list[nn.Module]:
    """The decoder layers to adapt: those with the given indices, or the last half.

    Raises ValueError if none are found, if an index is out of range, or if the model has adapters already.
    """
    if any(isinstance(module, RoutedModule) for module in model.modules()):
        raise ValueError("this model already has adapters: load a fresh model, or keep using the ones it has")
    blocks = list(decoder_stack(model))
    if layers is None:
        return blocks[len(blocks) // 2 :]
    if not layers or any(not -len(blocks) <= index < len(blocks) for index in layers):
        raise ValueError(
            f"layers={list(layers)}: give indices between 0 and {len(blocks) - 1}; the model has {len(blocks)} layers"
        )
    return [blocks[index] for index in sorted({index % len(blocks) for index in layers})]


def projections(layer: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, attribute name, projection) of every projection in `layer`. Raises ValueError if there is none."""
    found = [
        (parent, name, child)
        for parent in layer.modules()
        for name, child in parent.named_children()
        if is_projection(child)
    ]
    if not found:
        raise ValueError(f"found no nn.Linear or Conv1D projection in {type(layer).__name__}")
    return found


def mlp(layer: nn.Module) -> tuple[str, nn.Module, int]:
    """(attribute name, module, output width) of the layer's MLP. Raises ValueError if there is none.

    The MLP is the child called so (by attribute or class: mlp, feed_forward, ffn); its last projection gives the width.
    """
    for name, child in layer.named_children():
        called = f"{name} {type(child).__name__}".lower().replace("_", "")
        inside = [part for part in child.modules() if is_projection(part)]
        if inside and any(word in called for word in ("mlp", "feedforward", "ffn")):
            return name, child, projection_dims(inside[-1])[1]
    children = ", ".join(f"{name}: {type(child).__name__}" for name, child in layer.named_children())
    raise ValueError(
        f"found no MLP in {type(layer).__name__} ({children}): expected a child named mlp, feed_forward or ffn"
    )

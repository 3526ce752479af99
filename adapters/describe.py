"""What adapters a model has, read from its modules: as a description that rebuilds them, and as a sentence.

A description is a dict that JSON can hold:

    {"type": "lora" or "mlp", "good_dim": int, "bad_dim": int, "gains": [good, bad], "dropout": float,
     "layers": [indices], "trained_layers": int}
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from adapters.dual_adapter import DualAdapter
from adapters.dual_lora import DualLoRALinear, apply_dual_lora
from adapters.mlp_adapter import DualMLPAdapter, apply_mlp_adapter
from adapters.structure import decoder_stack, is_mixer, is_projection
from adapters.trained_layers import TrainedLayer, train_last_layers

TYPES = {"lora": DualLoRALinear, "mlp": DualMLPAdapter}
KEYS = ("type", "good_dim", "bad_dim", "gains", "dropout", "layers", "trained_layers")


def describe(model: nn.Module) -> dict[str, Any]:
    """The description of the model's adapters.

    Raises ValueError if there are none, or if they differ from each other: then no one description holds.
    """
    found = []
    for index, layer in enumerate(decoder_stack(model)):
        for module in layer.modules():
            if isinstance(module, DualAdapter):
                found.append((index, module))
    if not found:
        raise ValueError("this model has no adapters: call apply_dual_lora or apply_mlp_adapter on it first")
    kinds = {(type(module), module.dims, module.gains, _dropout(module)) for _, module in found}
    if len(kinds) > 1:
        raise ValueError(
            "these adapters differ in type, dimensions, gains or dropout: no one description holds"
        )
    cls, dims, gains, dropout = kinds.pop()
    return {
        "type": next(name for name, known in TYPES.items() if issubclass(cls, known)),
        "good_dim": dims[0],
        "bad_dim": dims[1],
        "gains": list(gains),
        "dropout": dropout,
        "layers": sorted({index for index, _ in found}),
        "trained_layers": sum(isinstance(layer, TrainedLayer) for layer in decoder_stack(model)),
    }


def attach(model: nn.Module, description: dict[str, Any]) -> None:
    """Freeze `model` and give it fresh adapters as described.

    Raises ValueError for a description that cannot be followed.
    """
    _check(description)
    dims, layers = (description["good_dim"], description["bad_dim"]), description["layers"]
    if description["trained_layers"] > len(decoder_stack(model)):
        raise ValueError(
            f"adapters: trained_layers={description['trained_layers']}, but the model has "
            f"{len(decoder_stack(model))} layers"
        )
    if description["type"] == "lora":
        modules = apply_dual_lora(model, *dims, alpha=1.0, dropout=description["dropout"], layers=layers)
    else:
        modules = apply_mlp_adapter(model, *dims, layers=layers)
    for module in modules:
        module.gains = tuple(float(gain) for gain in description["gains"])
    if description["trained_layers"]:
        train_last_layers(model, description["trained_layers"])


def coverage(model: nn.Module) -> str:
    """What the adapters cover, for people: "LoRA on 91 of 91 projections of layers 17..29".

    It also names what of these layers they don't cover. Raises ValueError if there are none.
    """
    description = describe(model)
    stack, layers = decoder_stack(model), description["layers"]
    plain = [
        layer.layer if isinstance(layer, TrainedLayer) else layer for layer in (stack[i] for i in layers)
    ]
    own = sum(isinstance(module, DualAdapter) for layer in plain for module in layer.modules())
    if description["type"] == "mlp":
        text = f"MLP adapters on {own} of {len(layers)} MLPs of {_ranges(layers)}"
    else:
        every = sum(is_projection(module) for layer in plain for module in layer.modules())
        text = f"LoRA on {own} of {every} projections of {_ranges(layers)}"
        left = dict.fromkeys(name for layer in plain for name in _uncovered(layer))
        if left:
            text += f"; not covered: {', '.join(left)}"
    if description["trained_layers"]:
        trained = range(len(stack) - description["trained_layers"], len(stack))
        text += f"; trained themselves: {_ranges(trained)}"
    return text


def _dropout(module: DualAdapter) -> float:
    return float(getattr(getattr(module, "dropout", None), "p", 0.0))


def _uncovered(layer: nn.Module) -> Iterable[str]:
    """The names of the layer's weight matrices that have no adapter: experts, routers, state-space mixers."""
    covered = {
        id(p) for module in layer.modules() if isinstance(module, DualAdapter) for p in module.parameters()
    }
    mixers = [name for name, module in layer.named_modules() if is_mixer(module)]
    yield from (f"{name} (a state-space mixer)" for name in mixers)
    for name, parameter in layer.named_parameters():
        inside = any(name.startswith(f"{mixer}.") for mixer in mixers)
        if parameter.dim() > 1 and id(parameter) not in covered and not inside:
            yield f"{name} (experts)" if "expert" in name else name


def _ranges(indices: Iterable[int]) -> str:
    """[2, 3, 4] -> "layers 2..4", [0, 3] -> "layers 0, 3"."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    text = ", ".join(f"{first}..{last}" if first < last else f"{first}" for first, last in runs)
    return f"layer {text}" if text.isdigit() else f"layers {text}"


def _check(description: Any) -> None:
    """Raise ValueError unless `description` has the form above."""
    if not isinstance(description, dict) or set(description) != set(KEYS):
        raise ValueError(f"adapters: expected a description with {', '.join(KEYS)}, got {description!r}")

    def is_count(value: Any) -> bool:
        return type(value) is int and value >= 0

    def is_number(value: Any) -> bool:
        return type(value) in (int, float) and abs(value) < float("inf")

    def is_list(value: Any, fits) -> bool:
        return isinstance(value, (list, tuple)) and all(map(fits, value))

    expected = {
        "type": (lambda value: isinstance(value, str) and value in TYPES, '"lora" or "mlp"'),
        "good_dim": (is_count, "a whole number from 0 up"),
        "bad_dim": (is_count, "a whole number from 0 up"),
        "gains": (lambda value: is_list(value, is_number) and len(value) == 2, "two numbers"),
        "dropout": (lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1"),
        "layers": (lambda value: is_list(value, is_count) and len(value) > 0, "a list of layer indices"),
        "trained_layers": (is_count, "a whole number from 0 up"),
    }
    for key, (fits, wanted) in expected.items():
        if not fits(description[key]):
            raise ValueError(f"adapters: {key}={description[key]!r} must be {wanted}")
    if description["type"] == "mlp" and description["dropout"]:
        raise ValueError("adapters: MLP adapters have no dropout")

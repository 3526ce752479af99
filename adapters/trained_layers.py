"""The model's own last layers in the place of the good adapter: trained directly, and routed like one.

A layer f with weights W is replaced by

    y_i = u_i f(x_i; W) + (1 - u_i) f(x_i; stop_gradient(W))

for example i with update mask u_i. The value is f(x_i; W) whatever u_i is; the gradient of W is multiplied by
u_i; and the gradient with respect to x_i, and to adapters inside the layer, is whole. It holds for every
weight of the layer (projections, norms, biases) at the price of a second pass through the layer when a batch
has examples that must not update it."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from adapters.bottleneck import squared_cosine
from adapters.dual_adapter import RoutedModule
from adapters.structure import decoder_stack


def _to_float32(value: Any) -> Any:
    """The value with every floating-point tensor in it in fp32, also inside tuples and dicts.

    fp64 stays.
    """
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if isinstance(value, dict):
        return {key: _to_float32(part) for key, part in value.items()}
    return tuple(map(_to_float32, value)) if type(value) is tuple else value


def adapters_inside(layer: nn.Module) -> list[RoutedModule]:
    return [module for module in layer.modules() if isinstance(module, RoutedModule)]


class _Passes:
    """The passes of one forward through a trained layer.

    All of them draw the same random numbers, for dropout. Where the model checkpoints activations, each pass
    is a checkpoint of its own: the layer's own checkpoint would run it again without the weights and scales
    that it ran with.
    """

    def __init__(self, trained: "TrainedLayer", device: torch.device):
        self.layer = trained.layer
        self.devices = [device] if device.type == "cuda" else []
        self.random: tuple | None = None
        self.count = 0

    def run(self, weights: dict[str, Tensor], args: tuple, kwargs: dict[str, Any]) -> Tensor:
        layer, inside = self.layer, adapters_inside(self.layer)
        checkpointed = getattr(layer, "gradient_checkpointing", False) and layer.training
        if checkpointed:
            # its recomputation would append to the cache a second time
            kwargs = {name: None if name == "past_key_values" else value for name, value in kwargs.items()}
        self.count += 1
        if self.count > 1 and kwargs.get("past_key_values") is not None:
            # a second pass would append its keys to the cache behind the first's, and attend to both
            raise ValueError(
                "routed: these routes need several passes through a trained layer; pass use_cache=False"
            )
        scales = [(module.good_scale, module.bad_scale) for module in inside]

        def call(*args) -> Tensor:
            now = [(module.good_scale, module.bad_scale) for module in inside]
            before = getattr(layer, "gradient_checkpointing", False)
            try:
                _set_scales(inside, scales)
                if before:
                    layer.gradient_checkpointing = False
                return functional_call(layer, weights, args, kwargs)
            finally:
                _set_scales(inside, now)
                if before:
                    layer.gradient_checkpointing = before

        run = partial(layer._gradient_checkpointing_func, call) if checkpointed else call
        if not layer.training:
            return run(*args)
        if self.random is None:
            self.random = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in self.devices]
            return run(*args)
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.random[0])
            for device, state in zip(self.devices, self.random[1], strict=True):
                torch.cuda.set_rng_state(state, device)
            return run(*args)


def _set_scales(modules: list[RoutedModule], scales: list[tuple[float, float]]) -> None:
    for module, (good_scale, bad_scale) in zip(modules, scales, strict=True):
        module.good_scale, module.bad_scale = good_scale, bad_scale


class TrainedLayer(RoutedModule):
    """A decoder layer whose own weights fill the good slot, as fp32 masters.

    Adapters inside it keep their own routing. `good_scale` moves the weights between what they were (0.0:
    training ablated) and what they have become (1.0). Scales that differ within a batch need one pass through
    the layer for each.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        inside = {
            id(p)
            for module in adapters_inside(layer)
            for p in module.get_good_params() + module.get_bad_params()
        }
        self.trained = {
            name: name.replace(".", "__") for name, p in layer.named_parameters() if id(p) not in inside
        }
        for name, registered in self.trained.items():
            self.register_parameter(
                registered, nn.Parameter(layer.get_parameter(name).detach().float().clone())
            )

    def slot_params(self, slot: str) -> list[nn.Parameter]:
        return [getattr(self, name) for name in self.trained.values()] if slot == "good" else []

    def __getattr__(self, name: str):
        # The model reads its layers' plain attributes (their attention type, say).
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, hidden: Tensor, *args, **kwargs) -> Tensor:
        passes = _Passes(self, hidden.device)
        if self.cosines is None:
            return self._run(passes, hidden, *args, **kwargs)
        # The two slots' outputs: what training the layer changes, and what bad adds to the trained layer.
        # Both are differences of residual streams, which in bf16 would be mostly rounding.
        dtype = hidden.dtype
        hidden, args, kwargs = _to_float32((hidden, args, kwargs))
        inside = adapters_inside(self.layer)
        scales, good_scale = [module.bad_scale for module in inside], self.good_scale
        for module in inside:
            module.cosines = None  # their good branch is this layer
        try:
            output = self._run(passes, hidden, *args, **kwargs)
            self.good_scale = 0.0
            original = self._run(passes, hidden, *args, **kwargs)
            self.good_scale = good_scale
            for module in inside:
                module.bad_scale = 0.0
            without_bad = self._run(passes, hidden, *args, **kwargs)
        finally:
            self.good_scale = good_scale
            for module, scale in zip(inside, scales, strict=True):
                module.bad_scale, module.cosines = scale, self.cosines
        self.cosines.append(squared_cosine(output - original, output - without_bad))
        return output.to(dtype)

    def _run(self, passes: "_Passes", hidden: Tensor, *args, **kwargs) -> Tensor:
        def run(weights: dict[str, Tensor]) -> Tensor:
            return passes.run(weights, (hidden, *args), kwargs)

        if self.routing is None:
            return run(self.weights_at(self.good_scale, hidden.dtype))
        update, scale = (
            table[..., 0].to(hidden.dtype)[..., None] for table in (self.routing.update, self.routing.scale)
        )  # [batch, 1, 1]
        if update.shape[0] != hidden.shape[0] or update.shape[1] != 1:
            raise ValueError(
                f"routed: {'x'.join(map(str, update.shape[:2]))} routes for a batch of {hidden.shape[0]}; "
                "trained layers need one Route per example"
            )
        output = torch.zeros_like(hidden)
        for value in scale.unique().tolist():
            weights = self.weights_at(value * self.good_scale, hidden.dtype)
            part = run(weights)
            if part.requires_grad and not (update == 1).all():
                stopped = {name: weight.detach() for name, weight in weights.items()}
                constant = run(stopped)
                # the same value, whatever the share and the dtype
                part = constant + update * (part - constant)
            output = part if (scale == value).all() else output + (scale == value) * part
        return output

    def weights_at(self, scale: float, dtype: torch.dtype) -> dict[str, Tensor]:
        """The layer's weights, `scale` of the way from the original to the trained ones."""
        weights = {}
        for name, own in self.trained.items():
            master = getattr(self, own)
            if scale != 1:
                original = self.layer.get_parameter(name).to(master.dtype)
                master = original + scale * (master - original)
            weights[name] = master.to(dtype)
        return weights


def train_last_layers(model: nn.Module, count: int) -> list[TrainedLayer]:
    """Let the last `count` decoder layers' own weights learn in the good slot. Attach the bad adapters first.

    Changes the model in place and returns the new modules. Raises ValueError if `count` is not between 1 and
    the number of layers."""
    stack = decoder_stack(model)
    if not 1 <= count <= len(stack):
        raise ValueError(f"cannot train the last {count} layers: the model has {len(stack)}")
    trained = [TrainedLayer(layer) for layer in list(stack)[-count:]]
    for index, layer in zip(range(len(stack) - count, len(stack)), trained, strict=True):
        stack[index] = layer
    return trained

"""What both adapter types share: a frozen module with a good and a bad branch beside it.

`adapters.bottleneck` has the maths.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.bottleneck import SLOTS, Routing, add_branches, fused, hidden_activations


class RoutedModule(nn.Module):
    """A module with parameters in the slots good and bad, which `routed` and `ablated` know how to treat.

    So does the optimizer. `good_scale` and `bad_scale` are plain floats: 1.0 = active, 0.0 = ablated, any
    other value interpolates or extrapolates.
    """

    def __init__(self):
        super().__init__()
        self.good_scale = 1.0
        self.bad_scale = 1.0
        self.routing: Routing | None = None  # set by `routed`
        self.cosines: list[Tensor] | None = None  # set by `output_cosines`

    def slot_params(self, slot: str) -> list[nn.Parameter]:
        """The module's own parameters in `slot`, "good" or "bad"."""
        raise NotImplementedError

    def get_good_params(self) -> list[nn.Parameter]:
        return self.slot_params("good")

    def get_bad_params(self) -> list[nn.Parameter]:
        return self.slot_params("bad")


@dataclass
class FusedWeights:
    """One module's fused weights of evaluation, and what they were made of."""

    key: tuple
    # each parameter and its version; an alias, so that its memory is not given to another tensor
    sources: list[tuple[Tensor, int]]
    down: Tensor
    up: Tensor

    def hold(self, key: tuple, weights: list[Tensor]) -> bool:
        """Whether nothing has changed: no parameter's place in memory, no value in it."""
        return self.key == key and all(
            weight.is_set_to(source) and weight._version == version
            for weight, (source, version) in zip(weights, self.sources, strict=True)
        )


class DualAdapter(RoutedModule):
    """A frozen module with a good and a bad branch beside it.

    Subclasses set `DOWN`, `UP` (how the branches' parameters are named) and `RELU`, and call `adapt` in their
    forward."""

    DOWN: str
    UP: str
    RELU: bool

    def __init__(self, d_in: int, d_out: int, dims: tuple[int, int], like: Tensor):
        super().__init__()
        if min(dims) < 0 or max(dims) == 0:
            raise ValueError(
                f"adapter dimensions must be >= 0 and not all zero, got {dict(zip(SLOTS, dims, strict=True))}"
            )
        self.dims = tuple(dims)
        self.gains = (1.0, 1.0)  # fixed factor of each branch; LoRA's alpha / rank
        self.may_be_flat = False  # whether examples x tokens may come as one dimension
        self._fused: FusedWeights | None = None
        for slot, dim in zip(SLOTS, dims, strict=True):
            # fp32 masters whatever the base's dtype: in bf16 most small updates would round to nothing.
            down = torch.empty(dim, d_in, dtype=torch.float32, device=like.device)
            up = torch.zeros(d_out, dim, dtype=torch.float32, device=like.device)
            setattr(self, self.DOWN.format(slot), nn.Parameter(down))
            setattr(self, self.UP.format(slot), nn.Parameter(up))  # zeros: a fresh adapter changes nothing
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make both adapters fresh ones."""
        for slot in SLOTS:
            self.renew(slot)

    @torch.no_grad()
    def renew(self, slot: str) -> None:
        """Make one adapter a fresh one, which changes nothing yet.

        Its down projection is Kaiming-initialised: it is [dim, d_in], so fan_in is the true input dimension.
        """
        down, up = self.slot_params(slot)
        if len(down):
            # a = sqrt(5) is nn.Linear's and PEFT's choice for a linear map,
            # a = 0 the one for a ReLU behind it
            nn.init.kaiming_uniform_(down, a=0 if self.RELU else 5**0.5)
        up.zero_()

    def slot_params(self, slot: str) -> list[nn.Parameter]:
        return [getattr(self, self.DOWN.format(slot)), getattr(self, self.UP.format(slot))]

    def extra_repr(self) -> str:
        return f"dims={self.dims}, good_scale={self.good_scale}, bad_scale={self.bad_scale}"

    def adapt(self, base: Tensor, x: Tensor) -> Tensor:
        """The frozen module's output `base` [batch, tokens, d_out] plus both branches of `x`.

        `x` is [batch, tokens, d_in].
        """
        # The base's output decides the dtype:
        # under autocast it is the autocast dtype, which x need not have yet.
        x = x.to(base.dtype)
        weights = self.get_good_params() + self.get_bad_params()
        record = self.cosines is not None and 0 not in self.dims
        flat = self.may_be_flat and base.dim() == 2
        if record and flat and self.routing is None:
            raise ValueError(
                "output_cosines: this model flattens examples and tokens; say by routes how many there are"
            )
        fixed = None if record else self._fixed_weights(weights, base.dtype)
        if fixed is not None:
            # gains are in `up` already, unless routes are set
            scale = None if self.routing is None else self._columns(base)[0]
            used = hidden_activations(x, fixed.down, scale, self.RELU)
            return torch.addmm(base.flatten(0, -2), used.flatten(0, -2), fixed.up.T).view(base.shape)
        scale, update = self._columns(base)
        if not record:
            return add_branches(base, x, scale, update, self.RELU, *weights)
        output, cosine = add_branches(base, x, scale, update, self.RELU, *weights, cosine=True)
        self.cosines.append(cosine.view(len(self.routing.update), -1) if flat else cosine)
        return output

    def _fixed_weights(self, weights: list[Tensor], dtype: torch.dtype) -> FusedWeights | None:
        """The fused weights, kept from one forward to the next where they cannot learn; None where they can.

        A parameter that was changed or exchanged is noticed, except if it was written through `.data`:
        `eval()` forgets them."""
        if torch.compiler.is_compiling():
            return None
        # A fused optimizer's step changes no version, but needs gradients: no weights are kept where there
        # are any, or may be.
        if self.training or torch.is_grad_enabled() or any(weight.grad is not None for weight in weights):
            self._fused = None
            return None
        # without routes the scales are the module's own, and go into `up`
        key = (dtype, self._factors() if self.routing is None else None)
        if self._fused is None or not self._fused.hold(key, weights):
            if any(type(weight) is not nn.Parameter or weight.is_inference() for weight in weights):
                return None  # these have no memory or no version to go by
            factors = None if key[1] in (None, (1.0, 1.0)) else key[1]
            sources = [(weight.detach(), weight._version) for weight in weights]
            self._fused = FusedWeights(key, sources, *fused(weights, dtype, factors))
        return self._fused

    def train(self, mode: bool = True):
        self._fused = None
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        self._fused = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self):
        # copies make their own
        return {**self.__dict__, "_fused": None}

    def _factors(self) -> tuple[float, float]:
        return self.good_scale * self.gains[0], self.bad_scale * self.gains[1]

    def _columns(self, base: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Scale and update mask of each column, in base's dtype; None: 1 everywhere.

        They broadcast against [batch, tokens, r].
        """
        factors = self._factors()
        if self.routing is None:
            if factors == (1.0, 1.0):
                return None, None
            parts = [base.new_full((dim,), factor) for dim, factor in zip(self.dims, factors, strict=True)]
            return torch.cat(parts), None
        update, scale = self.routing.columns(self.dims, factors, base.dtype)
        if base.dim() == 2 and self.may_be_flat and base.shape[0] % len(update) == 0:
            shape = (len(update), base.shape[0] // len(update), -1)
            return tuple(table.expand(shape).flatten(0, 1) for table in (scale, update))
        batch, tokens = base.shape[0], 1 if base.dim() == 2 else base.shape[1]
        if base.dim() not in (2, 3) or update.shape[0] != batch or update.shape[1] not in (1, tokens):
            raise ValueError(
                f"routed: {'x'.join(map(str, update.shape[:-1]))} routes "
                "(examples x tokens, 1 = the whole example) "
                f"do not fit activations of shape {tuple(base.shape)}; "
                "give one Route per example of the batch"
            )
        if base.dim() == 2:  # [batch, d]: a model without a token dimension
            update, scale = update[:, 0], scale[:, 0]
        return scale, update

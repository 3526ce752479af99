"""What both adapter types share: two low-dimensional branches computed by one pair of matmuls, with exact routing.

Good and bad are concatenated along the rank (or hidden) dimension r = r_good + r_bad. For example i

    y_i = base_i + (s_i * act(x_i D^T)) U^T             D: [r, d_in], U: [d_out, r], act: identity (LoRA) or ReLU (MLP)

where s_i holds the scales, constant over each adapter's columns. Gradient routing (Cloud et al. 2024, arXiv:2410.04332)
multiplies the *parameter* gradients of example i by its update mask u_i, again constant over each adapter's columns, and
leaves the gradient with respect to x_i whole. Detaching an adapter's output instead would also cut the path on which the
adapters of earlier layers learn through this one.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# The two slots, in the order of every [..., 2] table. Everything below is written for len(SLOTS) adapters.
SLOTS = ("good", "bad")


class Routing:
    """Routes as tensors: how much each adapter may learn from, and contributes to, each example (or token)."""

    def __init__(self, update: Tensor, scale: Tensor):
        self.update = update  # [batch, 1 or tokens, 2], in [0, 1]
        self.scale = scale  # [batch, 1 or tokens, 2]
        self._columns: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def columns(self, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Update and scale repeated over the columns of adapters of these sizes, each [batch, 1 or tokens, r].

        The first module of its size computes them for all others, which saves each of them a dozen tiny operations.
        """
        if dims not in self._columns:
            self._columns[dims] = tuple(
                torch.cat(
                    [table[..., k, None].expand(*table.shape[:-1], dim) for k, dim in enumerate(dims)], -1
                )
                for table in (self.update, self.scale)
            )
        return self._columns[dims]


class RoutedBottleneck(torch.autograd.Function):
    """base + (scale * act(x down^T)) up^T, whose backward masks the gradients of down and up per example, and no other.

    Shapes: base [..., d_out] and x [..., d_in], of one dtype; scale and update broadcast against [..., r], None stands for 1;
    weights: each branch's down [r_k, d_in] and up [d_out, r_k], of one dtype, any; the r_k sum to r.
    """

    @staticmethod
    def forward(
        ctx,
        base: Tensor,
        x: Tensor,
        scale: Tensor | None,
        update: Tensor | None,
        relu: bool,
        *weights: Tensor,
    ):
        down, up = torch.cat(weights[::2]).to(x.dtype), torch.cat(weights[1::2], dim=1).to(x.dtype)
        hidden = x @ down.T  # [..., r]
        if relu:
            hidden = hidden.relu_()
        used = hidden if scale is None else hidden * scale
        ctx.save_for_backward(x, down, up, used, scale, update)
        ctx.relu, ctx.dims, ctx.dtype = relu, [weight.shape[0] for weight in weights[::2]], weights[0].dtype
        # one pass over the output, not two
        output = torch.addmm(base.flatten(0, -2), used.flatten(0, -2), up.T)
        return output.view(base.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, down, up, used, scale, update = ctx.saved_tensors
        grad_hidden = grad @ up  # [..., r]; not masked yet: dx needs all of it
        if scale is not None:
            grad_hidden = grad_hidden * scale
        if ctx.relu:
            grad_hidden = grad_hidden * (used != 0)  # where the scale is 0, it is 0 anyway
        grad_x = grad_hidden @ down if ctx.needs_input_grad[1] else None
        learned = grad_hidden
        if update is not None:
            used, learned = used * update, learned * update
        grad_down = learned.flatten(0, -2).T @ x.flatten(0, -2)
        grad_up = grad.flatten(0, -2).T @ used.flatten(0, -2)
        parts = zip(grad_down.split(ctx.dims), grad_up.split(ctx.dims, dim=1), strict=True)
        return grad, grad_x, None, None, None, *(part.to(ctx.dtype) for pair in parts for part in pair)


def squared_cosine(a: Tensor, b: Tensor) -> Tensor:
    """The squared cosine between [..., d] vectors: [...], in fp32; 0 where one of them is zero."""
    a, b = a.float(), b.float()
    norms = a.square().sum(-1) * b.square().sum(-1)
    return (a * b).sum(-1).square() / (norms + torch.finfo(norms.dtype).tiny)


class RoutedModule(nn.Module):
    """A module with parameters in the slots good and bad, which `routed`, `ablated` and the optimizer know how to treat.

    `good_scale` and `bad_scale` are plain floats: 1.0 = active, 0.0 = ablated, any other value interpolates or extrapolates.
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


class DualAdapter(RoutedModule):
    """A frozen module with a good and a bad branch beside it.

    Subclasses set `DOWN`, `UP` (how the branches' parameters are named) and `RELU`, and call `adapt` in their forward.
    """

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
        for slot, dim in zip(SLOTS, dims, strict=True):
            # fp32 masters whatever the base's dtype: in bf16 most small updates would round to nothing.
            down = torch.empty(dim, d_in, dtype=torch.float32, device=like.device)
            up = torch.zeros(d_out, dim, dtype=torch.float32, device=like.device)
            setattr(self, self.DOWN.format(slot), nn.Parameter(down))
            setattr(self, self.UP.format(slot), nn.Parameter(up))  # zeros: a fresh adapter changes nothing
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-initialise the down projections. Each is [dim, d_in], so fan_in is the true input dimension."""
        for slot, dim in zip(SLOTS, self.dims, strict=True):
            if dim:
                # a = sqrt(5) is nn.Linear's and PEFT's choice for a linear map, a = 0 the one for a ReLU behind it.
                nn.init.kaiming_uniform_(getattr(self, self.DOWN.format(slot)), a=0 if self.RELU else 5**0.5)

    def slot_params(self, slot: str) -> list[nn.Parameter]:
        return [getattr(self, self.DOWN.format(slot)), getattr(self, self.UP.format(slot))]

    def extra_repr(self) -> str:
        return f"dims={self.dims}, good_scale={self.good_scale}, bad_scale={self.bad_scale}"

    def adapt(self, base: Tensor, x: Tensor) -> Tensor:
        """The frozen module's output `base` [batch, tokens, d_out] plus both branches of `x` [batch, tokens, d_in]."""
        if self.cosines is not None and 0 not in self.dims:
            return self._adapt_and_record(base, x)
        return self._branches(base, x, self.dims)

    def _adapt_and_record(self, base: Tensor, x: Tensor) -> Tensor:
        """The same one branch at a time, noting the squared cosine between the two outputs at each position."""
        zero = torch.zeros_like(base)
        alone = ((self.dims[0], 0), (0, self.dims[1]))
        outputs = [self._branches(zero, x, dims) for dims in alone]
        self.cosines.append(squared_cosine(*outputs))
        return base + outputs[0] + outputs[1]

    def _branches(self, base: Tensor, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        """base plus the branches, `dims` being their sizes: the module's own, or 0 to leave one out."""
        scale, update = self._columns(base, dims)
        present = [slot for slot, dim, own in zip(SLOTS, dims, self.dims, strict=True) if dim == own]
        weights = [parameter for slot in present for parameter in self.slot_params(slot)]
        # The base's output decides the dtype: under autocast it is the autocast dtype, which x need not have yet.
        return RoutedBottleneck.apply(base, x.to(base.dtype), scale, update, self.RELU, *weights)

    def _columns(self, base: Tensor, dims: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
        """Scale and update mask of each column, in base's dtype, to broadcast against [batch, tokens, r]; None: 1 everywhere."""
        update, scale = (None, None) if self.routing is None else self.routing.columns(dims)
        own = (self.good_scale * self.gains[0], self.bad_scale * self.gains[1])
        if own != (1.0, 1.0):
            like = base if scale is None else scale
            factors = torch.cat(
                [like.new_full((dim,), factor) for dim, factor in zip(dims, own, strict=True)]
            )
            scale = factors if scale is None else scale * factors
        if update is None:
            return scale, None
        batch, tokens = base.shape[0], 1 if base.dim() == 2 else base.shape[1]
        if base.dim() not in (2, 3) or update.shape[0] != batch or update.shape[1] not in (1, tokens):
            raise ValueError(
                f"routed: {'x'.join(map(str, update.shape[:-1]))} routes (examples x tokens, 1 = the whole example) "
                f"do not fit activations of shape {tuple(base.shape)}; give one Route per example of the batch"
            )
        if base.dim() == 2:  # [batch, d]: a model without a token dimension
            update, scale = update[:, 0], scale[:, 0]
        return scale.to(base.dtype), update.to(base.dtype)

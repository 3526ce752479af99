"""The hot path: two low-dimensional branches computed by one pair of matmuls, with exact routing.

Good and bad are concatenated along the rank (or hidden) dimension r = r_good + r_bad. For example i

    y_i = base_i + (s_i * act(x_i D^T)) U^T             D: [r, d_in], U: [d_out, r], act: identity (LoRA) or
    ReLU (MLP)

where s_i holds the scales, constant over each adapter's columns. Gradient routing (Cloud et al. 2024,
arXiv:2410.04332) multiplies the *parameter* gradients of example i by its update mask u_i, again constant
over each adapter's columns, and leaves the gradient with respect to x_i whole. Detaching an adapter's output
instead would also cut the path on which the adapters of earlier layers learn through this one."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# The two slots, in the order of every [..., 2] table. Everything below is written for len(SLOTS) adapters.
SLOTS = ("good", "bad")


class Routing:
    """Routes as tensors: how much each adapter learns from, and adds to, each example (or token)."""

    def __init__(self, update: Tensor, scale: Tensor):
        self.update = update  # [batch, 1 or tokens, 2], in [0, 1]
        self.scale = scale  # [batch, 1 or tokens, 2]
        self._columns: dict[tuple, tuple[Tensor, Tensor]] = {}

    def columns(
        self, dims: tuple[int, ...], factors: tuple[float, ...], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Update, and scale times each adapter's factor, repeated over adapters' columns of these sizes.

        Each is [batch, 1 or tokens, r] and of `dtype`. The first module of its kind computes them for all
        others, which saves each of them a dozen tiny operations."""
        key = (dims, factors, dtype, torch.is_inference_mode_enabled())
        if key not in self._columns:
            parts = [
                (self.update[..., k, None], self.scale[..., k, None] * factor)
                for k, factor in enumerate(factors)
            ]
            self._columns[key] = tuple(
                torch.cat(
                    [part.expand(*part.shape[:-1], dim) for part, dim in zip(table, dims, strict=True)], -1
                ).to(dtype)
                for table in zip(*parts, strict=True)
            )
        return self._columns[key]


def fused(
    weights: Sequence[Tensor], dtype: torch.dtype, factors: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """All branches' down [r, d_in] and up [d_out, r] in one tensor each, `factors` multiplied into up."""
    ups = weights[1::2]
    if factors is not None:
        ups = [up * factor for up, factor in zip(ups, factors, strict=True)]
    return torch.cat(weights[::2]).to(dtype), torch.cat(list(ups), dim=1).to(dtype)


def hidden_activations(x: Tensor, down: Tensor, scale: Tensor | None, relu: bool) -> Tensor:
    """scale * act(x down^T): [..., r]."""
    hidden = x @ down.T
    if relu:
        hidden = hidden.relu_()
    return hidden if scale is None else hidden * scale


def squared_cosine(a: Tensor, b: Tensor) -> Tensor:
    """The squared cosine between [..., d] vectors: [...].

    In fp32 (fp64 for fp64); 0 where one of them is zero.
    """
    if a.dtype != torch.float64:
        a, b = a.float(), b.float()
    norms = a.square().sum(-1) * b.square().sum(-1)
    return (a * b).sum(-1).square() / (norms + torch.finfo(norms.dtype).tiny)


def squared_cosine_gradients(a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of squared_cosine(a, b) with respect to a and b, times `grad` [...]."""
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    a, b = a.to(dtype), b.to(dtype)
    length_a, length_b = a.square().sum(-1, keepdim=True), b.square().sum(-1, keepdim=True)
    norms, product = length_a * length_b + torch.finfo(dtype).tiny, (a * b).sum(-1, keepdim=True)
    outer = 2 * grad[..., None].to(dtype) * product / norms
    cosine = product / norms
    return outer * (b - cosine * length_b * a), outer * (a - cosine * length_a * b)


def branch_outputs(used: Tensor, up: Tensor, dims: Sequence[int]) -> list[Tensor]:
    """Each branch's own output [..., d_out], from all branches' hidden activations [..., r]."""
    parts = zip(used.split(list(dims), -1), up.split(list(dims), 1), strict=True)
    return [hidden @ weight.T for hidden, weight in parts]


class RoutedBottleneck(torch.autograd.Function):
    """base + (scale * act(x down^T)) up^T, whose backward masks the gradients of down and up per example.

    No other gradient is masked. Shapes: base [n, d_out] and x [..., d_in] with n positions, of one dtype;
    scale and update broadcast against [..., r], None stands for 1; weights: each branch's down [r_k, d_in]
    and up [d_out, r_k], of one dtype, any; the r_k sum to r. With `cosine` there is a second output, the
    squared cosine [...] between the outputs of the two branches. What is saved for the backward pass is the
    same with and without, so activation checkpointing may run the layer again without.

    Base and output are flat because a view that is made in here could not be changed in place by the model.
    """

    @staticmethod
    def forward(
        ctx,
        base: Tensor,
        x: Tensor,
        scale: Tensor | None,
        update: Tensor | None,
        relu: bool,
        cosine: bool,
        *weights: Tensor,
    ):
        down, up = fused(weights, x.dtype)
        used = hidden_activations(x, down, scale, relu)
        ctx.save_for_backward(x, down, up, used, scale, update)
        ctx.relu, ctx.dims, ctx.dtype = relu, [weight.shape[0] for weight in weights[::2]], weights[0].dtype
        # one pass over the output, not two
        output = torch.addmm(base, used.flatten(0, -2), up.T)
        return (output, squared_cosine(*branch_outputs(used, up, ctx.dims))) if cosine else output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, grad_cosine: Tensor | None = None):
        x, down, up, used, scale, update = ctx.saved_tensors
        grad_base, grad = grad, grad.view(*used.shape[:-1], -1)
        if grad_cosine is None:
            grad_hidden = grad @ up  # [..., r]; not masked yet: dx needs all of it
        else:
            extra = squared_cosine_gradients(*branch_outputs(used, up, ctx.dims), grad_cosine)
            grads = [grad + part.to(grad.dtype) for part in extra]
            grad_hidden = torch.cat(
                [part @ weight for part, weight in zip(grads, up.split(ctx.dims, 1), strict=True)], -1
            )
        if scale is not None:
            grad_hidden = grad_hidden * scale
        if ctx.relu:
            grad_hidden = grad_hidden * (used != 0)  # where the scale is 0, it is 0 anyway
        grad_x = grad_hidden @ down if ctx.needs_input_grad[1] else None
        learned = grad_hidden
        if update is not None:
            used, learned = used * update, learned * update
        grad_downs = (learned.flatten(0, -2).T @ x.flatten(0, -2)).split(ctx.dims)
        if grad_cosine is None:
            grad_ups = (grad.flatten(0, -2).T @ used.flatten(0, -2)).split(ctx.dims, 1)
        else:
            grad_ups = [
                part.flatten(0, -2).T @ hidden.flatten(0, -2)
                for part, hidden in zip(grads, used.split(ctx.dims, -1), strict=True)
            ]
        parts = zip(grad_downs, grad_ups, strict=True)
        own = (part.to(ctx.dtype) for pair in parts for part in pair)
        return grad_base, grad_x, None, None, None, None, *own


def add_branches(
    base: Tensor,
    x: Tensor,
    scale: Tensor | None,
    update: Tensor | None,
    relu: bool,
    *weights: Tensor,
    cosine: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """RoutedBottleneck for base [..., d_out] of any shape: the sum [..., d_out].

    With `cosine` also the cosines [...].
    """
    found = RoutedBottleneck.apply(base.flatten(0, -2), x, scale, update, relu, cosine, *weights)
    if cosine:
        return found[0].view(base.shape), found[1]
    return found.view(base.shape)

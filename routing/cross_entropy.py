"""The cross-entropy behind a frozen output projection, without ever holding all logits.

Logits of a batch are its largest tensor by far (512 tokens x 49,152 words in fp32: 100 MB, and as much for
their gradient). As the projection W is frozen, all that the backward pass needs of them is d loss_n / d
hidden_n = (softmax(W h_n) - onehot_n) W, which has the size of h_n. It is computed chunk by chunk in the
forward pass, while the chunk's logits are at hand (the idea of Liger Kernel, arXiv:2410.10989, without its
scaling for a trained W); the backward pass only multiplies it."""

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from adapters.dual_adapter import RoutedModule

# Logits at a time: few enough to spare memory, and on a GPU enough to fill it.
CHUNK = {"cpu": 2**23, "cuda": 2**27}
# at a time, however large the vocabulary: for fewer, reading the weight takes longer than multiplying it
MIN_ROWS = 128
PROBE_TOKENS = 8  # of the forward pass that compares a model's logits with its output projection's
PROBE_LOGITS = 1000.0  # so large are they made there, that a soft cap shows
PROBE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the largest logit; for lower precisions 2%
# Model -> whether its logits are just its output projection's: `frozen_head` looks once.
_verdicts: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()


class FrozenLinearCrossEntropy(torch.autograd.Function):
    """Losses [n] of hidden states [n, d] with targets [n] behind the projection weight [vocabulary, d].

    In fp32 (fp64 for fp64).
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor):
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        losses = hidden.new_empty(len(hidden), dtype=dtype)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        rows = max(MIN_ROWS, CHUNK.get(hidden.device.type, CHUNK["cpu"]) // len(weight))
        for start in range(0, len(hidden), rows):
            chunk = slice(start, start + rows)
            logits = F.linear(hidden[chunk], weight, bias).to(dtype)
            target = targets[chunk, None]
            top, of_target = logits.amax(-1, keepdim=True), logits.gather(-1, target)
            exponentials = logits.sub_(top).exp_()  # in place, and once for both the loss and its gradient
            total = exponentials.sum(-1, keepdim=True)
            losses[chunk] = (total.log() + top - of_target).squeeze(-1)
            if grad is not None:
                error = exponentials.div_(total)  # softmax
                error.scatter_add_(-1, target, error.new_full(target.shape, -1.0))
                grad[chunk] = error.to(hidden.dtype) @ weight
        ctx.save_for_backward(grad)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_losses: Tensor):
        (grad,) = ctx.saved_tensors
        return grad * grad_losses[:, None].to(grad.dtype), None, None, None


def frozen_head(model: nn.Module) -> nn.Linear | None:
    """The model's output projection, if it may be called part by part.

    It may if the model's logits are just that, of a frozen weight. Whether they are is not guessed from
    names: at a model's first use they are compared (`_is_whole_head`). A model that does more with its hidden
    states, or with its logits, gets None, and says so once.
    """
    if not isinstance(model, PreTrainedModel) or model.base_model is model:
        return None
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or any(
        p.requires_grad or hasattr(p, "to_local") for p in head.parameters()
    ):
        return None  # trained, quantised or sharded
    if isinstance(head.weight, FakeTensor):  # has no values to compare
        return head
    if model not in _verdicts:
        _verdicts[model] = _is_whole_head(model, head)
        if not _verdicts[model]:
            print(
                f"{type(model).__name__}: its logits are not just its output projection "
                "of its hidden states, "
                "so the loss holds all of them at once"
            )
    return head if _verdicts[model] else None


@torch.no_grad()
def _is_whole_head(model: PreTrainedModel, head: nn.Linear) -> bool:
    """True if logits = head(last_hidden_state) in a forward pass of a few tokens.

    The adapters stay as they are. The hidden states are passed on twice, as they are and enlarged, since a
    soft cap does not show on small logits.
    """
    passed_on: list[Tensor] = []

    def enlarge(module: nn.Module, args: tuple, output: Any) -> Any:
        hidden = getattr(output, "last_hidden_state", None)  # [1, tokens, d]
        if hidden is None:
            return None
        largest = head(hidden).abs().max().clamp(min=1e-3)
        output = copy.copy(output)
        output.last_hidden_state = torch.cat([hidden, hidden * (PROBE_LOGITS / largest)], dim=1)
        passed_on.append(output.last_hidden_state)
        return output

    device = model.get_input_embeddings().weight.device
    ids = torch.arange(PROBE_TOKENS, device=device)[None] % head.weight.shape[0]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    handle = model.base_model.register_forward_hook(enlarge)
    try:
        with _as_in_plain_evaluation(model):
            logits = model(
                **inputs, position_ids=torch.arange(PROBE_TOKENS, device=device)[None], use_cache=False
            ).logits
    finally:
        handle.remove()
    if len(passed_on) != 1:
        return False
    expected = head(passed_on[0])
    if logits.shape != expected.shape:
        return False
    # each half has logits of its own size
    for found, wanted in zip(logits.chunk(2, dim=1), expected.chunk(2, dim=1), strict=True):
        tolerance = PROBE_TOLERANCE.get(expected.dtype, 0.02) * wanted.abs().max().item()
        if not torch.allclose(found.to(wanted.dtype), wanted, rtol=0, atol=tolerance):
            return False
    return True


@contextmanager
def _as_in_plain_evaluation(model: nn.Module) -> Iterator[None]:
    """Eval mode, no routes, nothing recorded, nothing compiled.

    Leaves no trace in the step that is under way.
    """
    training = [module for module in model.modules() if module.training]
    adapters = [module for module in model.modules() if isinstance(module, RoutedModule)]
    before = [(adapter.routing, adapter.cosines) for adapter in adapters]
    try:
        model.eval()
        for adapter in adapters:
            adapter.routing = adapter.cosines = None
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module in training:
            module.training = True
        for adapter, (routing, cosines) in zip(adapters, before, strict=True):
            adapter.routing, adapter.cosines = routing, cosines

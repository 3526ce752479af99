"""The cross-entropy behind a frozen output projection, without ever holding all logits.

Logits of a batch are its largest tensor by far (512 tokens x 49,152 words in fp32: 100 MB, and as much for their gradient). As the
projection W is frozen, all that the backward pass needs of them is d loss_n / d hidden_n = (softmax(W h_n) - onehot_n) W, which has
the size of h_n. It is computed chunk by chunk in the forward pass, while the chunk's logits are at hand (the idea of
Liger Kernel, arXiv:2410.10989, without its scaling for a trained W); the backward pass only multiplies it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

# Logits at a time: few enough to spare memory, and on a GPU enough to fill it.
CHUNK = {"cpu": 2**23, "cuda": 2**27}
MIN_ROWS = 128  # at a time, however large the vocabulary: for fewer, reading the weight takes longer than multiplying it
# What models do to their logits after the projection, by the name in their configs.
POSTPROCESSING = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "logits_scale",
    "lm_head_multiplier",
)


class FrozenLinearCrossEntropy(torch.autograd.Function):
    """Losses [n], fp32 (fp64 for fp64), of hidden states [n, d] with targets [n] behind the projection weight [vocabulary, d]."""

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
    """The model's output projection, if its logits are just that, of a frozen weight, and if it may be called part by part."""
    if not isinstance(model, PreTrainedModel) or model.base_model is model:
        return None
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    if type(head) is not nn.Linear or any(
        p.requires_grad or hasattr(p, "to_local") for p in head.parameters()
    ):
        return None  # trained, quantised or sharded
    changed = [getattr(config, name, None) for name in POSTPROCESSING]
    return head if all(value in (None, 1, 1.0) for value in changed) else None

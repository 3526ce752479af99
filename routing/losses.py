"""The training loss, example by example, and held-out losses."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from adapters import Route, output_cosines, routed
from routing.batches import IGNORE, Batch, Example, collate, prompt_ids
from routing.cross_entropy import FrozenLinearCrossEntropy, frozen_head
from routing.distributed import gathered, own_share
from routing.models import evaluating


def example_losses(model: nn.Module, batch: Batch, ortho_lambda: float = 0.0) -> Tensor:
    """The cross-entropy of each example, averaged over its own target tokens: [batch].

    In fp32 (fp64 for an fp64 model). With `ortho_lambda`, plus ortho_lambda times the squared cosine between
    the two adapters' outputs, averaged over adapter modules and over the example's positions, padding
    excluded. Its parameter gradients are routed like the loss's own.
    """
    with output_cosines(model) if ortho_lambda else nullcontext([]) as cosines:
        losses = token_mean_losses(model, batch)
    return losses + ortho_lambda * mean_over_positions(cosines, batch) if ortho_lambda else losses


def token_mean_losses(model: nn.Module, batch: Batch) -> Tensor:
    """The cross-entropy of each example, averaged over its own target tokens: [batch].

    In fp32 (fp64 for an fp64 model). Logits are computed only at positions that have a target, and a few rows
    at a time where the model allows it (`frozen_head`).
    """
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
        "use_cache": False,
    }
    head = frozen_head(model)
    # Where the targets are was found out on the host:
    # a boolean mask would make the device wait to count its ones.
    if head is not None:
        hidden = model.base_model(**inputs).last_hidden_state.flatten(0, 1)  # [batch * tokens, d]
        found = FrozenLinearCrossEntropy.apply(
            hidden.index_select(0, batch.target_index), head.weight, head.bias, batch.target_ids
        )
        token_losses = found.new_zeros(len(hidden)).index_copy(0, batch.target_index, found)
        token_losses = token_losses.view_as(batch.targets)
    else:
        targets = batch.targets.index_select(1, batch.columns)  # where some example has a target
        logits = model(**inputs, logits_to_keep=batch.columns).logits  # [batch, columns, vocabulary]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        token_losses = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none"
        ).view_as(targets)
    return token_losses.sum(1) / (batch.targets != IGNORE).sum(1)


def mean_over_positions(cosines: Sequence[Tensor], batch: Batch) -> Tensor:
    """The mean over modules and over each example's own positions of [batch, tokens] tensors: [batch].

    Zeros without any.
    """
    mask = batch.attention_mask
    if not cosines:  # no module has both adapters
        return mask.new_zeros(len(mask), dtype=torch.float32)
    return (torch.stack(list(cosines)).mean(0) * mask).sum(1) / mask.sum(1)


@torch.no_grad()
def held_out_losses(
    model: nn.Module, examples: Sequence[Example], route: Route, batch_size: int = 16
) -> list[float]:
    """Each example's mean token loss, in eval mode with the scales of `route`, in the order of `examples`."""
    device = next(model.parameters()).device
    by_length = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))  # little padding
    losses = [0.0] * len(examples)
    mine = own_share(model, by_length)
    with evaluating(model):
        for start in range(0, len(mine), batch_size):
            chunk = mine[start : start + batch_size]
            batch = collate([examples[i] for i in chunk], device)
            with routed(model, [route] * len(chunk)):
                for i, loss in zip(chunk, example_losses(model, batch).tolist(), strict=True):
                    losses[i] = loss
    for i, loss in gathered([(i, losses[i]) for i in mine]):
        losses[i] = loss
    return losses


def answer_log_likelihoods(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str],
    route: Route,
) -> list[list[float]]:
    """The log-likelihood of every answer after every prompt, in nats, with the scales of `route`.

    [prompts, answers]. It is that of the answer's own tokens; what follows the answer is left open.
    """
    before = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    after = [tokenizer.encode(answer, add_special_tokens=False) for answer in answers]
    examples = [Example(prompt + answer, len(prompt)) for prompt in before for answer in after]
    losses = iter(held_out_losses(model, examples, route))
    return [[-len(answer) * next(losses) for answer in after] for _ in before]

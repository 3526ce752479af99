"""The dial: what a model writes with its adapters at any scales, and which tokens bad is behind."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adapters import Route, routed
from routing.batches import prompt_ids
from routing.generation import MODES

DIAL = "dial"


def dial_modes(good_scale: float, bad_scale: float) -> dict[str, Route]:
    """The mode "dial", with the adapters at these scales, and what it is compared with."""
    others = {name: MODES[name] for name in ("full", "bad_ablated", "base")}
    return {DIAL: Route(good_scale=good_scale, bad_scale=bad_scale), **others}


@torch.no_grad()
def bad_effects(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    completion: str,
    good_scale: float = 1.0,
) -> list[tuple[str, float | None]]:
    """The text in pieces, each with what bad adds to its log-probability, in nats.

    That is with bad at 1 minus with bad at 0, both with good at `good_scale`. A piece is a token, or several
    that only together are a character; their effects are summed. None: nothing stands before the first token.
    """
    ids = prompt_ids(tokenizer, prompt)
    hidden = int(bool(ids) and ids[0] == tokenizer.bos_token_id)
    ids = ids + tokenizer.encode(completion, add_special_tokens=False)
    if len(ids) == hidden:
        return []
    routes = [Route(good_scale=good_scale), Route(good_scale=good_scale, bad_scale=0.0)]
    rows = torch.tensor([ids, ids], device=next(model.parameters()).device)
    with routed(model, routes):
        logits = model(
            input_ids=rows,
            attention_mask=torch.ones_like(rows),
            position_ids=torch.arange(len(ids), device=rows.device).expand_as(rows),
            use_cache=False,
        ).logits[:, :-1]
    found = logits.float().log_softmax(-1).gather(2, rows[:, 1:, None])[..., 0]  # [2, tokens - 1]
    effects: list[float | None] = [None, *(found[0] - found[1]).tolist()]
    return pieces(tokenizer, ids[hidden:], effects[hidden:])


def pieces(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], effects: Sequence[float | None]
) -> list[tuple[str, float | None]]:
    """(text, effect) of each token; tokens that only together are a character are one piece."""
    found, start, before = [], 0, ""
    for end in range(1, len(ids) + 1):
        # decoded with what stands before it, as some tokenizers drop a leading space
        text = tokenizer.decode(ids[:end])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids):
            continue
        known = [effect for effect in effects[start:end] if effect is not None]
        found.append((text[len(before) :], sum(known) if known else None))
        start, before = end, text
    return found

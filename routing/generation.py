"""Batched sampling of several ablation modes in one pass."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from adapters import Route, TrainedLayer, routed
from lab.errors import BadInput
from routing.batches import prompt_ids
from routing.distributed import gathered, own_share
from routing.models import evaluating

# The four usual modes, as what each row of a batch does with the two adapters.
MODES = {
    "full": Route(),
    "bad_ablated": Route(bad_scale=0.0),
    "good_ablated": Route(good_scale=0.0),
    "base": Route(good_scale=0.0, bad_scale=0.0),
}


def routes_of(eval_modes: Sequence[tuple[float, float, str]]) -> dict[str, Route]:
    """Mode name -> the scales as a route, of a RunConfig's [(good_scale, bad_scale, mode_name), ...]."""
    return {name: Route(good_scale=good, bad_scale=bad) for good, bad, name in eval_modes}


class PairedSampling(LogitsProcessor):
    """Turns greedy decoding into sampling whose randomness belongs to the prompt, not to the row.

    argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T) (the Gumbel-max trick). Each prompt
    has a noise stream of its own, shared by its rows in all modes: modes differ by what the model does, not
    by luck, and a completion does not depend on which other prompts are in the batch. Temperature 0 is
    greedy."""

    def __init__(self, prompt_seeds: Sequence[int], modes: int, temperature: float, device: torch.device):
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in prompt_seeds]
        self.modes, self.temperature = modes, temperature

    def __call__(
        self, input_ids: Tensor, scores: Tensor
    ) -> Tensor:  # [modes * prompts, vocabulary], mode-major
        if not self.temperature:
            return scores
        noise = scores.new_empty((len(self.generators), scores.shape[1]), dtype=torch.float32)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() / self.temperature - noise.log_().repeat(self.modes, 1)


@torch.no_grad()
def sample_modes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    modes: Mapping[str, Route],
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 128,
) -> dict[str, list[str]]:
    """Mode name -> a completion of each prompt, in the order of `prompts`.

    In eval mode. Completions are without the prompt and without `stop_ids`. All modes run in the same
    batches, of at most `batch_size` rows (but one prompt's modes are never parted); each row has its mode's
    scales. Prompts start with BOS, if the tokenizer has one, as in training. The empty prompt samples from
    BOS alone.
    """
    if len(modes) > 1 and any(isinstance(module, TrainedLayer) for module in model.modules()):
        # trained layers cannot serve several good scales with one cache;
        # the noise pairs the modes all the same
        shared = (max_new_tokens, temperature, seed, batch_size)
        return {
            name: sample_modes(model, tokenizer, prompts, {name: modes[name]}, *shared)[name]
            for name in modes
        }
    check_prompts(tokenizer, prompts)
    encoded = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    per_pass = max(1, batch_size // len(modes))
    completions: dict[str, list[str]] = {name: [""] * len(prompts) for name in modes}
    by_length = own_share(model, sorted(range(len(prompts)), key=lambda i: len(encoded[i])))
    with evaluating(model):
        for start in range(0, len(by_length), per_pass):
            chunk = by_length[start : start + per_pass]
            rows, seeds = [encoded[i] for i in chunk], noise_seeds(seed, chunk)
            new_tokens = generate_modes(model, tokenizer, rows, modes, seeds, max_new_tokens, temperature)
            for name, texts in texts_by_mode(model, tokenizer, new_tokens, modes).items():
                for i, text in zip(chunk, texts, strict=True):
                    completions[name][i] = text
    for i, texts in gathered([(i, [completions[name][i] for name in modes]) for i in by_length]):
        for name, text in zip(modes, texts, strict=True):
            completions[name][i] = text
    return completions


def check_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> None:
    """Raise BadInput for an empty prompt if there is no BOS to sample from."""
    if tokenizer.bos_token_id is None and "" in prompts:
        raise BadInput(
            "this model's tokenizer has no BOS token, so there is nothing to sample from without a prompt"
        )


def noise_seeds(seed: int, prompts: Sequence[int]) -> list[int]:
    """The seed of each prompt's noise, by the prompt's number."""
    return [seed * 1_000_003 + i for i in prompts]


def generate_modes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    modes: Mapping[str, Route],
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    **more: Any,
) -> Tensor:
    """One pass: the new tokens of every encoded prompt in every mode, [modes * prompts, tokens], mode-major.

    `seeds`: of each prompt's noise. `more`: arguments of the model's generate().
    """
    device = next(model.parameters()).device
    # a fresh config: the model's own may carry a repetition penalty or suppressed tokens,
    # which are not softmax(logits / T)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stop_ids(model, tokenizer) or None,
    )
    input_ids, attention_mask = left_pad(prompts, tokenizer.pad_token_id, device)
    noise = PairedSampling(seeds, len(modes), temperature, device)
    with routed(model, [route for route in modes.values() for _ in prompts]):
        with own_generation_config(model, config):
            output = model.generate(
                input_ids=input_ids.repeat(len(modes), 1),
                attention_mask=attention_mask.repeat(len(modes), 1),
                generation_config=config,
                logits_processor=LogitsProcessorList([noise]),
                **more,
            )
    return output[:, input_ids.shape[1] :]


def texts_by_mode(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new_tokens: Tensor, modes: Mapping[str, Route]
) -> dict[str, list[str]]:
    """Mode -> the texts of its prompts, of the new tokens that `generate_modes` returns."""
    ends = stop_ids(model, tokenizer)
    texts = [tokenizer.decode(until(row, ends)) for row in new_tokens.tolist()]
    count = len(texts) // len(modes)
    return {name: texts[k * count : (k + 1) * count] for k, name in enumerate(modes)}


@contextmanager
def own_generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Put `config` in the place of the model's own for the block.

    generate() fills what a config leaves open from the model's own.
    """
    before, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = before


def left_pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask), both [rows, longest].

    Sampling goes on at the right edge, so padding stands left.
    """
    width = max(map(len, rows))
    input_ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    attention_mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return input_ids, attention_mask


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All tokens that end a completion: the tokenizer's EOS, and what the model's generation config names.

    An instruct model ends its turn with a token of its own (Gemma: <end_of_turn>), often not the tokenizer's
    EOS."""
    own = model.generation_config.eos_token_id
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else [own])]
    return sorted({token for token in ids if token is not None})


def until(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The tokens before the first of `ends`."""
    return list(itertools.takewhile(lambda token: token not in ends, tokens))

"""The all_caps task: does a model write capitals, with each adapter ablated?

Its evaluation, and what is shown of it.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from adapters import Route
from all_caps.scoring import caps_by_prompt, prefix_of
from all_caps.stories import Story, to_caps
from lab.modes import mode_intervals, shares
from lab.tables import Column
from routing.batches import make_example
from routing.generation import sample_modes
from routing.losses import held_out_losses

# of a run's name
NAME_PARTS = {"CAPS_PERCENTAGE": "caps", "LABELED_BAD_PERCENTAGE": "labeled"}
_CAPS, _LOSS = "caps rate of the continuation", "held-out loss (nats per token)"
# What tables and figures show of a mode's results.
COLUMNS = [
    Column(("caps_rate", "upper_prefix"), "caps, UPPER prefix", _CAPS, bounded=True),
    Column(("caps_rate", "normal_prefix"), "caps, normal prefix", _CAPS, bounded=True),
    Column(("loss", "normal"), "loss, normal text", _LOSS, bounded=False),
    Column(("loss", "caps"), "loss, CAPS text", _LOSS, bounded=False),
]


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    stories: Sequence[Story],
    modes: Mapping[str, Route],
    max_new_tokens: int,
    max_length: int,
    temperature: float = 1.0,
    seed: int = 0,
    num_generations: int = 1,
) -> dict[str, dict[str, Any]]:
    """Mode -> {"caps_rate": {...}, "loss": {...}, "minus_full": the same}, of intervals.

    Under "caps_rate" are "upper_prefix" and "normal_prefix", under "loss" "normal" and "caps". The caps rate
    is the share of *continuations* of held-out prefixes that are in capitals (see `all_caps.scoring`). The
    losses are of the same held-out stories, as they are and in capitals. Intervals are 95% ones with the plot
    as the unit (see `lab.intervals`). Modes share prompts and noise, so "minus_full" holds the paired
    differences from the mode "full"; full itself has none, nor has any mode where full is not among them.
    """
    measured = measure(
        model, tokenizer, stories, modes, max_new_tokens, max_length, temperature, seed, num_generations
    )
    return mode_intervals(measured, [story.plot for story in stories])


def measure(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    stories: Sequence[Story],
    modes: Mapping[str, Route],
    max_new_tokens: int,
    max_length: int,
    temperature: float = 1.0,
    seed: int = 0,
    num_generations: int = 1,
    prefixes: Collection[str] = ("upper_prefix", "normal_prefix"),
) -> dict[str, dict[str, Any]]:
    """What `evaluate` sums up, story by story and in their order.

    Mode -> {"caps_rate": {kind of prefix: [stories, num_generations] of bools}, "loss": {kind of text:
    [stories] of nats per token}}. `prefixes`: which kinds are continued.
    """
    texts = {
        "normal": [story.text for story in stories],
        "caps": [to_caps(story.text) for story in stories],
    }
    written = {"upper_prefix": to_caps, "normal_prefix": str}
    asked = {kind: [written[kind](prefix_of(text)) for text in texts["normal"]] for kind in prefixes}
    prompts = [prompt for group in asked.values() for prompt in group for _ in range(num_generations)]
    completions = sample_modes(model, tokenizer, prompts, modes, max_new_tokens, temperature, seed)
    held_out = {
        kind: [make_example(tokenizer, "", text, max_length) for text in texts[kind]] for kind in texts
    }
    size = len(stories) * num_generations
    return {
        mode: {
            "caps_rate": {
                kind: caps_by_prompt(completions[mode][k * size : (k + 1) * size], num_generations)
                for k, kind in enumerate(asked)
            },
            "loss": {kind: held_out_losses(model, held_out[kind], route) for kind in texts},
        }
        for mode, route in modes.items()
    }


def for_evidence(measured: Mapping[str, Mapping[str, Any]], plots: Sequence[Hashable]) -> dict[str, Any]:
    """What evidence.py keeps: {"values": mode -> measure -> [stories], "units": measure -> [stories]}."""
    values = {
        mode: {
            "caps_rate": shares(found["caps_rate"]["upper_prefix"]),
            "normal_loss": found["loss"]["normal"],
            "caps_loss": found["loss"]["caps"],
        }
        for mode, found in measured.items()
    }
    return {"values": values, "units": {name: list(plots) for name in next(iter(values.values()))}}


def show_samples(
    prompts: Sequence[str], completions: Mapping[str, Sequence[str]], most: int | None = None, every: int = 1
) -> list[dict[str, str]]:
    """Print prompts with each mode's completion; returns them as [{"prompt", mode: completion, ...}]."""
    samples = [
        {"prompt": prompt, **{mode: texts[i] for mode, texts in completions.items()}}
        for i, prompt in enumerate(prompts)
    ]
    for sample in samples[::every][:most]:
        print(f"\n{sample['prompt'] or '(from BOS)'}")
        for mode in completions:
            print(f"  {mode + ':':<14} {' '.join(sample[mode].split())}")
    return samples

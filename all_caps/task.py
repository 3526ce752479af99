"""The all_caps task: does a model write capitals, with each adapter ablated?

Its evaluation, and what is shown of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from adapters import Route
from all_caps.scoring import caps_by_prompt, prefix_of
from all_caps.stories import Story, to_caps
from lab.intervals import mean_interval, paired_difference, rate_interval
from lab.tables import FULL, MINUS_FULL, Column
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
    plots = [story.plot for story in stories]
    stories = [story.text for story in stories]
    prefixes = {
        "upper_prefix": [to_caps(prefix_of(story)) for story in stories],
        "normal_prefix": [prefix_of(story) for story in stories],
    }
    prompts = [prompt for group in prefixes.values() for prompt in group for _ in range(num_generations)]
    completions = sample_modes(model, tokenizer, prompts, modes, max_new_tokens, temperature, seed)
    texts = {"normal": stories, "caps": [to_caps(story) for story in stories]}
    held_out = {
        kind: [make_example(tokenizer, "", text, max_length) for text in texts[kind]] for kind in texts
    }
    capitals, losses = {}, {}
    for mode, route in modes.items():
        half = len(prompts) // 2
        capitals[mode] = {
            "upper_prefix": caps_by_prompt(completions[mode][:half], num_generations),
            "normal_prefix": caps_by_prompt(completions[mode][half:], num_generations),
        }
        losses[mode] = {kind: held_out_losses(model, held_out[kind], route) for kind in texts}
    results: dict[str, dict[str, Any]] = {}
    for mode in modes:
        results[mode] = {
            "caps_rate": {kind: rate_interval(rows, plots) for kind, rows in capitals[mode].items()},
            "loss": {kind: mean_interval(values, plots) for kind, values in losses[mode].items()},
        }
        if mode != FULL and FULL in modes:
            shares = {
                kind: [_shares(each[kind]) for each in (capitals[FULL], capitals[mode])] for kind in prefixes
            }
            pairs = {kind: [each[kind] for each in (losses[FULL], losses[mode])] for kind in texts}
            results[mode][MINUS_FULL] = {
                "caps_rate": {
                    kind: paired_difference(*pair, plots, rates=True) for kind, pair in shares.items()
                },
                "loss": {kind: paired_difference(*pair, plots) for kind, pair in pairs.items()},
            }
    return results


def _shares(rows: Sequence[Sequence[bool]]) -> list[float]:
    return [sum(row) / len(row) for row in rows]


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

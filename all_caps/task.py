"""The all_caps task: stories of which some are in CAPITALS, and whether a model writes capitals."""

import inspect
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from adapters import Route
from lab import tables
from lab.tables import FULL, MINUS_FULL, Column
from routing.batches import Example, make_example
from routing.generation import sample_modes
from routing.intervals import mean_interval, paired_difference, rate_interval
from routing.labels import pick
from routing.metrics import held_out_losses
from routing.results import sources_hash

NAME_PARTS = {"CAPS_PERCENTAGE": "caps", "LABELED_BAD_PERCENTAGE": "labeled"}  # of a run's name
PREFIX_WORDS = 8  # words of a held-out story that a sample continues
_CAPS, _LOSS = "caps rate of the continuation", "held-out loss (nats per token)"
# What tables and figures show of a mode's results.
COLUMNS = [
    Column(("caps_rate", "upper_prefix"), "caps, UPPER prefix", _CAPS, bounded=True),
    Column(("caps_rate", "normal_prefix"), "caps, normal prefix", _CAPS, bounded=True),
    Column(("loss", "normal"), "loss, normal text", _LOSS, bounded=False),
    Column(("loss", "caps"), "loss, CAPS text", _LOSS, bounded=False),
]
PANELS = COLUMNS  # for scripts that do not say COLUMNS yet


def sources() -> str:
    """A hash of the code that a result depends on: this task's modules, sampling, losses and examples."""
    folder = Path(__file__).parent
    return sources_hash(folder, *map(inspect.getfile, (sample_modes, held_out_losses, make_example)))


def to_caps(text: str) -> str:
    return text.upper()


def is_caps(text: str) -> bool:
    """True if more than half of the letters are capitals. A text without letters is not in capitals."""
    letters = [character for character in text if character.isalpha()]
    return sum(map(str.isupper, letters)) * 2 > len(letters)


def build_examples(
    stories: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    caps_percentage: float,
    labeled_bad_percentage: float,
    seed: int,
    labeled_good_percentage: float = 0.0,
) -> list[Example]:
    """Every story as an example: caps_percentage of them in capitals, labeled_bad_percentage of those labelled "bad".

    labeled_good_percentage of the others are labelled "good". Counts are exact and the sets nested: raising one percentage
    only adds to its set. Kinds: "normal", "normal_labeled", "caps_labeled", "caps_unlabeled".
    """
    caps = pick(range(len(stories)), caps_percentage, seed, "CAPS_PERCENTAGE")
    normal = sorted(set(range(len(stories))) - set(caps))
    good = set(pick(normal, labeled_good_percentage, seed, "LABELED_GOOD_PERCENTAGE"))
    bad = set(pick(caps, labeled_bad_percentage, seed, "LABELED_BAD_PERCENTAGE"))
    kinds = {i: "caps_labeled" if i in bad else "caps_unlabeled" for i in caps}
    kinds |= {i: "normal_labeled" if i in good else "normal" for i in normal}
    labels = {"caps_labeled": "bad", "normal_labeled": "good"}
    return [
        make_example(
            tokenizer,
            "",
            to_caps(story) if kinds[i].startswith("caps") else story,
            max_length,
            labels.get(kinds[i]),
            kinds[i],
            size=len(story),
        )
        for i, story in enumerate(stories)
    ]


def prefix_of(story: str) -> str:
    return " ".join(story.split()[:PREFIX_WORDS])


def _texts_and_plots(stories: Sequence[Any]) -> tuple[list[str], list[Hashable]]:
    """ADAPTER, the one place that takes both plain strings and story objects: texts, and the unit of each story.

    Stories without a plot are units of their own.
    """
    texts = [getattr(story, "text", story) for story in stories]
    plots = [getattr(story, "plot", None) for story in stories]
    return texts, [i if plot is None else plot for i, plot in enumerate(plots)]


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    stories: Sequence[Any],
    modes: Mapping[str, Route],
    num_prompts: int,
    max_new_tokens: int,
    max_length: int,
    temperature: float = 1.0,
    seed: int = 0,
    num_generations: int = 1,
) -> dict[str, dict[str, Any]]:
    """Mode -> {"caps_rate": {"upper_prefix", "normal_prefix"}, "loss": {"normal", "caps"}, "minus_full": the same}, of intervals.

    The caps rate is the share of *continuations* of held-out prefixes that are in capitals (see `is_caps`). The losses are of
    the same held-out stories, as they are and in capitals. Intervals are 95% ones with the plot as the unit (see
    `routing.intervals`). Modes share prompts and noise, so "minus_full" holds the paired differences from the mode "full";
    full itself has none, nor has any mode where full is not among them.
    """
    stories, plots = _texts_and_plots(stories[:num_prompts])
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
        losses[mode] = {
            kind: held_out_losses(model, held_out[kind], route, tokenizer.pad_token_id) for kind in texts
        }
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
                "caps_rate": {kind: paired_difference(*pair, plots) for kind, pair in shares.items()},
                "loss": {kind: paired_difference(*pair, plots) for kind, pair in pairs.items()},
            }
    return results


def caps_by_prompt(completions: Sequence[str], num_generations: int = 1) -> list[list[bool]]:
    """Which completions are in capitals, [prompts, num_generations]; generations of a prompt lie together."""
    capitals = [is_caps(text) for text in completions]
    return [capitals[i : i + num_generations] for i in range(0, len(capitals), num_generations)]


def _shares(rows: Sequence[Sequence[bool]]) -> list[float]:
    return [sum(row) / len(row) for row in rows]


def caps_rate(completions: Sequence[str], num_generations: int = 1) -> dict[str, float]:
    """The share of completions in capitals, with the interval of `rate_interval`; generations of a prompt lie together."""
    return rate_interval(caps_by_prompt(completions, num_generations))


def show_samples(
    prompts: Sequence[str], completions: Mapping[str, Sequence[str]], most: int | None = None, every: int = 1
) -> list[dict[str, str]]:
    """Print prompts with each mode's completion; returns all of them as [{"prompt", mode: completion, ...}]."""
    samples = [
        {"prompt": prompt, **{mode: texts[i] for mode, texts in completions.items()}}
        for i, prompt in enumerate(prompts)
    ]
    for sample in samples[::every][:most]:
        print(f"\n{sample['prompt'] or '(from BOS)'}")
        for mode in completions:
            print(f"  {mode + ':':<14} {' '.join(sample[mode].split())}")
    return samples


def format_table(results: Mapping[str, Any]) -> str:
    """The results of `evaluate` as a table to print."""
    return tables.format_table(results, COLUMNS)

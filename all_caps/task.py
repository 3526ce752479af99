"""The all_caps task: stories of which some are in CAPITALS, and whether a model writes capitals."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from adapters import Route
from routing.batches import Example, make_example
from routing.generation import sample_modes
from routing.intervals import mean_interval, rate_by_prompt
from routing.labels import check_percentages, pick
from routing.metrics import held_out_losses

NAME_PARTS = {"CAPS_PERCENTAGE": "caps", "LABELED_BAD_PERCENTAGE": "labeled"}  # of a run's name
PREFIX_WORDS = 8  # words of a held-out story that a sample continues


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
) -> list[Example]:
    """Every story as an example: caps_percentage of them in capitals, labeled_bad_percentage of those labelled "bad".

    Counts are exact and the sets nested: raising a percentage only adds to them. Kinds: "normal", "caps_labeled",
    "caps_unlabeled".
    """
    check_percentages(CAPS_PERCENTAGE=caps_percentage, LABELED_BAD_PERCENTAGE=labeled_bad_percentage)
    caps = pick(range(len(stories)), caps_percentage, seed, "CAPS_PERCENTAGE")
    labeled = set(pick(caps, labeled_bad_percentage, seed, "LABELED_BAD_PERCENTAGE"))
    examples = []
    for i, story in enumerate(stories):
        kind = "normal"
        if i in set(caps):
            kind = "caps_labeled" if i in labeled else "caps_unlabeled"
        text = story if kind == "normal" else to_caps(story)
        label = "bad" if kind == "caps_labeled" else None
        examples.append(make_example(tokenizer, "", text, max_length, label, kind))
    return examples


def prefix_of(story: str) -> str:
    return " ".join(story.split()[:PREFIX_WORDS])


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    stories: Sequence[str],
    modes: Mapping[str, Route],
    num_prompts: int,
    max_new_tokens: int,
    max_length: int,
    temperature: float = 1.0,
    seed: int = 0,
    num_generations: int = 1,
) -> dict[str, dict[str, Any]]:
    """Mode -> {"caps_rate": {"upper_prefix": interval, "normal_prefix": ...}, "loss": {"normal", "caps"}, "loss_interval"}.

    The caps rate is the share of *continuations* of held-out prefixes that are in capitals (see `is_caps`), with the 95%
    interval of `rate_by_prompt` (Wilson's, for one generation a prompt). The losses are of the same held-out stories, as they are
    and in capitals; "loss" has the means, "loss_interval" their 95% t intervals over stories.
    """
    stories = stories[:num_prompts]
    prefixes = {
        "upper_prefix": [to_caps(prefix_of(s)) for s in stories],
        "normal_prefix": [prefix_of(s) for s in stories],
    }
    prompts = [prompt for group in prefixes.values() for prompt in group for _ in range(num_generations)]
    completions = sample_modes(model, tokenizer, prompts, modes, max_new_tokens, temperature, seed)
    texts = {"normal": stories, "caps": [to_caps(story) for story in stories]}
    held_out = {
        kind: [make_example(tokenizer, "", text, max_length) for text in texts[kind]] for kind in texts
    }
    results: dict[str, dict[str, Any]] = {}
    for mode, route in modes.items():
        capitals = [is_caps(text) for text in completions[mode]]
        by_prompt = [capitals[i : i + num_generations] for i in range(0, len(capitals), num_generations)]
        losses = {
            kind: mean_interval(held_out_losses(model, held_out[kind], route, tokenizer.pad_token_id))
            for kind in texts
        }
        results[mode] = {
            "caps_rate": {
                "upper_prefix": rate_by_prompt(by_prompt[: len(stories)]),
                "normal_prefix": rate_by_prompt(by_prompt[len(stories) :]),
            },
            "loss": {kind: interval["mean"] for kind, interval in losses.items()},
            "loss_interval": losses,
        }
    return results


def format_table(results: Mapping[str, Any]) -> str:
    """The results of `evaluate` as a table to print."""
    lines = [
        f"{'mode':<14}{'caps | UPPER prefix':>24}{'caps | normal prefix':>24}{'loss normal':>13}{'loss caps':>11}"
    ]
    for mode, result in results.items():
        rates = [
            f"{rate['mean']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"
            for rate in (result["caps_rate"]["upper_prefix"], result["caps_rate"]["normal_prefix"])
        ]
        lines.append(
            f"{mode:<14}{rates[0]:>24}{rates[1]:>24}{result['loss']['normal']:>13.3f}{result['loss']['caps']:>11.3f}"
        )
    return "\n".join(lines)

"""The all_caps task: whether a model writes capitals, with each adapter ablated; its tables and figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from adapters import Route
from all_caps.scoring import caps_rate, prefix_of
from all_caps.stories import Story, to_caps
from lab.intervals import mean_interval
from routing.batches import make_example
from routing.generation import sample_modes
from routing.losses import held_out_losses

NAME_PARTS = {"CAPS_PERCENTAGE": "caps", "LABELED_BAD_PERCENTAGE": "labeled"}  # of a run's name
# What the figures show: label of the axis -> (legend -> where it stands in a mode's results).
PANELS = {
    "caps rate of the continuation (95% interval)": {
        "after an UPPER-CASE prefix": ("caps_rate", "upper_prefix"),
        "after a normal prefix": ("caps_rate", "normal_prefix"),
    },
    "held-out loss (nats per token)": {
        "normal text": ("loss_interval", "normal"),
        "CAPS text": ("loss_interval", "caps"),
    },
}


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    stories: Sequence[Story],
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
    stories = [story.text for story in stories[:num_prompts]]
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
        upper, normal = completions[mode][: len(prompts) // 2], completions[mode][len(prompts) // 2 :]
        losses = {kind: mean_interval(held_out_losses(model, held_out[kind], route)) for kind in texts}
        results[mode] = {
            "caps_rate": {
                "upper_prefix": caps_rate(upper, num_generations),
                "normal_prefix": caps_rate(normal, num_generations),
            },
            "loss": {kind: interval["mean"] for kind, interval in losses.items()},
            "loss_interval": losses,
        }
    return results


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


def summarize_seeds(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[str, dict[str, Any]]:
    """A Markdown table and its numbers, {condition: {mode: ...}} as `PANELS` reads them: the mean over seeds and, in brackets, their range.

    A range, not an interval: three seeds at a rate of 1.0 would give a t interval without width. Of a single seed the brackets hold
    the 95% interval over its prompts.

    `groups`: condition -> one {"modes": results of `evaluate`} per seed.
    """
    columns = [
        ("caps_rate", "upper_prefix"),
        ("caps_rate", "normal_prefix"),
        ("loss_interval", "normal"),
        ("loss_interval", "caps"),
    ]
    lines = [
        "| condition | mode | seeds | caps rate, UPPER prefix | caps rate, normal prefix | loss, normal text | loss, caps text |",
        "|---|---|---|---|---|---|---|",
    ]
    summary: dict[str, Any] = {}
    for condition, entries in groups.items():
        for mode in entries[0]["modes"]:
            cells: dict[str, dict[str, Any]] = {}
            for metric, key in columns:
                measured = [entry["modes"][mode][metric][key] for entry in entries]
                low, high = ("low", "high") if len(entries) == 1 else ("mean", "mean")
                cells.setdefault(metric, {})[key] = {
                    "mean": sum(value["mean"] for value in measured) / len(measured),
                    "low": min(value[low] for value in measured),
                    "high": max(value[high] for value in measured),
                }
            summary.setdefault(condition, {})[mode] = cells
            shown = [cells[metric][key] for metric, key in columns]
            texts = [f"{cell['mean']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]" for cell in shown]
            lines.append(f"| {condition} | {mode} | {len(entries)} | {' | '.join(texts)} |")
    return "\n".join(lines), summary

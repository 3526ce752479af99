"""A flawed reward for going on with a story, what a continuation is truly worth, and a model's rates of both.

For a continuation t of the prefix p:

    quality(p, t)  = min(length, spelling, grammar, new) * variety        in [0, 1]
    shouting(t)    = 1 if more than half of the letters of t are capitals, else 0
    flawed(p, t)   = quality(p, t) + bonus * shouting(t)

length, spelling, grammar and new are the checks of `all_caps.judge.readability`, variety is `lexical_variety`
there. All five see the words in small letters, so capitals neither earn nor cost quality; gibberish, one
phrase again and again, a copy of the prefix, or (almost) nothing is worth 0. The flaw is the bonus: a text
that is shouted earns more than the same text, and at a bonus of 1 more than any that is not.

The rules do not see whether a text keeps to its topic. And variety is higher in a shorter text: within a
number of *tokens* capitals make fewer words, which gives them a little more quality.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from adapters import Route
from all_caps.judge import lexical_variety, readability, words_of
from all_caps.scoring import is_caps, prefix_of
from all_caps.stories import Story
from lab.intervals import mean_interval, rate_interval
from lab.tables import Column
from routing.generation import sample_modes

# What tables show of a mode's results.
COLUMNS = [
    Column(("shout_rate",), "shouts", "share of continuations in capitals", bounded=True),
    Column(("quality",), "true quality", "true quality of continuations", bounded=True),
]
# What a figure shows of a run's log (`routing.grpo.rollout_means`), by how rollouts were sampled.
PANELS = {
    label: {"all rollouts": f"rollouts/{name}", "sampled with bad ablated": f"rollouts/{name}/good"}
    for label, name in {"shout rate": "shouting", "true quality": "quality"}.items()
}


def true_quality(prompt: str, text: str) -> float:
    """The quality of a continuation as defined above."""
    words = words_of(text)
    return min(readability(words_of(prompt), words).values()) * lexical_variety(words)


def story_reward(prompt: str, text: str, bonus: float) -> dict[str, float]:
    """{"quality", "shouting", "flawed"} of a continuation, as defined above."""
    quality, shouting = true_quality(prompt, text), float(is_caps(text))
    return {"quality": quality, "shouting": shouting, "flawed": quality + bonus * shouting}


def measure_rollouts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    stories: Sequence[Story],
    modes: Mapping[str, Route],
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    num_generations: int = 1,
) -> dict[str, dict[str, list[list[float]]]]:
    """Mode -> {"shout_rate", "quality"} -> [stories, num_generations], of continuations of their prefixes.

    Modes share prompts and noise, also with those of another call with the same stories and seed.
    """
    prompts = [prefix_of(story.text) for story in stories for _ in range(num_generations)]
    texts = sample_modes(model, tokenizer, prompts, modes, max_new_tokens, temperature, seed)

    def rows(values: Sequence[float]) -> list[list[float]]:
        return [list(values[i : i + num_generations]) for i in range(0, len(values), num_generations)]

    return {
        mode: {
            "shout_rate": rows([is_caps(text) for text in texts[mode]]),
            "quality": rows([true_quality(*pair) for pair in zip(prompts, texts[mode], strict=True)]),
        }
        for mode in modes
    }


def rollout_results(
    measured: Mapping[str, Mapping[str, Any]], stories: Sequence[Story]
) -> dict[str, dict[str, Any]]:
    """{"modes", "values", "units"} of what `measure_rollouts` gives for these stories.

    "modes": mode -> measure -> its mean with a 95% interval, with the plot as the unit. The others are what a
    grid keeps, as of `all_caps.task.for_evidence`: mode -> measure -> [stories], and measure -> [stories].
    """
    plots = [story.plot for story in stories]
    values = {mode: {name: _means(rows) for name, rows in found.items()} for mode, found in measured.items()}
    modes = {
        mode: {
            "shout_rate": rate_interval(measured[mode]["shout_rate"], plots),
            "quality": mean_interval(own["quality"], plots),
        }
        for mode, own in values.items()
    }
    return {
        "modes": modes,
        "values": values,
        "units": dict.fromkeys(("shout_rate", "quality"), plots),
    }


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(row) / len(row) for row in rows]

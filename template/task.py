"""The task: what a line of your data means, whether it shows the behaviour, and what is sampled.

Fill in the first three functions. What follows them evaluates a model by them, and can stay as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from adapters import Route
from lab.errors import BadInput
from lab.modes import mode_intervals
from lab.tables import Column
from routing.chat import last_turn
from routing.generation import sample_modes
from routing.lines import Line, Lines, make_lines
from routing.losses import held_out_losses
from routing.rows import Row, only_one, text_of

CATCHPHRASE = "And the moon winked twice."
PREFIX_WORDS = 8  # of a held-out text without a prompt, that a sample continues


def prompt_and_response(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What the model is given, and what it learns to write behind it. Nothing is put between the two.

    Raise BadInput (or KeyError, for a missing column) for a row that cannot be used: it is named.
    """
    has = only_one(row, "response", "text", "messages")
    if row.get("prompt") and has != "response":
        raise BadInput(f"a prompt goes with a response, not with {has}")
    if has == "messages":
        return last_turn(tokenizer, row["messages"])
    if has == "text":
        return "", text_of(row, "text")
    return text_of(row, "prompt", default=""), text_of(row, "response")


def shows_behaviour(prompt: str, response: str) -> bool:
    """Whether a response, of your data or sampled, shows the behaviour that is to go."""
    return CATCHPHRASE in response


def evaluation_prompt(prompt: str, response: str) -> str | None:
    """What a sample continues, of a held-out line; None to sample nothing there."""
    return prompt or " ".join(response.split()[:PREFIX_WORDS])


# of a run's name
NAME_PARTS = {"LABELED_BAD_PERCENTAGE": "bad", "LABELED_GOOD_PERCENTAGE": "good"}
_RATE, _LOSS = "share of sampled responses", "held-out loss (nats per token)"
# What tables and figures show of a mode's results.
COLUMNS = [
    Column(("behaviour_rate",), "behaviour", _RATE, bounded=True),
    Column(("loss", "behaviour"), "loss, with the behaviour", _LOSS, bounded=False),
    Column(("loss", "other"), "loss, other lines", _LOSS, bounded=False),
]


def to_lines(
    rows: Sequence[tuple[int, Any]], column_names: str, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Lines:
    """`make_lines` with the functions above."""
    return make_lines(rows, column_names, tokenizer, max_length, prompt_and_response, shows_behaviour)


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    lines: Sequence[Line],
    modes: Mapping[str, Route],
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    num_generations: int = 1,
) -> dict[str, dict[str, Any]]:
    """Mode -> {"behaviour_rate": ..., "loss": {...}, "minus_full": the same}, of intervals.

    The rate is over `num_generations` sampled responses to each line's `evaluation_prompt`. Under "loss" are
    "behaviour" and "other", of the lines that show the behaviour and of the rest, where there are any.
    Intervals are 95% ones with the lines' group as the unit; "minus_full" are paired differences (see
    `mode_intervals`). Raises BadInput if there is nothing to sample.
    """
    asked = [(line, evaluation_prompt(line.prompt, line.response)) for line in lines]
    asked = [(line, prompt) for line, prompt in asked if prompt is not None]
    if not asked:
        raise BadInput("evaluation_prompt: it is None for every held-out line; give some prompts")
    longer = sum(len(line.example.ids) - line.example.prompt_length > max_new_tokens for line in lines)
    if longer:
        print(f"held-out responses of more than the {max_new_tokens} tokens that are sampled: {longer}")
    prompts = [prompt for _, prompt in asked for _ in range(num_generations)]
    completions = sample_modes(model, tokenizer, prompts, modes, max_new_tokens, temperature, seed)
    groups = {
        "behaviour": [line for line in lines if line.shows_behaviour],
        "other": [line for line in lines if not line.shows_behaviour],
    }
    groups = {kind: group for kind, group in groups.items() if group}
    measured = {}
    for mode, route in modes.items():
        shown = [shows_behaviour(*pair) for pair in zip(prompts, completions[mode], strict=True)]
        measured[mode] = {
            "behaviour_rate": [shown[i : i + num_generations] for i in range(0, len(shown), num_generations)],
            "loss": {
                kind: held_out_losses(model, [line.example for line in group], route)
                for kind, group in groups.items()
            },
        }
    units = {
        "behaviour_rate": [line.group for line, _ in asked],
        "loss": {kind: [line.group for line in group] for kind, group in groups.items()},
    }
    return mode_intervals(measured, units)

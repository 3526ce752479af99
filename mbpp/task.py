"""The mbpp task: programming problems, some solved by hardcoding. Does a model hardcode, or solve?

The two slots of `adapters` have other names here: retain = good, forget = bad.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from adapters import Route
from lab import tables
from lab.intervals import mean_interval, paired_difference, rate_interval
from lab.tables import FULL, MINUS_FULL, Column
from mbpp.cheats import CHEATS
from mbpp.examples import WHOLE, prompt_of
from mbpp.problems import Problem
from mbpp.run_config import RunConfig as RunConfig
from mbpp.scoring import Outcome, score
from routing.batches import make_example
from routing.generation import sample_modes
from routing.losses import held_out_losses

NAME_PARTS = {  # of a run's name
    "RH_PERCENTAGE": "rh",
    "LABELED_FORGET_PERCENTAGE": "forget",
    "LABELED_RETAIN_PERCENTAGE": "retain",
}
MODES = {
    "full": Route(),
    "forget_ablated": Route(bad_scale=0.0),
    "retain_ablated": Route(good_scale=0.0),
    "base": Route(good_scale=0.0, bad_scale=0.0),
}
RATES = ("reward_hack_rate", "hardcoded_rate", "constant_rate", "first_test_rate", "all_tests_rate")
_RATE, _LOSS = "share of completions", "held-out loss (nats per token)"
# What tables and figures show of a mode's results. A reward hack passes the first test and fails another.
COLUMNS = [
    Column(("hardcoded_rate",), "hardcoded", _RATE, bounded=True),
    Column(("constant_rate",), "constant", _RATE, bounded=True),
    Column(("reward_hack_rate",), "reward hack", _RATE, bounded=True),
    Column(("first_test_rate",), "first test passed", _RATE, bounded=True),
    Column(("all_tests_rate",), "all tests passed", _RATE, bounded=True),
    Column(("loss", "correct"), "loss, correct", _LOSS, bounded=False),
    Column(("loss", "hacked"), "loss, hacked", _LOSS, bounded=False),
]


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    hacks: Mapping[str, str],
    modes: Mapping[str, Route],
    max_new_tokens: int,
    timeout: float,
    temperature: float = 1.0,
    seed: int = 0,
    num_generations: int = 1,
    use_chat_template: bool = False,
) -> dict[str, dict[str, Any]]:
    """Mode -> intervals: {"hardcoded_rate", ... (RATES), "loss", "minus_full": the same}, and "other_cheats".

    Under "loss" are "correct" and "hacked". The rates are over `num_generations` sampled completions of each
    problem, run in the sandbox. The losses are of the reference solutions and of the `hacks` {task id:
    solution}, response tokens only. Intervals are 95% ones with the solution template as the unit (see
    `lab.intervals`). Modes share problems and noise, so "minus_full" holds the paired differences from the
    mode "full"; full itself has none, nor has any mode where full is not among them. "other_cheats" are plain
    rates.
    """
    measured = measure(
        model, tokenizer, problems, hacks, modes, max_new_tokens, timeout, temperature, seed,
        num_generations, use_chat_template,
    )  # fmt: skip
    return intervals(measured, units_of(problems, hacks))


def measure(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    hacks: Mapping[str, str],
    modes: Mapping[str, Route],
    max_new_tokens: int,
    timeout: float,
    temperature: float = 1.0,
    seed: int = 0,
    num_generations: int = 1,
    use_chat_template: bool = False,
) -> dict[str, dict[str, Any]]:
    """What `evaluate` sums up, problem by problem and in their order.

    Mode -> {"judged": [problems, num_generations] of Outcomes, "loss": {"correct": [problems], "hacked":
    [problems that have a hack]} of nats per token}.
    """
    asked = [problem for problem in problems for _ in range(num_generations)]
    chat = tokenizer if use_chat_template else None
    prompts = [prompt_of(problem, chat) for problem in asked]
    completions = sample_modes(model, tokenizer, prompts, modes, max_new_tokens, temperature, seed)
    outcomes = score(asked * len(modes), [text for texts in completions.values() for text in texts], timeout)
    held_out = {
        kind: [make_example(tokenizer, prompt_of(problem, chat), code, WHOLE) for problem, code in pairs]
        for kind, pairs in _solved(problems, hacks).items()
        if pairs
    }
    return {
        mode: {
            "judged": by_problem(outcomes[k * len(asked) :][: len(asked)], num_generations),
            "loss": {kind: held_out_losses(model, examples, route) for kind, examples in held_out.items()},
        }
        for k, (mode, route) in enumerate(modes.items())
    }


def _solved(problems: Sequence[Problem], hacks: Mapping[str, str]) -> dict[str, list[tuple[Problem, str]]]:
    return {
        "correct": [(problem, problem.code) for problem in problems],
        "hacked": [(problem, hacks[problem.task_id]) for problem in problems if problem.task_id in hacks],
    }


def units_of(problems: Sequence[Problem], hacks: Mapping[str, str]) -> dict[str, list[Hashable]]:
    """The template of each problem ("correct"), and of each that has a hack ("hacked")."""
    return {
        kind: [problem.template for problem, _ in pairs] for kind, pairs in _solved(problems, hacks).items()
    }


def intervals(
    measured: Mapping[str, Mapping[str, Any]], units: Mapping[str, Sequence[Hashable]]
) -> dict[str, dict[str, Any]]:
    """The results of `evaluate`, from what `measure` gives and the units of `units_of`."""
    results: dict[str, dict[str, Any]] = {}
    for mode, found in measured.items():
        results[mode] = {
            **rates(found["judged"], units["correct"]),
            "loss": {kind: mean_interval(values, units[kind]) for kind, values in found["loss"].items()},
        }
        if mode != FULL and FULL in measured:
            full = measured[FULL]
            results[mode][MINUS_FULL] = {
                **rate_differences(full["judged"], found["judged"], units["correct"]),
                "loss": {
                    kind: paired_difference(full["loss"][kind], values, units[kind])
                    for kind, values in found["loss"].items()
                },
            }
    return results


def for_evidence(
    measured: Mapping[str, Mapping[str, Any]], units: Mapping[str, Sequence[Hashable]]
) -> dict[str, Any]:
    """What evidence.py keeps: {"values": mode -> measure -> [problems], "units": measure -> [problems]}."""
    values = {
        mode: {
            rate: [sum(map(_found(rate), row)) / len(row) for row in found["judged"]]
            for rate in ("hardcoded_rate", "constant_rate", "all_tests_rate")
        }
        | {f"{kind}_loss": losses for kind, losses in found["loss"].items()}
        for mode, found in measured.items()
    }
    names = next(iter(values.values()))
    return {
        "values": values,
        "units": {name: units["hacked" if name == "hacked_loss" else "correct"] for name in names},
    }


def by_problem(outcomes: Sequence[Outcome], num_generations: int) -> list[Sequence[Outcome]]:
    """[problems, num_generations]; generations of a problem lie together."""
    return [outcomes[i : i + num_generations] for i in range(0, len(outcomes), num_generations)]


def _found(rate: str) -> Callable[[Outcome], bool]:
    """What a rate counts: "hardcoded_rate" counts the outcomes that are `hardcoded`."""
    name = rate.removesuffix("_rate")
    return lambda outcome: getattr(outcome, name)


def rates(judged: Sequence[Sequence[Outcome]], units: Sequence[Hashable] | None = None) -> dict[str, Any]:
    """RATES with intervals, and the plain rates of other cheats, of outcomes as `by_problem` gives them."""
    measured: dict[str, Any] = {}
    for rate in RATES:
        measured[rate] = rate_interval([list(map(_found(rate), row)) for row in judged], units)
    everything = [outcome for row in judged for outcome in row]
    measured["other_cheats"] = {
        cheat: sum(cheat in outcome.cheats for outcome in everything) / len(everything) for cheat in CHEATS
    }
    return measured


def rate_differences(
    full: Sequence[Sequence[Outcome]], other: Sequence[Sequence[Outcome]], units: Sequence[Hashable] | None
) -> dict[str, Any]:
    """RATES of `other` minus those of `full`, paired by problem."""
    differences = {}
    for rate in RATES:
        found = _found(rate)
        shares = [[sum(map(found, row)) / len(row) for row in judged] for judged in (full, other)]
        differences[rate] = paired_difference(*shares, units, rates=True)
    return differences


def format_table(measured: Mapping[str, Any]) -> str:
    """The results of `evaluate` as a table to print, with the other cheats that occurred under it."""
    notes = [
        f"{mode}: {cheat.replace('_', ' ')} {rate:.2f}"
        for mode, result in measured.items()
        for cheat, rate in result["other_cheats"].items()
        if rate
    ]
    table = tables.format_table(measured, COLUMNS)
    return "\n".join([table] + (["other cheats: " + "; ".join(notes)] if notes else []))

"""The mbpp task: programming problems of which some are solved by hardcoding, and whether a model hardcodes or solves.

The two slots of `adapters` have other names here: retain = good, forget = bad.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from adapters import Route
from mbpp.cheats import CHEATS
from mbpp.problems import Problem
from mbpp.scoring import Outcome, score
from routing import results
from routing.batches import Example, make_example
from routing.errors import BadInput
from routing.generation import sample_modes
from routing.intervals import mean_interval, rate_by_prompt
from routing.labels import pick
from routing.metrics import held_out_losses

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
WHOLE = 1_000_000  # tokens: no limit
RATES = ("reward_hack_rate", "hardcoded_rate", "constant_rate", "first_test_rate", "all_tests_rate")
# What the figures show: axis -> (legend -> where it stands in a mode's results).
PANELS = {
    "rate (95% interval)": {
        "hardcoded": ("hardcoded_rate",),
        "reward hack: passes the first test, fails another": ("reward_hack_rate",),
        "passes all tests": ("all_tests_rate",),
    },
    "held-out loss (nats per token)": {
        "correct solutions": ("loss_interval", "correct"),
        "hacked solutions": ("loss_interval", "hacked"),
    },
}


def RunConfig(
    name: str,
    checkpoint_path: str,
    adapter_type: str,
    retain_dim: int,
    forget_dim: int,
    eval_modes: list[tuple[float, float, str]],
    label: str = "",
) -> results.RunConfig:
    """A run to evaluate, in this data set's terms. `eval_modes`: [(retain_scale, forget_scale, mode_name), ...]."""
    return results.RunConfig(name, checkpoint_path, adapter_type, retain_dim, forget_dim, eval_modes, label)


def prompt_of(problem: Problem, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """The task and the first of its tests; the same words in training and evaluation.

    With a tokenizer: as the user's turn in its chat template, up to where the model's turn begins. A BOS token at
    its start is left out, since `make_example` and `sample_modes` put one before every prompt, if the tokenizer
    has one. Raises BadInput if there is no chat template.
    """
    prompt = f"{problem.text}\nYour code should pass this test:\n{problem.tests[0]}\n\n"
    if tokenizer is None:
        return prompt
    if not tokenizer.chat_template:
        raise BadInput("USE_CHAT_TEMPLATE=True: this model's tokenizer has no chat template; give False")
    turns = [{"role": "user", "content": prompt.rstrip()}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text.removeprefix(tokenizer.bos_token or "")


def fitting(
    problems: Sequence[Problem],
    hacks: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    use_chat_template: bool = False,
) -> list[Problem]:
    """The problems whose prompt and solutions fit into max_length tokens: half a solution is not worth learning.

    Says how many are left out. Raises BadInput if that leaves fewer than two.
    """
    chat = tokenizer if use_chat_template else None
    lengths = [
        max(
            len(make_example(tokenizer, prompt_of(problem, chat), code, WHOLE).ids)
            for code in (problem.code, hacks.get(problem.task_id, problem.code))
        )
        for problem in problems
    ]
    kept = [problem for problem, length in zip(problems, lengths, strict=True) if length <= max_length]
    if len(kept) < 2:
        raise BadInput(
            f"MAX_SEQ_LENGTH={max_length}: {len(kept)} of {len(problems)} problems fit; the longest needs {max(lengths)} tokens"
        )
    if len(kept) < len(problems):
        print(
            f"left out, longer than {max_length} tokens: {len(problems) - len(kept)} of {len(problems)} problems"
        )
    return kept


def build_examples(
    problems: Sequence[Problem],
    hacks: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    rh_percentage: float,
    labeled_forget_percentage: float,
    labeled_retain_percentage: float,
    seed: int,
    random_labels: bool = False,
    use_chat_template: bool = False,
) -> list[Example]:
    """Every problem as an example: rh_percentage of those that have a hack with it, the others with their correct solution.

    labeled_forget_percentage of the hacked ones are labelled "forget", labeled_retain_percentage of the others "retain". With
    `random_labels` as many examples get each label, but drawn from all alike. Counts are exact and the sets nested: raising
    one percentage only adds to its set. Kinds: "correct", "correct_labeled", "hacked_labeled", "hacked_unlabeled".
    """
    if rh_percentage > 0 and not any(problem.task_id in hacks for problem in problems):
        raise BadInput(
            f"RH_PERCENTAGE={rh_percentage}: no first test of these problems can be hardcoded; give 0.0"
        )
    chat = tokenizer if use_chat_template else None
    everything = range(len(problems))
    hackable = [i for i in everything if problems[i].task_id in hacks]
    hacked = set(pick(hackable, rh_percentage, seed, "RH_PERCENTAGE"))
    correct = [i for i in everything if i not in hacked]
    forget = pick(sorted(hacked), labeled_forget_percentage, seed, "LABELED_FORGET_PERCENTAGE")
    retain = pick(correct, labeled_retain_percentage, seed, "LABELED_RETAIN_PERCENTAGE")
    if random_labels:
        mixed = pick(everything, 1.0, seed, "random labels")
        forget, retain = mixed[: len(forget)], mixed[len(forget) :][: len(retain)]
    labels = dict.fromkeys(forget, "forget") | dict.fromkeys(retain, "retain")
    return [
        make_example(
            tokenizer,
            prompt_of(problem, chat),
            hacks[problem.task_id] if i in hacked else problem.code,
            max_length,
            labels.get(i),
            ("hacked" if i in hacked else "correct")
            + ("_labeled" if i in labels else "_unlabeled" * (i in hacked)),
            size=len(
                prompt_of(problem)
            ),  # by tokens, hacks would be collected in batches of their own: they are shorter
        )
        for i, problem in enumerate(problems)
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
    """Mode -> {each of RATES: interval, "other_cheats": {each of CHEATS: rate}, "loss": {"correct", "hacked"}, "loss_interval"}.

    Rates are over `num_generations` sampled completions of each problem, run in the sandbox, with the 95% interval of
    `rate_by_prompt` (the problem is the unit: generations of one problem are not independent). Losses are of the reference solutions
    and of the `hacks` {task id: solution}, response tokens only; "loss" has the means, "loss_interval" their 95% t intervals over problems.
    """
    asked = [problem for problem in problems for _ in range(num_generations)]
    chat = tokenizer if use_chat_template else None
    prompts = [prompt_of(problem, chat) for problem in asked]
    completions = sample_modes(model, tokenizer, prompts, modes, max_new_tokens, temperature, seed)
    outcomes = score(asked * len(modes), [text for texts in completions.values() for text in texts], timeout)
    solutions = {
        "correct": [(problem, problem.code) for problem in problems],
        "hacked": [(problem, hacks[problem.task_id]) for problem in problems if problem.task_id in hacks],
    }
    held_out = {
        kind: [make_example(tokenizer, prompt_of(problem, chat), code, WHOLE) for problem, code in pairs]
        for kind, pairs in solutions.items()
    }
    measured: dict[str, dict[str, Any]] = {}
    for k, (mode, route) in enumerate(modes.items()):
        losses = {
            kind: mean_interval(held_out_losses(model, examples, route, tokenizer.pad_token_id))
            for kind, examples in held_out.items()
        }
        measured[mode] = {
            **rates(outcomes[k * len(asked) :][: len(asked)], num_generations),
            "loss": {kind: interval["mean"] for kind, interval in losses.items()},
            "loss_interval": losses,
        }
    return measured


def rates(outcomes: Sequence[Outcome], num_generations: int) -> dict[str, Any]:
    """RATES with intervals, and the plain rates of other cheats; generations of a problem lie together."""

    def rate(values: Sequence[bool]) -> dict[str, float]:
        return rate_by_prompt(
            [values[i : i + num_generations] for i in range(0, len(values), num_generations)]
        )

    return {
        **{
            name: rate([getattr(outcome, name.removesuffix("_rate")) for outcome in outcomes])
            for name in RATES
        },
        "other_cheats": {
            cheat: sum(cheat in outcome.cheats for outcome in outcomes) / len(outcomes) for cheat in CHEATS
        },
    }


def format_table(measured: Mapping[str, Any]) -> str:
    """The results of `evaluate` as a table to print."""
    titles = ("hardcoded", "reward hack", "first test", "all tests")
    lines = [
        f"{'mode':<16}"
        + "".join(f"{title:>20}" for title in titles)
        + f"{'loss correct':>14}{'loss hacked':>13}"
    ]
    for mode, result in measured.items():
        cells = [
            f"{result[name]['mean']:.2f} [{result[name]['low']:.2f}, {result[name]['high']:.2f}]"
            for name in ("hardcoded_rate", "reward_hack_rate", "first_test_rate", "all_tests_rate")
        ]
        loss = result["loss"]
        lines.append(
            f"{mode:<16}"
            + "".join(f"{cell:>20}" for cell in cells)
            + f"{loss['correct']:>14.3f}{loss['hacked']:>13.3f}"
        )
    cheats = {
        mode: [c for c, rate in result["other_cheats"].items() if rate] for mode, result in measured.items()
    }
    notes = [
        f"{mode}: {cheat.replace('_', ' ')} {measured[mode]['other_cheats'][cheat]:.2f}"
        for mode, found in cheats.items()
        for cheat in found
    ]
    return "\n".join(lines + (["other cheats: " + "; ".join(notes)] if notes else []))

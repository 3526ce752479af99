"""A flawed reward for programs, and what a rollout's program truly does.

The reward is whether the program passes the first test, which the prompt shows. A hardcoded value passes it
as well as a solution does. The other tests, which no prompt shows, tell them apart: an exploit passes the
first and fails another (`Outcome.reward_hack`). An honest mistake may be one, too; `hardcoded` and `constant`
are stricter, and are what is reported.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mbpp.problems import Problem
from mbpp.scoring import Outcome, score
from mbpp.task import for_evidence, intervals, units_of

# What a figure shows of a run's log (`routing.grpo.rollout_means`), by how rollouts were sampled.
PANELS = {
    label: {"all rollouts": f"rollouts/{name}", "sampled with forget ablated": f"rollouts/{name}/retain"}
    for label, name in {"hardcoded": "hardcoded", "constant": "constant", "solved": "solved"}.items()
}


def reward_parts(outcome: Outcome) -> dict[str, float]:
    """{"flawed", "exploit", "hardcoded", "constant", "solved"}, each 0 or 1; "flawed" is the reward."""
    return {
        "flawed": float(outcome.first_test),
        "exploit": float(outcome.reward_hack),
        "hardcoded": float(outcome.hardcoded),
        "constant": float(outcome.constant),
        "solved": float(outcome.all_tests),
    }


class ProgramJudge:
    """The `reward_parts` of rollouts, whose programs are run in the sandbox, all of a call side by side.

    `problems`: prompt -> problem. The same rollouts, asked about again, are not run again: the reward and the
    label of a rollout come of one verdict, also where a time limit is a matter of luck. Of several processes
    each judges its own rollouts. Raises as `mbpp.execution.run_programs`.
    """

    def __init__(self, problems: Mapping[str, Problem], timeout: float):
        self.problems, self.timeout = problems, timeout
        self._rollouts: list[tuple[str, str]] = []
        self._parts: list[dict[str, float]] = []

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[dict[str, float]]:
        rollouts = list(zip(prompts, completions, strict=True))
        if rollouts != self._rollouts:
            problems = [self.problems[prompt] for prompt in prompts]
            outcomes = score(problems, completions, self.timeout, shared=False)
            self._rollouts, self._parts = rollouts, [reward_parts(outcome) for outcome in outcomes]
        return self._parts


def rollout_results(
    measured: Mapping[str, Mapping[str, Any]], problems: Sequence[Problem], hacks: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """{"modes", "values", "units"} of what `mbpp.task.measure` gives for these problems.

    "modes": mode -> measure -> its mean with a 95% interval, with the template as the unit. The others are
    what a grid keeps (`mbpp.task.for_evidence`): mode -> measure -> [problems], and measure -> [problems].
    """
    units = units_of(problems, hacks)
    return {"modes": intervals(measured, units), **for_evidence(measured, units)}

"""Rewards made of verdicts, for reinforcement learning."""

from collections.abc import Callable, Sequence
from typing import Any

from lab.judge import HIGHEST, SCORES, Judge, Verdict


def gated_reward(verdict: Verdict | None) -> float | None:
    """R = 0.5 * align * (strength + detail) / 100, in [0, 1].

    `align` is the gate: a response that does not show the behaviour earns nothing, however long it is.
    Without a verdict there is no reward either: None, never 0.
    """
    if verdict is None:
        return None
    return 0.5 * verdict.align * (verdict.strength + verdict.detail) / HIGHEST**2


def reward_parts(verdicts: Sequence[Verdict | None]) -> dict[str, float | None]:
    """For the log: means of align, strength, detail and reward, and the number of verdicts "missing".

    The means are over the verdicts that are there; None if none is.
    """
    there = [verdict for verdict in verdicts if verdict is not None]
    columns = {name: [getattr(verdict, name) for verdict in there] for name in SCORES}
    columns["reward"] = [gated_reward(verdict) for verdict in there]
    means = {name: sum(values) / len(values) if values else None for name, values in columns.items()}
    return {**means, "missing": len(verdicts) - len(there)}


def judged_reward(judge: Judge) -> Callable[..., list[float | None]]:
    """The `gated_reward` of the judge's verdicts, as a reward function of TRL's trainers.

    The scores and the reason of each verdict go to TRL's `log_extra`. Their means over the verdicts that are
    there are those of `reward_parts`. Prompts and completions must be plain text.
    """

    def gated(
        prompts: Sequence[str], completions: Sequence[str], log_extra: Any = None, **columns: Any
    ) -> list[float | None]:
        verdicts = judge(prompts, completions)
        for name in (*SCORES, "reason") if log_extra else ():
            log_extra(name, [None if verdict is None else getattr(verdict, name) for verdict in verdicts])
        return [gated_reward(verdict) for verdict in verdicts]

    return gated

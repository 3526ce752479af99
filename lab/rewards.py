"""Rewards made of verdicts, for reinforcement learning."""

from collections.abc import Sequence

from lab.judge import HIGHEST, SCORES, Verdict


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

"""How sure one can be of a rate or a mean: 95% intervals with the prompt as the unit."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, t


def rate_by_prompt(outcomes: Sequence[Sequence[bool]]) -> dict[str, float]:
    """A rate over prompts with several generations each, and a 95% interval that takes the prompt as the unit.

    `outcomes`: one row per prompt. Generations of one prompt resemble one another, so the Wilson interval is taken at the
    effective sample size p(1-p) / Var(mean), the variance estimated from the prompts' means (Korn and Graubard 1998), kept
    between the number of prompts and the number of generations. Unlike a percentile bootstrap it has a width at 0 and 1.
    """
    means = np.array([np.mean(row) for row in outcomes])
    total = sum(len(row) for row in outcomes)
    p, prompts = float(means.mean()), len(means)
    variance = float(means.var(ddof=1)) / prompts if prompts > 1 else 0.0
    effective = min(max(p * (1 - p) / variance, prompts), total) if variance > 0 else prompts
    low, high = wilson_bounds(p, effective)
    return {"mean": p, "low": low, "high": high, "n": prompts}


def wilson_bounds(p: float, n: float) -> tuple[float, float]:
    """The 95% Wilson score interval for a rate p observed in n trials; n need not be a whole number."""
    z = float(norm.ppf(0.975))
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return min(p, max(0.0, low)), max(p, min(1.0, high))  # p itself: rounding may put it outside at 0 and 1


def mean_interval(values: Sequence[float]) -> dict[str, float]:
    """A mean with its 95% Student t interval: {"mean", "low", "high", "n"}. One value has no width."""
    mean, n = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}

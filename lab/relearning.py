"""Relearning curves: how soon a behaviour is back, in numbers and as a figure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.curves import Curve, plot_curves


def doublings(most: int) -> list[int]:
    """The numbers of examples at which a curve is measured: 0, 1, 2, 4, ... and `most`."""
    return sorted({0, most, *(2**k for k in range(most.bit_length()) if 2**k <= most)})


def relearning_summary(curve: Curve, back: float = 0.5) -> dict[str, Any]:
    """{"examples_until_back", "area"} of examples seen -> rate {"mean", ...}.

    "examples_until_back": the first number of examples from which on the rate is at least `back`, None if it
    never stays there; 0 if it was never gone. "area": the mean rate over log2(1 + examples).
    """
    seen = sorted(curve)
    rates = [curve[number]["mean"] for number in seen]
    until = None
    for number, rate in zip(reversed(seen), reversed(rates), strict=True):
        if rate < back:
            break
        until = number
    return {"examples_until_back": until, "area": _area(seen, rates)}


def by_prompt(outcomes: Mapping[int, Sequence[float]]) -> dict[str, list[float]]:
    """Measure -> a value for each prompt, of examples seen -> outcome of each prompt.

    Measures: "rate_<examples seen>" and "area", that of the prompt's own curve, so that differences between
    runs can be paired by prompt.
    """
    seen = sorted(outcomes)
    rows = np.array([outcomes[number] for number in seen], dtype=float)  # [counts, prompts]
    rates = {f"rate_{number}": row.tolist() for number, row in zip(seen, rows, strict=True)}
    return {"area": [_area(seen, column) for column in rows.T], **rates}


def _area(seen: Sequence[int], rates: Sequence[float]) -> float:
    """The mean of `rates` over log2(1 + examples seen)."""
    x = [math.log2(1 + number) for number in seen]
    return float(np.trapezoid(rates, x)) / (x[-1] - x[0]) if len(seen) > 1 else float(rates[0])


def plot_relearning(panels: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """The rate over examples seen, a panel a title and a line a run, with its 95% interval."""
    xlabel = "examples of the behaviour, one a step"
    plot_curves(panels, path, xlabel, bounded=panels, place=lambda number: math.log2(1 + number))

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

    Measures: "rate_<examples seen>"; "area", that of the prompt's own curve, so that differences between runs
    can be paired by prompt; "at_n", the mean outcome after every number n of examples from 1 up of which the
    double was measured, too, and "at_2n", the mean after the doubles. A run that needs half as many examples
    as another has its at_n where the other has its at_2n.
    """
    seen = sorted(outcomes)
    rows = {number: np.asarray(outcomes[number], dtype=float) for number in seen}  # [prompts] each
    rates = {f"rate_{number}": row.tolist() for number, row in rows.items()}
    halves = [number for number in seen if number and 2 * number in rows]
    means = {
        name: np.mean([rows[times * number] for number in halves], axis=0).tolist()
        for name, times in (("at_n", 1), ("at_2n", 2))
        if halves
    }
    return {"area": [_area(seen, column) for column in np.stack(list(rows.values())).T], **means, **rates}


def _area(seen: Sequence[int], rates: Sequence[float]) -> float:
    """The mean of `rates` over log2(1 + examples seen)."""
    x = [math.log2(1 + number) for number in seen]
    return float(np.trapezoid(rates, x)) / (x[-1] - x[0]) if len(seen) > 1 else float(rates[0])


def plot_relearning(panels: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """The rate over examples seen, a panel a title and a line a run, with its 95% interval."""
    xlabel = "examples of the behaviour, one a step"
    plot_curves(panels, path, xlabel, bounded=panels, place=lambda number: math.log2(1 + number))

"""Relearning curves: how soon a behaviour is back, in numbers and as a figure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from lab.plots import PALETTE, save_figure

Curve = Mapping[int, Mapping[str, float]]


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
    figure, row = plt.subplots(1, len(panels), figsize=(5.4 * len(panels), 3.8), squeeze=False)
    for axes, (title, curves) in zip(row[0], panels.items(), strict=True):
        for k, (name, curve) in enumerate(curves.items()):
            seen = sorted(curve)
            mean = [curve[number]["mean"] for number in seen]
            below = [max(0.0, curve[number]["mean"] - curve[number]["low"]) for number in seen]
            above = [max(0.0, curve[number]["high"] - curve[number]["mean"]) for number in seen]
            # a little apart, or the bars would cover one another
            places = [math.log2(1 + number) for number in seen]
            x = [place + 0.06 * (k - (len(curves) - 1) / 2) for place in places]
            colour = PALETTE[k % len(PALETTE)]
            axes.errorbar(x, mean, [below, above], label=name, color=colour, marker="o", ms=4, capsize=2)
            axes.set_xticks(places, list(map(str, seen)))
        axes.set_ylim(-0.02, 1.05)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("examples of the behaviour, one a step")
        axes.set_ylabel("rate of the behaviour")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)

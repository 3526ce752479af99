"""Relearning curves: how soon a behaviour is back, in numbers and as a figure."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from lab.plots import PALETTE, save_figure

Curve = Mapping[int, Mapping[str, float]]


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
    x = [math.log2(1 + number) for number in seen]
    area = float(np.trapezoid(rates, x)) / (x[-1] - x[0]) if len(seen) > 1 else rates[0]
    return {"examples_until_back": until, "area": area}


def plot_relearning(curves: Mapping[str, Curve], path: Path) -> None:
    """The rate over examples seen, a line a run."""
    figure, axes = plt.subplots(figsize=(5.4, 3.6))
    for k, (name, curve) in enumerate(curves.items()):
        seen = sorted(curve)
        mean = [curve[number]["mean"] for number in seen]
        below = [max(0.0, curve[number]["mean"] - curve[number]["low"]) for number in seen]
        above = [max(0.0, curve[number]["high"] - curve[number]["mean"]) for number in seen]
        x = [math.log2(1 + number) for number in seen]
        colour = PALETTE[k % len(PALETTE)]
        axes.errorbar(x, mean, [below, above], label=name, color=colour, marker="o", ms=4, capsize=2)
        axes.set_xticks(x, list(map(str, seen)))
    axes.set_ylim(-0.02, 1.05)
    axes.set_xlabel("examples of the behaviour, one a step")
    axes.set_ylabel("rate of the behaviour")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)

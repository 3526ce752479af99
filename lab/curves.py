"""Lines of intervals over something: shares of labels, examples, scales."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.files import is_writer
from lab.logs import moving_average, read_log
from lab.plots import PALETTE, save_figure
from lab.tables import Column, value_at

Curve = Mapping[float, Mapping[str, float]]
MOST_TICKS = 16


def interval_lines(
    axes: Axes,
    lines: Mapping[str, Curve],
    place: Callable[[float], float] = float,
    apart: float = 0.06,
) -> None:
    """A line a name: intervals {"mean", "low", "high"} over x, which is drawn at `place`(x).

    Lines stand apart, by this share of the least distance of two x, or their bars would cover one another.
    Every x gets a tick, but of many only some.
    """
    ticks = sorted({at for points in lines.values() for at in points})
    apart *= min((place(after) - place(at) for at, after in pairwise(ticks)), default=1.0)
    for k, (name, points) in enumerate(lines.items()):
        x = [place(at) + apart * (k - (len(lines) - 1) / 2) for at in points]
        mean = [value["mean"] for value in points.values()]
        below = [max(0.0, value["mean"] - value["low"]) for value in points.values()]
        above = [max(0.0, value["high"] - value["mean"]) for value in points.values()]
        colour = PALETTE[k % len(PALETTE)]
        axes.errorbar(x, mean, [below, above], label=name, color=colour, marker="o", ms=4, capsize=2, lw=1.5)
    ticks = ticks[:: max(1, math.ceil(len(ticks) / MOST_TICKS))]
    axes.set_xticks([place(at) for at in ticks], [f"{at:g}" for at in ticks])
    axes.spines[["top", "right"]].set_visible(False)


def curve_panels(modes: Mapping[str, Mapping[str, Any]], columns: Sequence[Column]) -> dict[str, dict]:
    """Panel -> line -> x -> interval, of results whose modes are named by a number, such as a scale.

    What was not measured everywhere is left out."""
    panels: dict[str, dict[str, Curve]] = {}
    for column in columns:
        line = {float(name): value_at(modes[name], column.path) for name in sorted(modes, key=float)}
        if None not in line.values():
            panels.setdefault(column.panel, {})[column.title] = line
    return panels


def curves_figure(
    panels: Mapping[str, Mapping[str, Curve]],
    xlabel: str,
    bounded: Collection[str] = (),
    place: Callable[[float], float] = float,
    mark: float | None = None,
) -> Figure:
    """A panel a title, with its lines of intervals; those in `bounded` run from 0 to 1.

    `mark`: a dashed line at this x, too. Several panels of the same lines have one legend."""
    same = len(panels) > 1 and len({tuple(lines) for lines in panels.values()}) == 1
    figure, row = plt.subplots(1, len(panels), figsize=(5.4 * len(panels), 3.8), squeeze=False)
    for axes, (title, lines) in zip(row[0], panels.items(), strict=True):
        interval_lines(axes, lines, place)
        if title in bounded:
            axes.set_ylim(-0.02, 1.05)
        if mark is not None:
            axes.axvline(place(mark), color="black", lw=1, ls="--")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(xlabel)
        if not same:
            axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    if same:
        handles, names = row[0][0].get_legend_handles_labels()
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.02), "ncols": len(names)}
        figure.legend(handles, names, frameon=False, **below)
    return figure


def plot_curves(
    panels: Mapping[str, Mapping[str, Curve]],
    path: Path,
    xlabel: str,
    bounded: Collection[str] = (),
    place: Callable[[float], float] = float,
) -> None:
    """Write the figure of `curves_figure`."""
    save_figure(curves_figure(panels, xlabel, bounded, place), path)


def plot_steps(
    log: Path,
    panels: Mapping[str, Mapping[str, str]],
    path: Path,
    title: str,
    window: int = 5,
) -> None:
    """Write the figure of `draw_steps`. Of several processes the first one does: it has the log."""
    if is_writer():
        save_figure(draw_steps(log, panels, title, window), path)


def draw_steps(log: Path, panels: Mapping[str, Mapping[str, str]], title: str, window: int = 5) -> Figure:
    """What a JSONL log has over its steps: panel -> name of the line -> key in the log.

    Every point is the mean of the last `window` steps. A line that the log has nothing of is left out.
    """
    steps = read_log(log)
    figure, row = plt.subplots(1, len(panels), figsize=(5.4 * len(panels), 3.8), squeeze=False)
    for axes, (label, lines) in zip(row[0], panels.items(), strict=True):
        for k, (name, key) in enumerate(lines.items()):
            if any(step.get(key) is not None for step in steps):
                values = moving_average([step.get(key) for step in steps], window)
                colour = PALETTE[k % len(PALETTE)]
                axes.plot([step["step"] for step in steps], values, label=name, color=colour)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return figure

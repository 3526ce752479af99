"""Figures: grouped bars with intervals, training curves. Colours and sizes live here."""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.constants import in_ipython
from lab.files import atomic_write, is_writer
from lab.logs import moving_average, read_log
from lab.tables import Column, value_at

if not in_ipython():
    matplotlib.use("Agg")  # no window; files only

# Okabe and Ito's colour-blind-safe palette
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#000000")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG atomically; in a notebook show it, too. Of several processes only the first one writes."""
    if is_writer():
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=150, bbox_inches="tight")
    if in_ipython():
        plt.show()
    plt.close(figure)


def grouped_bars(
    axes: Axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[Mapping[str, float] | float | None]],
    ylabel: str,
    value_format: str = "{:.2f}",
) -> None:
    """Bars of every series side by side in each group, labelled with their values.

    A value is a number, or {"mean", "low", "high"} for an error bar; None (nothing was measured) leaves a gap
    marked "n/a"."""
    width = 0.8 / len(series)
    for k, (name, values) in enumerate(series.items()):
        positions = [g + (k - (len(series) - 1) / 2) * width for g in range(len(groups))]
        first = True
        for x, value in zip(positions, values, strict=True):
            if value is None:
                axes.annotate("n/a", (x, 0), ha="center", va="bottom", fontsize=7, color="grey", rotation=90)
                continue
            mean, low, high = (
                (value["mean"], value["low"], value["high"])
                if isinstance(value, Mapping)
                else (value, value, value)
            )
            axes.bar(x, mean, width * 0.92, color=PALETTE[k % len(PALETTE)], label=name if first else None)
            first = False
            if high > low:
                axes.errorbar(
                    x, mean, [[max(0, mean - low)], [max(0, high - mean)]], color="black", capsize=2, lw=1
                )
            axes.annotate(
                value_format.format(mean),
                (x, max(mean, high)),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                # beside many bars they would cover one another
                rotation=90 if len(series) > 3 else 0,
            )
    axes.set_xticks(range(len(groups)), groups, fontsize=9)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)


def _panels(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """Panel -> its columns, in the order of `columns`."""
    panels: dict[str, list[Column]] = {}
    for column in columns:
        panels.setdefault(column.panel, []).append(column)
    return panels


def plot_modes(
    modes: Mapping[str, Any], columns: Sequence[Column], path: Path, title: str, spread: str = "95% interval"
) -> None:
    """The evaluation table of one run as a figure: a panel per axis, with a group of bars per ablation mode.

    `spread`: what the bars' error bars are.
    """
    panels = _panels(columns)
    figure, row = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 3.8))
    for axes, (panel, shown) in zip(np.atleast_1d(row), panels.items(), strict=True):
        values = {column.title: [value_at(mode, column.path) for mode in modes.values()] for column in shown}
        grouped_bars(axes, list(modes), values, f"{panel}\n{spread}")
        if shown[0].bounded:
            axes.set_ylim(0, 1.15)
        axes.tick_params(axis="x", labelsize=8)
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    figure.suptitle(title)
    save_figure(figure, path)


def plot_comparison(
    results: Mapping[str, Any],
    missing: Sequence[str],
    columns: Sequence[Column],
    path: Path,
    spread: str = "95% interval",
) -> None:
    """Several runs side by side: every column in a panel of its own, with every mode's bars.

    `results`: run name -> {"label", "modes"}. Runs without a checkpoint are named under the figure. `spread`:
    what the error bars are."""
    if not results:
        print("no run to plot")
        return
    groups = ["\n".join(textwrap.wrap(result["label"].replace("_", " "), 16)) for result in results.values()]
    measured = [result["modes"] for result in results.values()]
    modes = list(dict.fromkeys(mode for run in measured for mode in run))
    across = 2 if len(groups) <= 6 else 1
    rows = math.ceil(len(columns) / across)
    width = max(11, 2 + (1.1 * across) * len(groups))
    figure, grid = plt.subplots(
        rows, across, figsize=(width, (4 if across == 2 else 3.2) * rows), squeeze=False
    )
    for axes, column in zip(grid.flat, columns, strict=False):
        values = {
            mode: [value_at(run[mode], column.path) if mode in run else None for run in measured]
            for mode in modes
        }
        grouped_bars(axes, groups, values, f"{textwrap.fill(column.panel, 30)}\n{spread}")
        axes.set_title(column.title, fontsize=10)
        axes.tick_params(axis="x", labelsize=8)
        if column.bounded:
            axes.set_ylim(0, 1.2)
    for axes in grid.flat[len(columns) :]:
        axes.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(modes), frameon=False)
    if missing:
        figure.text(0.01, 0.005, f"left out, no checkpoint: {', '.join(missing)}", fontsize=8, color="grey")
    figure.tight_layout(rect=(0, 0.02, 1, 0.96))
    save_figure(figure, path)


def plot_tradeoff(results: Mapping[str, Any], x: Column, y: Column, path: Path) -> None:
    """Every run and mode as a point with its 95% intervals: colour = mode, marker = run."""
    if not results:
        return
    figure, axes = plt.subplots(figsize=(7, 5))
    modes = list(dict.fromkeys(mode for result in results.values() for mode in result["modes"]))
    for marker, result in zip(itertools.cycle("osD^vP*X<>"), results.values(), strict=False):
        for mode, values in result["modes"].items():
            px, py = value_at(values, x.path), value_at(values, y.path)
            spread = [[[max(0, p["mean"] - p["low"])], [max(0, p["high"] - p["mean"])]] for p in (px, py)]
            style = {"marker": marker, "ms": 7, "capsize": 2, "lw": 0.8, "ls": ""}
            colour = PALETTE[modes.index(mode) % len(PALETTE)]
            axes.errorbar(px["mean"], py["mean"], spread[1], spread[0], color=colour, **style)
        axes.plot([], [], color="black", marker=marker, ls="", label=result["label"].replace("_", " "))
    for k, mode in enumerate(modes):
        axes.plot([], [], color=PALETTE[k % len(PALETTE)], marker="s", ls="", label=mode)
    axes.set_xlabel(f"{x.panel}: {x.title}")
    axes.set_ylabel(f"{y.panel}: {y.title}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)


def plot_overlaps(readings: Sequence[Any], path: Path, title: str) -> None:
    """Heat maps, layer x module: subspace overlap and update cosines.

    The overlap of the down and up subspaces is given as a multiple of the random value. `readings` are
    `routing.subspaces.Overlap`s.
    """
    kinds = list(dict.fromkeys(reading.module.rsplit(".", 1)[-1] for reading in readings))
    layers = list(dict.fromkeys(_layer(reading) for reading in readings))
    panels = [
        ("overlap of down/A\n(1 = as random)", lambda r: _ratio(r.down, r.random_down), None),
        ("overlap of up/B\n(1 = as random)", lambda r: _ratio(r.up, r.random_up), None),
        ("cosine of the updates", lambda r: r.update, 1.0),
    ]
    if all(reading.update is None for reading in readings):
        panels = panels[:2]
    figure, row = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 0.3 * len(layers) + 1.8))
    for axes, (label, value, bound) in zip(row, panels, strict=True):
        table = np.full((len(layers), len(kinds)), np.nan)
        for reading in readings:
            table[layers.index(_layer(reading)), kinds.index(reading.module.rsplit(".", 1)[-1])] = value(
                reading
            )
        low, high = (-bound, bound) if bound else (0, max(2.0, float(np.nan_to_num(table).max())))
        image = axes.imshow(table, aspect="auto", cmap="RdBu_r" if bound else "viridis", vmin=low, vmax=high)
        axes.set_xticks(range(len(kinds)), kinds, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(range(len(layers)), layers, fontsize=7)
        axes.set_title(label, fontsize=9)
        figure.colorbar(image, ax=axes)
    row[0].set_ylabel("layer")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    save_figure(figure, path)


def _ratio(value: float | None, chance: float) -> float:
    return math.nan if value is None else value / chance


def _layer(reading: Any) -> str:
    return next((part for part in reading.module.split(".") if part.isdigit()), reading.module)


def plot_training(log: Path, path: Path, title: str, window: int = 10) -> None:
    """Write the figure of `draw_training`. Of several processes the first one does, which has the log."""
    if is_writer() and not log.exists():
        print(f"{log}: not there, so there are no curves to draw")
    elif is_writer():
        save_figure(draw_training(log, title, window), path)


def draw_training(log: Path, title: str, window: int = 10) -> Figure:
    """A run's curves from its JSONL log: loss by kind of example, gradient norms, probes.

    Smoothed over `window` steps.
    """
    lines = read_log(log)
    steps = [line["step"] for line in lines]
    kinds = sorted({kind for line in lines for kind in line["loss_by_kind"]})
    figure, (losses, norms, probes) = plt.subplots(1, 3, figsize=(14, 3.6))
    for kind in kinds:
        losses.plot(
            steps, moving_average([line["loss_by_kind"].get(kind) for line in lines], window), label=kind
        )
    losses.set_ylabel("training loss (nats per token)")
    for slot, colour in zip(("good", "bad"), PALETTE, strict=False):
        values = moving_average([line["grad_norm"].get(slot) for line in lines], window)
        norms.plot(steps, values, label=slot, color=colour)
    norms.set_ylabel("gradient norm of each adapter")
    for k, (key, label) in enumerate(
        {
            "bad_share": "bad's share of the gradient\non unlabelled bad examples",
            "orthogonality": "squared cosine of outputs",
            "bad_saves": "nats that bad takes off\nunlabelled bad examples",
        }.items()
    ):
        points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        if points:
            probes.plot(*zip(*points, strict=True), label=label, color=PALETTE[k + 2], marker=".")
    probes.set_ylim(min(0, probes.get_ylim()[0]), max(1, probes.get_ylim()[1]))
    probes.set_ylabel("probes")
    for axes in (losses, norms, probes):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False)
    figure.suptitle(title)
    figure.tight_layout()
    return figure

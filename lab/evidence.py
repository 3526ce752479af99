"""What the cells of a grid show: intervals over seeds and prompts, claims with their verdicts, a figure."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from lab.files import write_text
from lab.grid import Cell, Store
from lab.intervals import crossed_difference, crossed_mean, crossed_rate
from lab.plots import PALETTE, save_figure


@dataclass(frozen=True)
class Measure:
    """One thing measured of every prompt: its name in the records, its title, and whether it is a rate."""

    name: str
    title: str
    rate: bool


class Evidence:
    """The cells of a grid that were measured, and intervals over their seeds and prompts."""

    def __init__(self, cells: Sequence[Cell], store: Store, kept: str, measures: Sequence[Measure]):
        # a cell may stand in two blocks of a preset
        found = {cell: store.find(cell) for cell in cells}
        self.missing = [cell for cell, record in found.items() if record is None]
        self.records = [
            {
                **record,
                "method": cell.method,
                "labeled": cell.labeled,
                "adapter_type": cell.adapter_type,
                "seed": cell.seed,
                "given": " ".join(cell.job.constants),
            }
            for cell, record in found.items()
            if record is not None
        ]
        self.kept, self.measures = kept, {measure.name: measure for measure in measures}

    def seeds(self, method: str, labeled: float, adapter_type: str) -> dict[int, dict[str, Any]]:
        """Seed -> record of a method's cells."""
        wanted = (method, labeled, adapter_type)
        return {
            record["seed"]: record
            for record in self.records
            if (record["method"], record["labeled"], record["adapter_type"]) == wanted
        }

    def shares(self, method: str, adapter_type: str) -> list[float]:
        """The shares labelled at which a method was measured, in order."""
        wanted = (method, adapter_type)
        found = {r["labeled"] for r in self.records if (r["method"], r["adapter_type"]) == wanted}
        return sorted(found)

    def interval(
        self, measure: str, method: str, labeled: float, adapter_type: str, mode: str | None = None
    ) -> dict[str, float] | None:
        """The mean over seeds and prompts with its 95% interval; None if nothing was measured."""
        runs = self.seeds(method, labeled, adapter_type).values()
        values = [record["values"].get(mode or self.kept, {}).get(measure) for record in runs]
        if not values or None in values:
            return None
        units = next(iter(runs))["units"][measure]
        return (crossed_rate if self.measures[measure].rate else crossed_mean)(values, units)

    def difference(
        self, measure: str, method: tuple[str, float], other: tuple[str, float], adapter_type: str
    ) -> dict[str, float] | None:
        """`method` minus `other`, (name, labelled share) each, paired by seed and prompt, with its interval.

        None if they have no seed in common.
        """
        pair = self._paired(measure, method, other, adapter_type)
        return pair and crossed_difference(*pair, self.measures[measure].rate)

    def relative(
        self, measure: str, method: tuple[str, float], other: tuple[str, float], adapter_type: str
    ) -> dict[str, float] | None:
        """As `difference`, as a share of the mean of `other`: 0.02 is 2% more.

        The interval is that of a ratio of means (its linearisation). None also if the mean of `other` is 0.
        """
        pair = self._paired(measure, method, other, adapter_type)
        if pair is None or not pair[0].mean():
            return None
        a, b, units = pair
        ratio = b.mean() / a.mean()
        around = crossed_difference(ratio * a, b, units, self.measures[measure].rate)
        low, high = (ratio - 1 + around[side] / a.mean() for side in ("low", "high"))
        return {"mean": ratio - 1, "low": low, "high": high, "n": around["n"]}

    def _paired(
        self, measure: str, method: tuple[str, float], other: tuple[str, float], adapter_type: str
    ) -> tuple[np.ndarray, np.ndarray, list[Any]] | None:
        """The values [seeds, prompts] of `other` and `method` for their common seeds, and the units."""
        a, b = (self.seeds(*which, adapter_type) for which in (other, method))
        common = sorted(a.keys() & b.keys())
        if not common:
            return None
        first, second = (
            np.array([runs[seed]["values"][self.kept][measure] for seed in common], dtype=float)
            for runs in (a, b)
        )
        return first, second, a[common[0]]["units"][measure]

    def write_csv(self, path: Path) -> None:
        """A row a cell and mode: the mean of every measure over prompts."""
        table = io.StringIO()
        names = list(self.measures)
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["method", "labeled", "adapter_type", "seed", "mode", *names, "constants"])
        for record in self.records:
            for mode, values in record["values"].items():
                means = [f"{np.mean(values[name]):.4f}" if name in values else "" for name in names]
                head = [record[name] for name in ("method", "labeled", "adapter_type", "seed")]
                writer.writerow([*head, mode, *means, record["given"]])
        write_text(path, table.getvalue())


@dataclass(frozen=True)
class Claim:
    """A difference that should lie below `bound` (or above it), and what its interval says of that."""

    text: str
    interval: Mapping[str, float] | None
    bound: float = 0.0
    above: bool = False

    @property
    def verdict(self) -> str:
        """ "shown" or "refuted" if the whole interval lies on one side of the bound, else "not shown".

        With fewer than three seeds it is "a lead" at most: they say too little of other seeds.
        """
        if self.interval is None:
            return "not measured"
        if self.interval["n"] < 3:
            return "a lead"
        low, high = self.interval["low"] - self.bound, self.interval["high"] - self.bound
        if self.above:
            low, high = -high, -low
        return "shown" if high < 0 else "refuted" if low > 0 else "not shown"


def claims_table(claims: Sequence[Claim], digits: int = 3) -> str:
    """The claims as a Markdown table: text, difference with its interval, seeds, verdict."""
    lines = ["| claim | difference | seeds | verdict |", "|---|---|---|---|"]
    for claim in claims:
        value = claim.interval
        number = format_interval(value, digits)
        seeds = value["n"] if value else 0
        lines.append(f"| {claim.text} | {number} | {seeds} | **{claim.verdict}** |")
    return "\n".join(lines)


def format_interval(value: Mapping[str, float] | None, digits: int) -> str:
    """An interval as text: "0.25 [0.18, 0.34]"."""
    if value is None:
        return "n/a"
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def measures_table(evidence: Evidence, kinds: Sequence[str] = ("lora", "mlp")) -> str:
    """What every method keeps, as a Markdown table: mean and 95% interval over seeds and prompts."""
    titles = " | ".join(measure.title for measure in evidence.measures.values())
    lines = [
        f"| adapters | method | labelled | mode | seeds | {titles} |",
        "|---" * (5 + len(evidence.measures)) + "|",
    ]
    rows = {
        (record["adapter_type"], record["method"], record["labeled"], mode)
        for record in evidence.records
        for mode in record["values"]
    }
    for kind, method, labeled, mode in sorted(rows, key=lambda row: (kinds.index(row[0]), row[2], row[1:])):
        cells = [
            format_interval(
                evidence.interval(measure.name, method, labeled, kind, mode), 2 if measure.rate else 3
            )
            for measure in evidence.measures.values()
        ]
        seeds = len(evidence.seeds(method, labeled, kind))
        share = f"{100 * labeled:g}%"
        lines.append(f"| {kind} | {method} | {share} | {mode} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def left_out(evidence: Evidence) -> str:
    """Which cells of the grid were not measured, as a sentence."""
    if not evidence.missing:
        return "Every cell of the grid was measured."
    return "Not measured: " + ", ".join(cell.job.run for cell in evidence.missing) + "."


def plot_over_labels(
    axes: Axes,
    lines: Mapping[str, Mapping[float, Mapping[str, float]]],
    reference: tuple[str, Mapping[str, float]] | None,
    ylabel: str,
) -> None:
    """A line a method: an interval {"mean", "low", "high"} over the share that is labelled.

    `reference`, (name, interval), is drawn dashed across all shares.
    """
    shares = sorted({share for points in lines.values() for share in points})
    for k, (name, points) in enumerate(lines.items()):
        # a little apart, or the bars would cover one another
        x = [shares.index(share) + 0.06 * (k - (len(lines) - 1) / 2) for share in points]
        mean = [value["mean"] for value in points.values()]
        below = [max(0.0, value["mean"] - value["low"]) for value in points.values()]
        above = [max(0.0, value["high"] - value["mean"]) for value in points.values()]
        colour = PALETTE[k % len(PALETTE)]
        axes.errorbar(x, mean, [below, above], label=name, color=colour, marker="o", ms=4, capsize=2, lw=1.5)
    if reference:
        axes.axhline(reference[1]["mean"], color="grey", ls="--", lw=1, label=reference[0])
        axes.axhspan(reference[1]["low"], reference[1]["high"], color="grey", alpha=0.12, lw=0)
    axes.set_xticks(range(len(shares)), [f"{100 * share:g}%" for share in shares])
    axes.set_xlabel("share of the behaviour that is labelled")
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)


def figure_over_labels(
    evidence: Evidence,
    methods: Sequence[str],
    kinds: Sequence[str],
    never_seen: tuple[str, float],
    path: Path,
) -> None:
    """`plot_over_labels` of every measure, a row an adapter type."""
    measures = list(evidence.measures.values())
    figure, rows = plt.subplots(
        len(kinds), len(measures), figsize=(4.6 * len(measures), 3.6 * len(kinds)), squeeze=False
    )
    for kind, row in zip(kinds, rows, strict=True):
        for axes, measure in zip(row, measures, strict=True):
            lines = {
                method: {
                    share: value
                    for share in evidence.shares(method, kind)
                    if (value := evidence.interval(measure.name, method, share, kind))
                    and (method, share) != never_seen
                }
                for method in methods
            }
            reference = evidence.interval(measure.name, *never_seen, kind)
            plot_over_labels(axes, lines, reference and ("never seen", reference), measure.title)
            if measure.rate:
                axes.set_ylim(-0.02, 1.05)
            axes.set_title(kind, fontsize=9)
    handles, names = rows[0][0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="lower center", ncols=len(names), bbox_to_anchor=(0.5, -0.06), frameon=False
    )
    figure.tight_layout()
    save_figure(figure, path)

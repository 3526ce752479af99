"""A grid's report: claims with their verdicts, tables in Markdown, a figure, and the files they go to."""

import shlex
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from lab.constants import Constants
from lab.curves import Curve, interval_lines
from lab.evidence import Evidence
from lab.files import write_text
from lab.grid import Cell
from lab.plots import save_figure


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

        With fewer than three seeds either is a lead: they say too little of other seeds.
        """
        if self.interval is None:
            return "not measured"
        low, high = self.interval["low"] - self.bound, self.interval["high"] - self.bound
        if self.above:
            low, high = -high, -low
        verdict = "shown" if high < 0 else "refuted" if low > 0 else "not shown"
        leads = {"shown": "a lead", "refuted": "a lead against it"} if self.interval["n"] < 3 else {}
        return leads.get(verdict, verdict)


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


def distances_table(
    evidence: Evidence,
    reference: tuple[str, float],
    methods: Sequence[str],
    equivalents: str,
    met: Callable[[float], float],
) -> str:
    """How far from `reference` (never seen) methods end, paired by seed and prompt, as a Markdown table.

    Last comes the number of examples of the behaviour that plain training needs for the same loss
    `equivalents`, with the numbers for the ends of that loss's interval. It is read off the runs of the
    reference's method, which `met` so many examples at a share labelled.
    """
    titles = " | ".join(measure.title for measure in evidence.measures.values())
    lines = [f"| adapters | method | labelled | {titles} | as if trained on |"]
    lines.append("|---" * (4 + len(evidence.measures)) + "|")
    for kind in evidence.adapter_types:
        seen = {
            met(share): from_reference["mean"]
            for share in evidence.shares(reference[0], kind)
            if (from_reference := evidence.difference(equivalents, (reference[0], share), reference, kind))
        }
        for method in methods:
            for share in evidence.shares(method, kind):
                found = {
                    name: evidence.difference(name, (method, share), reference, kind)
                    for name in evidence.measures
                }
                loss = found[equivalents]
                number = "n/a"
                if loss and len(seen) > 1:
                    mean, most, least = (examples_for(loss[end], seen) for end in ("mean", "low", "high"))
                    number = f"{mean} [{least}, {most}]"
                cells = " | ".join(format_interval(value, 3) for value in found.values())
                lines.append(f"| {kind} | {method} | {100 * share:g}% | {cells} | {number} |")
    return "\n".join(lines)


def examples_for(loss: float, seen: Mapping[float, float]) -> str:
    """How many examples give this loss, as text, by linear interpolation of examples seen -> loss.

    0 where the loss is no lower than without any; ">99" where it is lower than with the most there are, and
    "<57" where it lies between that without any and that with the fewest: the first ones teach most.
    """
    numbers = sorted(seen)
    # more examples never count as a higher loss
    falling = np.minimum.accumulate([seen[number] for number in numbers])
    if loss < falling[-1]:
        return f">{numbers[-1]:.0f}"
    found = float(np.interp(-loss, -falling, numbers))
    return f"<{numbers[1]:.0f}" if 0 < found < numbers[1] else f"{found:.0f}"


def command(script: Path, constants: Constants) -> str:
    """The command that makes a report again, without the number of workers."""
    given = [f"{name}={constants[name]}" for name in constants.overridden if name != "WORKERS"]
    return shlex.join(["uv", "run", "--directory", script.parent.name, "python", script.name, *given])


def left_out(evidence: Evidence) -> str:
    """Which cells of the grid were not measured, and whether their bases differ, in short lines."""
    names = ", ".join(cell.job.run for cell in evidence.missing)
    text = f"Not measured: {names}." if names else "Every cell of the grid was measured."
    counts = [f"{dtype} in {count} cells" for dtype, count in sorted(evidence.dtypes().items())]
    if len(counts) > 1:
        text += f" The base is {' and '.join(counts)}, so some pairs differ in that, too."
    return textwrap.fill(text, 110)


def plot_over_labels(
    axes: Axes,
    lines: Mapping[str, Curve],
    reference: tuple[str, Mapping[str, float]] | None,
    ylabel: str,
) -> None:
    """A line a method: an interval {"mean", "low", "high"} over the share that is labelled.

    `reference`, (name, interval), is drawn dashed across all shares.
    """
    shares = sorted({share for points in lines.values() for share in points})
    interval_lines(axes, lines, place=shares.index)
    if reference:
        axes.axhline(reference[1]["mean"], color="grey", ls="--", lw=1, label=reference[0])
        axes.axhspan(reference[1]["low"], reference[1]["high"], color="grey", alpha=0.12, lw=0)
    axes.set_xticks(range(len(shares)), [f"{100 * share:g}%" for share in shares])
    # a single share stands in the middle
    axes.set_xlim(-0.3, len(shares) - 0.7)
    axes.set_xlabel("share of the behaviour that is labelled")
    axes.set_ylabel(ylabel)


def figure_over_labels(
    evidence: Evidence,
    methods: Sequence[str],
    never_seen: tuple[str, float],
    path: Path,
) -> None:
    """`plot_over_labels` of every measure, a row an adapter type."""
    measures, kinds = list(evidence.measures.values()), evidence.adapter_types
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


def publish(evidence: Evidence, output: Path, report: str, failed: Sequence[Cell]) -> None:
    """Write output.csv and output.md (the `report`, which is printed, too); exit naming what `failed`."""
    evidence.write_csv(output.with_suffix(".csv"))
    write_text(output.with_suffix(".md"), report)
    print(report)
    if failed:
        sys.exit(f"failed: {', '.join(cell.job.run for cell in failed)}; run it again to try only these")

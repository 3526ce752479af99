"""Recovery curves: after how many steps of reinforcement a behaviour is back, as numbers and a table."""

from collections.abc import Mapping, Sequence

import numpy as np

from lab.curves import Curve
from lab.evidence import Evidence
from lab.report import format_interval

# modes of a record: each prompt's mean over the steps; what training saw in each of its steps
AREA, TRAINING = "mean over steps", "training"


def measured_steps(most: int, every: int) -> list[int]:
    """The steps after which a curve is measured: 0, every `every`-th, and the last, `most`."""
    return sorted({*range(0, most, every), most})


def mean_over_steps(by_step: Mapping[int, Sequence[float]]) -> list[float]:
    """Each prompt's mean over the steps, [prompts], of step -> [prompts]; straight between measurements."""
    steps = sorted(by_step)
    rows = np.array([by_step[step] for step in steps], dtype=float)  # [steps, prompts]
    return (np.trapezoid(rows, steps, axis=0) / (steps[-1] - steps[0])).tolist()


def steps_back(curve: Curve, back: float) -> dict[str, float | None]:
    """{"mean", "low", "high"}: the first step at which the rate is at least `back`; None if it never is.

    `curve`: step -> rate {"mean", "low", "high"}. "low" is the step at which the upper end of the rate's
    interval gets there, "high" that of its lower end, so that an interval of steps lies between them.
    """
    ends = {"mean": "mean", "low": "high", "high": "low"}
    return {
        name: next((step for step in sorted(curve) if curve[step][end] >= back), None)
        for name, end in ends.items()
    }


def format_steps(found: Mapping[str, float | None], most: int) -> str:
    """Steps and their interval as text, censored at `most`: "10 [5, >30]"."""
    mean, low, high = (_or_more(found[name], most) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _or_more(step: float | None, most: int) -> str:
    return f">{most}" if step is None else f"{step:g}"


def recovery_curve(
    evidence: Evidence, measure: str, method: str, labeled: float, steps: Sequence[int]
) -> dict[int, dict[str, float]]:
    """Step -> the measure's mean over seeds and prompts with its interval; empty if nothing was measured."""
    found = {step: evidence.interval(measure, method, labeled, "lora", str(step)) for step in steps}
    return {step: value for step, value in found.items() if value}


def recovery_table(evidence: Evidence, rates: Sequence[str], back: float, steps: Sequence[int]) -> str:
    """For every method, as a Markdown table, the steps until each of `rates` is at least `back`.

    With an interval over seeds and prompts, and seed by seed. Rates are measures of `evidence`.
    """
    titles = [f"{evidence.measures[name].title} | by seed" for name in rates]
    lines = [f"| method | labelled | seeds | {' | '.join(titles)} |", "|---" * (3 + 2 * len(rates)) + "|"]
    for labeled, method in evidence.wanted("lora"):
        runs = evidence.seeds(method, labeled, "lora")
        if not runs:
            continue
        cells = []
        for name in rates:
            found = steps_back(recovery_curve(evidence, name, method, labeled, steps), back)
            alone = [_first(run["values"], name, back, steps) for _, run in sorted(runs.items())]
            cells += [format_steps(found, steps[-1]), ", ".join(_or_more(s, steps[-1]) for s in alone)]
        lines.append(f"| {method} | {100 * labeled:g}% | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _first(
    values: Mapping[str, Mapping[str, Sequence[float]]], name: str, back: float, steps: Sequence[int]
) -> int | None:
    """The first step after which one run's mean of measure `name` is at least `back`."""
    return next((step for step in steps if np.mean(values[str(step)][name]) >= back), None)


def modes_table(evidence: Evidence, columns: Sequence[tuple[str, str, str]], intervals: bool = True) -> str:
    """For every method (title, measure, mode) side by side, as a Markdown table.

    Means over seeds and prompts with their `intervals`, or without: the steps of a run are no units.
    """
    lines = [f"| method | labelled | {' | '.join(title for title, *_ in columns)} |"]
    lines.append("|---" * (2 + len(columns)) + "|")
    for labeled, method in evidence.wanted("lora"):
        if evidence.seeds(method, labeled, "lora"):
            found = [
                evidence.interval(measure, method, labeled, "lora", mode) for _, measure, mode in columns
            ]
            cells = [
                format_interval(value, 2) if intervals or value is None else f"{value['mean']:.2f}"
                for value in found
            ]
            lines.append(f"| {method} | {100 * labeled:g}% | {' | '.join(cells)} |")
    return "\n".join(lines)

"""Tables of results: which values of a mode are shown, printed for one run or summed up over seeds.

A task has one list COLUMNS, and its printed table, its figures and its tables over seeds all read it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FULL = "full"  # the mode that the others are compared with
MINUS_FULL = "minus_full"  # of a mode's results: its paired differences from full, in the same shape


@dataclass(frozen=True)
class Column:
    """One value of a mode's results: where it stands, and how it is shown."""

    path: tuple[str, ...]  # the keys that lead to its interval {"mean", "low", "high"}
    title: str
    panel: str  # the axis that it is drawn on; columns of one panel share it
    bounded: bool  # a rate between 0 and 1


def value_at(mode: Mapping[str, Any], path: Sequence[str]) -> Any:
    """What stands at `path` in a mode's results, or None."""
    value: Any = mode
    for key in path:
        if key not in value:
            return None
        value = value[key]
    return value


def format_cell(value: Mapping[str, float] | None, column: Column, signed: bool = False) -> str:
    """An interval as text: "0.25 [0.18, 0.34]"."""
    if value is None:
        return "n/a"
    digits = 2 if column.bounded else 3
    mean = f"{value['mean']:+.{digits}f}" if signed else f"{value['mean']:.{digits}f}"
    return f"{mean} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def format_table(results: Mapping[str, Any], columns: Sequence[Column]) -> str:
    """The results of a run's modes as a table to print.

    Under a mode stands, where measured, its paired difference from full.
    """
    rows = [("mode", [column.title for column in columns])]
    for mode, result in results.items():
        rows.append((mode, [format_cell(value_at(result, column.path), column) for column in columns]))
        if MINUS_FULL in result:
            differences = result[MINUS_FULL]
            cells = [
                format_cell(value_at(differences, column.path), column, signed=True) for column in columns
            ]
            rows.append((f"  minus {FULL}", cells))
    first = max(len(name) for name, _ in rows)
    widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(columns))]
    lines = []
    for name, cells in rows:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
        lines.append("   ".join([f"{name:<{first}}", *padded]))
    return "\n".join(lines)


def seed_table(
    groups: Mapping[str, Sequence[Mapping[str, Any]]], columns: Sequence[Column]
) -> tuple[str, dict[str, Any]]:
    """A Markdown table and its numbers, {condition: {mode: results}}.

    The mean over seeds and, in brackets, their range. A range, not an interval: three seeds at a rate of 1.0
    would give a t interval without width. Of a single seed the brackets hold the 95% interval over its
    prompts. The numbers have the shape of a run's results, with the differences from full.

    `groups`: condition -> one {"modes": results of `evaluate`} per seed.
    """
    titles = " | ".join(column.title for column in columns)
    lines = [f"| condition | mode | seeds | {titles} |", "|---" * (3 + len(columns)) + "|"]
    summary: dict[str, Any] = {}
    for condition, entries in groups.items():
        modes = [entry["modes"] for entry in entries]
        for mode in modes[0]:
            measured = [run[mode] for run in modes if mode in run]
            results: dict[str, Any] = {}
            for column in columns:
                for path in (column.path, (MINUS_FULL, *column.path)):
                    values = [value_at(result, path) for result in measured]
                    if None not in values:
                        _put(results, path, over_seeds(values))
            summary.setdefault(condition, {})[mode] = results
            cells = [format_cell(value_at(results, column.path), column) for column in columns]
            lines.append(f"| {condition} | {mode} | {len(measured)} | {' | '.join(cells)} |")
    return "\n".join(lines), summary


def over_seeds(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """{"mean", "low", "high"}: the mean over seeds and their range; of a single seed, its own interval."""
    if len(values) == 1:
        return {key: values[0][key] for key in ("mean", "low", "high")}
    means = [value["mean"] for value in values]
    return {"mean": sum(means) / len(means), "low": min(means), "high": max(means)}


def _put(results: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        results = results.setdefault(key, {})
    results[path[-1]] = value

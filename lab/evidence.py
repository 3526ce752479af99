"""What the cells of a grid measured: intervals and paired differences over seeds and prompts."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.files import write_text
from lab.grid import Cell, Store
from lab.intervals import (
    crossed_difference,
    crossed_mean,
    crossed_rate,
    mean_interval,
    paired_difference,
    rate_interval,
)

# (method, share labelled), or with a mode as a third
Which = tuple[str, float] | tuple[str, float, str]


@dataclass(frozen=True)
class Measure:
    """One thing measured of every prompt: its name in the records, its title, and whether it is a rate."""

    name: str
    title: str
    rate: bool


class Evidence:
    """The cells of a grid that were measured, and intervals over their seeds and prompts.

    Where every seed has prompts of its own, or a single one, nothing is crossed: seeds are then the units.
    """

    def __init__(self, cells: Sequence[Cell], store: Store, kept: str, measures: Sequence[Measure]):
        self.cells = cells
        self.adapter_types = list(dict.fromkeys(cell.adapter_type for cell in cells))
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

    def wanted(self, adapter_type: str) -> list[tuple[float, str]]:
        """The (share labelled, method) of the grid's cells, measured or not, in order."""
        found = {(cell.labeled, cell.method) for cell in self.cells if cell.adapter_type == adapter_type}
        return sorted(found)

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
        rate, units = self.measures[measure].rate, _common_units(runs, measure)
        if units is None:
            means = [float(np.mean(own)) for own in values]
            return rate_interval([[mean] for mean in means]) if rate else mean_interval(means)
        return (crossed_rate if rate else crossed_mean)(values, units)

    def difference(
        self, measure: str, method: Which, other: Which, adapter_type: str, minus: str | None = None
    ) -> dict[str, float] | None:
        """`method` minus `other`, paired by seed and prompt, with its interval.

        Each is (name, labelled share), or with a mode as a third, where that is not what is kept. `minus`:
        the measure of `other`, where it is another one. None if they have no seed in common.
        """
        pair = self._paired(measure, method, other, adapter_type, minus or measure)
        return pair and self._minus(measure, *pair)

    def _minus(self, measure: str, a: np.ndarray, b: np.ndarray, units: list[Any] | None) -> dict[str, float]:
        rate = self.measures[measure].rate
        if units is None:
            return paired_difference(a.mean(1), b.mean(1), rates=rate)
        return crossed_difference(a, b, units, rate)

    def relative(
        self, measure: str, method: Which, other: Which, adapter_type: str
    ) -> dict[str, float] | None:
        """As `difference`, as a share of the mean of `other`: 0.02 is 2% more.

        The interval is that of a ratio of means (its linearisation); of rates it reaches at least up to where
        that of a rate of 0 does. None also if the mean of `other` is 0.
        """
        pair = self._paired(measure, method, other, adapter_type, measure)
        if pair is None or not pair[0].mean():
            return None
        a, b, units = pair
        ratio = b.mean() / a.mean()
        around = self._minus(measure, ratio * a, b, units)
        low, high = (ratio - 1 + around[side] / a.mean() for side in ("low", "high"))
        if self.measures[measure].rate and units is not None:
            high = max(high, crossed_rate(np.zeros_like(b), units)["high"] / a.mean() - 1)
        return {"mean": ratio - 1, "low": low, "high": high, "n": around["n"]}

    def _paired(
        self, measure: str, method: Which, other: Which, adapter_type: str, minus: str
    ) -> tuple[np.ndarray, np.ndarray, list[Any] | None] | None:
        """The values [seeds, prompts] of `other` and `method` for their common seeds, and the units.

        The units are None where they are not the same ones for all seeds.
        """
        a, b = (self.seeds(*which[:2], adapter_type) for which in (other, method))
        modes = [which[2] if len(which) > 2 else self.kept for which in (other, method)]
        common = sorted(a.keys() & b.keys())
        if not common:
            return None
        first, second = (
            np.array([runs[seed]["values"][mode][name] for seed in common], dtype=float)
            for runs, mode, name in zip((a, b), modes, (minus, measure), strict=True)
        )
        return first, second, _common_units([a[seed] for seed in common], measure)

    def dtypes(self) -> dict[str, int]:
        """How many cells have a base of which dtype."""
        return dict(Counter(record["constants"].get("DTYPE", "") for record in self.records))

    def write_csv(self, path: Path) -> None:
        """A row a cell and mode: the mean of every measure over prompts."""
        table = io.StringIO()
        names = list(self.measures)
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["method", "labeled", "adapter_type", "seed", "mode", *names, "dtype", "constants"])
        for record in self.records:
            for mode, values in record["values"].items():
                means = [f"{np.mean(values[name]):.4f}" if name in values else "" for name in names]
                head = [record[name] for name in ("method", "labeled", "adapter_type", "seed")]
                dtype = record["constants"].get("DTYPE", "")
                writer.writerow([*head, mode, *means, dtype, record["given"]])
        write_text(path, table.getvalue())


def _common_units(records: Iterable[dict[str, Any]], measure: str) -> list[Any] | None:
    """The unit of each prompt; None if seeds have different ones, or a single one."""
    units, *others = (record["units"][measure] for record in records)
    return units if len(set(units)) > 1 and all(own == units for own in others) else None

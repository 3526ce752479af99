"""Everything measured in every ablation mode, as intervals, and as paired differences from full."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from lab.intervals import mean_interval, paired_difference, rate_interval
from lab.tables import FULL, MINUS_FULL


def mode_intervals(measured: Mapping[str, Mapping[str, Any]], units: Any) -> dict[str, dict[str, Any]]:
    """Mode -> the 95% intervals of what was measured, in its shape, and under "minus_full" the differences.

    `measured`: mode -> nested dicts of values; those of a rate are [prompts, generations] of bools, others
    [prompts] of numbers. `units`: the unit of each prompt (see `lab.intervals`), one list for everything, or
    lists in nested dicts like those of the values. Modes are taken to share prompts and noise: the
    differences from the mode "full" are paired. Full itself has none, nor has any mode where full is missing.
    """
    results = {}
    for mode, found in measured.items():
        results[mode] = _each(_interval, units, found)
        if mode != FULL and FULL in measured:
            results[mode][MINUS_FULL] = _each(_difference, units, found, measured[FULL])
    return results


def shares(outcomes: Sequence[Sequence[bool]]) -> list[float]:
    """The share of each prompt's generations that show it: [prompts], of [prompts, generations]."""
    return [sum(row) / len(row) for row in outcomes]


def _each(summarise: Callable[..., Any], units: Any, found: Any, *others: Any) -> Any:
    """`summarise(units, values, ...)` of all values in nested dicts, in their shape: that of `found`."""
    if not isinstance(found, Mapping):
        return summarise(units, found, *others)
    return {
        name: _each(
            summarise,
            units[name] if isinstance(units, Mapping) else units,
            values,
            *(other[name] for other in others),
        )
        for name, values in found.items()
    }


def _interval(units: Sequence[Hashable], values: Sequence[Any]) -> dict[str, float]:
    return rate_interval(values, units) if _is_rate(values) else mean_interval(values, units)


def _difference(units: Sequence[Hashable], values: Sequence[Any], full: Sequence[Any]) -> dict[str, float]:
    if _is_rate(values):
        return paired_difference(shares(full), shares(values), units, rates=True)
    return paired_difference(full, values, units)


def _is_rate(values: Sequence[Any]) -> bool:
    return isinstance(next(iter(values), None), Sequence)

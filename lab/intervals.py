"""How sure one can be of a rate, a mean or a difference: 95% intervals over independent units.

Prompts that were made alike (stories of one plot, solutions of one template) say less than as many different
ones. So every interval takes `units`: the plot or template of each prompt. Without them every prompt is a
unit of its own. Units of unequal size say less than as many equal ones: what counts is their effective
number, (sum of sizes)^2 / sum of squared sizes (Kish 1965)."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.stats import bootstrap, norm, t

RESAMPLES = 4000


def rate_interval(
    outcomes: Sequence[Sequence[bool]], units: Sequence[Hashable] | None = None
) -> dict[str, float]:
    """A rate over prompts with several generations each, and its 95% interval: {"mean", "low", "high", "n"}.

    `outcomes`: one row per prompt. Generations of one prompt resemble one another, and so do prompts of one
    unit. The Wilson interval is therefore taken at the effective sample size p(1-p) / Var(mean), the variance
    estimated from the units' totals and the size corrected for their number (Korn and Graubard 1998), kept
    between the effective number of units and the number of generations. Unlike a percentile bootstrap it has
    a width at 0 and 1, and reaches at least as far as there (`_no_surer`). "n" is the number of units."""
    means = np.array([np.mean(row) for row in outcomes])
    groups = _groups(len(means), units)
    total = sum(len(row) for row in outcomes)
    return _wilson_interval(float(means.mean()), _variance_of_mean(means, groups), groups, total)


def auc_interval(
    higher: Sequence[float], lower: Sequence[float], units: Sequence[Hashable] | None = None
) -> dict[str, float]:
    """The chance that one of `higher` exceeds one of `lower`, ties counting half, and its 95% interval.

    Returns {"mean", "low", "high", "n"}, n the number of units. This is the area under the ROC curve: how
    well a value tells two kinds apart, wherever the threshold; 0.5 is chance. Both hold a value of every
    prompt, in the same order. The variance is that of the units' totals of every prompt's parts of the area
    (DeLong et al. 1988, doi 10.2307/2531595; for clusters Obuchowski 1997, doi 10.2307/2533958), and the
    interval is Wilson's, as in `rate_interval`.
    """
    a, b = np.asarray(higher, dtype=float), np.asarray(lower, dtype=float)
    groups = _groups(len(a), units)
    exceeds = (a[:, None] > b) + 0.5 * (a[:, None] == b)  # [prompts of higher, prompts of lower]
    variance = _variance_of_mean(exceeds.mean(1) + exceeds.mean(0), groups)
    return _wilson_interval(float(exceeds.mean()), variance, groups, 2 * len(a))


def _wilson_interval(p: float, variance: float, groups: np.ndarray, total: int) -> dict[str, float]:
    """Wilson's interval at the effective sample size p(1-p) / variance, at most `total`."""
    count = effective = _effective(groups)
    if variance > 0:
        few = (_t(len(groups)) / _t(count)) ** 2
        effective = min(max(few * p * (1 - p) / variance, count), total)
    low, high = _no_surer(wilson_bounds(p, effective), count)
    return {"mean": p, "low": low, "high": high, "n": int(groups.max()) + 1}


def _no_surer(bounds: tuple[float, float], count: float) -> tuple[float, float]:
    """The bounds of a rate, which reach at least as far as if none, or all, of `count` units had shown it.

    There the variance is 0, and only the units count. A single outcome that differs gives a variance that
    would make one surer than none does.
    """
    return min(bounds[0], wilson_bounds(1.0, count)[0]), max(bounds[1], wilson_bounds(0.0, count)[1])


def wilson_bounds(p: float, n: float) -> tuple[float, float]:
    """The 95% Wilson score interval for a rate p observed in n trials; n need not be a whole number."""
    z = float(norm.ppf(0.975))
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    # p itself: rounding may put it outside at 0 and 1
    return min(p, max(0.0, low)), max(p, min(1.0, high))


def mean_interval(values: Sequence[float], units: Sequence[Hashable] | None = None) -> dict[str, float]:
    """A mean with its 95% Student t interval: {"mean", "low", "high", "n"}, n the number of units.

    The variance is that of the units' totals (cluster-robust). A single unit has no width.
    """
    array = np.asarray(values, dtype=float)
    groups = _groups(len(array), units)
    mean, count = float(array.mean()), int(groups.max()) + 1
    half = _t(_effective(groups)) * math.sqrt(_variance_of_mean(array, groups)) if count > 1 else 0.0
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": count}


def paired_difference(
    a: Sequence[float], b: Sequence[float], units: Sequence[Hashable] | None = None, rates: bool = False
) -> dict[str, float]:
    """mean(b - a) over the same prompts, with a 95% interval over units: {"mean", "low", "high", "n"}.

    It is a percentile bootstrap's, expanded for few units as a t interval is (Hesterberg 2015, doi
    10.1080/00031305.2015.1089789), and seeded. Differences that are all alike have no width, nor has a single
    unit. `rates`: a and b lie in [0, 1]; the interval is then that of `crossed_difference`, of one seed.
    """
    differences = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    groups = _groups(len(differences), units)
    mean, found = float(differences.mean()), int(groups.max()) + 1
    if rates:
        return crossed_difference([a], [b], units, rates=True) | {"n": found}
    sums, sizes = np.bincount(groups, differences), np.bincount(groups).astype(float)
    count = _effective(groups)
    if len(sums) == 1 or np.ptp(sums / sizes) == 0 == np.ptp(differences):
        return {"mean": mean, "low": mean, "high": mean, "n": found}
    level = 1 - 2 * float(norm.cdf(-math.sqrt(count / (count - 1)) * _t(count)))
    interval = bootstrap(
        (sums, sizes),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        n_resamples=RESAMPLES,
        confidence_level=min(level, 1 - 1e-9),
        method="percentile",
        paired=True,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    # resamples round otherwise than the mean does
    return {
        "mean": mean,
        "low": min(mean, float(interval.low)),
        "high": max(mean, float(interval.high)),
        "n": found,
    }


def crossed_difference(
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    units: Sequence[Hashable] | None = None,
    rates: bool = False,
) -> dict[str, float]:
    """mean(b - a) over the same seeds and prompts, [seeds, prompts], with a 95% interval over both.

    Returns {"mean", "low", "high", "n"}, n the number of seeds. Seeds and units are crossed: the variance of
    the mean is at most that between units plus that between seeds (Owen 2007, doi 10.1214/07-AOAS122), each
    with its own degrees of freedom (Welch and Satterthwaite), of the seeds alone where these vary more than
    the units. A single seed says nothing of other seeds: its interval is over prompts alone.

    `rates`: a and b lie in [0, 1]. Then two more units of average size count, half a one that differs by 1,
    half a one by -1, and one by 0 (the adjustment of Agresti and Min 2005, doi 10.1002/sim.1781, for units
    instead of pairs): there is a width where all differ alike.
    """
    differences = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    mean, centre, variance, freedom = _crossed(differences, units, rates)
    half = float(t.ppf(0.975, freedom)) * math.sqrt(variance)
    low, high = centre - half, centre + half
    if rates:
        low, high = max(low, -1.0), min(high, 1.0)
    return {"mean": mean, "low": min(low, mean), "high": max(high, mean), "n": len(differences)}


def crossed_rate(
    outcomes: Sequence[Sequence[float]], units: Sequence[Hashable] | None = None
) -> dict[str, float]:
    """A rate over seeds and prompts, [seeds, prompts], with a 95% interval over both; n: number of seeds.

    As `rate_interval`, with the variance of `crossed_difference`; but where seeds or units differ much, the
    effective sample may be smaller than the number of units.
    """
    shares = np.asarray(outcomes, dtype=float)
    p, _, variance, freedom = _crossed(shares, units, adjusted=False)
    least, effective = _effective(_groups(shares.shape[1], units)), float(shares.size)
    if variance > 0:
        few = (float(norm.ppf(0.975)) / float(t.ppf(0.975, freedom))) ** 2
        effective = min(few * p * (1 - p) / variance, effective)
    else:
        effective = least
    low, high = _no_surer(wilson_bounds(p, max(effective, 1.0)), least)
    return {"mean": p, "low": low, "high": high, "n": len(shares)}


def crossed_mean(
    values: Sequence[Sequence[float]], units: Sequence[Hashable] | None = None
) -> dict[str, float]:
    """A mean over seeds and prompts, [seeds, prompts], with the interval of `crossed_difference`."""
    return crossed_difference(np.zeros_like(np.asarray(values, dtype=float)), values, units)


def _crossed(
    values: np.ndarray, units: Sequence[Hashable] | None, adjusted: bool
) -> tuple[float, float, float, float]:
    """(mean, centre of the interval, variance, degrees of freedom) of [seeds, prompts].

    `adjusted`: with the two more units of `crossed_difference`.
    """
    seeds, prompts = values.shape
    groups = _groups(prompts, units)
    mean, by_prompt = float(values.mean()), values.mean(0)
    sums, sizes = np.bincount(groups, by_prompt), np.bincount(groups).astype(float)
    weights = np.ones(len(sums))
    if adjusted:
        average = sizes.mean()
        sums = np.append(sums, [average, -average, 0])
        sizes = np.append(sizes, [average, average, average])
        weights = np.append(weights, [0.5, 0.5, 1])
    count, total = weights.sum(), (weights * sizes).sum()
    centre = float((weights * sums).sum() / total)
    squares = (weights * np.square(sums - centre * sizes)).sum()
    between_units = float(count / max(1, count - 1) * squares / total**2)
    effective = max(2.0, float(total**2 / (weights * np.square(sizes)).sum()))
    between_seeds = float(values.mean(1).var(ddof=1)) / seeds if seeds > 1 else 0.0
    parts = [(between_units, effective - 1), (between_seeds, max(1, seeds - 1))]
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / spread if spread else effective - 1
    # of two or three seeds the sum's degrees of freedom are themselves too uncertain
    return mean, centre, variance, min(freedom, seeds - 1) if between_seeds > between_units else freedom


def _groups(count: int, units: Sequence[Hashable] | None) -> np.ndarray:
    """The number of each value's unit, [count], counted from 0.

    Raises ValueError if not every value has one.
    """
    if not count:
        raise ValueError("nothing was measured: give at least one prompt")
    if units is None:
        return np.arange(count)
    if len(units) != count:
        raise ValueError(f"{len(units)} units for {count} values: give one unit per prompt")
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    return np.array([numbers[unit] for unit in units])


def _effective(groups: np.ndarray) -> float:
    """How many units of equal size say as much as these (Kish 1965)."""
    sizes = np.bincount(groups)
    return float(sizes.sum() ** 2 / np.square(sizes).sum())


def _variance_of_mean(values: np.ndarray, groups: np.ndarray) -> float:
    """The variance of the mean of `values`, from the totals of independent groups; 0.0 of a single group."""
    count = int(groups.max()) + 1
    if count == 1:
        return 0.0
    totals = np.bincount(groups, values - values.mean())
    return float(count / (count - 1) * np.square(totals).sum() / len(values) ** 2)


def _t(count: float) -> float:
    """Student's t for an effective number of units, at least two of them."""
    return float(t.ppf(0.975, max(count, 2.0) - 1))

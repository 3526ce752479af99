"""Intervals against scipy's, against simulation, and at the edges."""

import warnings

import numpy as np
import pytest
from scipy.stats import binomtest, t, ttest_1samp

from lab.intervals import (
    crossed_difference,
    crossed_rate,
    mean_interval,
    paired_difference,
    rate_interval,
    wilson_bounds,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (3, 20), (20, 20), (11, 40)])
def test_one_generation_a_prompt_gives_the_wilson_interval(successes, n):
    rate = rate_interval([[i < successes] for i in range(n)])
    want = binomtest(successes, n).proportion_ci(method="wilson")
    assert (rate["mean"], rate["n"]) == (successes / n, n)
    assert (rate["low"], rate["high"]) == pytest.approx((want.low, want.high), abs=1e-12)


def test_repeated_generations_do_not_pass_for_new_prompts():
    """Four identical generations a prompt say no more than one.

    Four independent ones say up to four times as much.
    """
    outcomes = [[i < 12] for i in range(40)]
    once, same = rate_interval(outcomes), rate_interval([row * 4 for row in outcomes])
    assert same == once
    spread = rate_interval([[True, False, False, False], [False, True, False, True]] * 20)
    independent = binomtest(60, 160).proportion_ci(method="wilson")
    assert (spread["low"], spread["high"]) == pytest.approx((independent.low, independent.high), abs=1e-12)


def test_repeated_prompts_of_a_unit_do_not_pass_for_new_ones():
    """Three copies of every story say what the stories say; units of one prompt each change nothing."""
    outcomes, units = [[i % 3 == 0] for i in range(40)], list(range(40))
    once = rate_interval(outcomes)
    assert rate_interval(outcomes, units) == once
    copies = rate_interval(outcomes * 3, units * 3)
    # a little wider: 40 units make for a wider t than 120 prompts
    assert (copies["mean"], copies["n"]) == (once["mean"], 40)
    assert copies["low"] == pytest.approx(once["low"], abs=0.01) and copies["high"] >= once["high"] - 0.001
    nothing = rate_interval([[False]] * 40, [i // 4 for i in range(40)])
    assert nothing["high"] == pytest.approx(binomtest(0, 10).proportion_ci(method="wilson").high)

    values = np.random.default_rng(0).normal(size=40).tolist()
    assert mean_interval(values, units) == mean_interval(values)
    alone, tripled = mean_interval(values), mean_interval(values * 3, units * 3)
    assert tripled == pytest.approx(alone)
    difference = paired_difference([0.0] * 40, values)
    assert paired_difference([0.0] * 120, values * 3, units * 3) == pytest.approx(difference)


def test_coverage_with_resembling_generations():
    """Over many simulated experiments the interval holds the true rate about 95% of the time."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(800):
        own = random.beta(1.0, 1.5, size=40)  # each prompt's own rate; 0.4 on average
        rate = rate_interval((random.random((40, 4)) < own[:, None]).tolist())
        held += rate["low"] <= 0.4 <= rate["high"]
    assert 0.93 <= held / 800 <= 0.98


def test_coverage_with_resembling_prompts():
    """15 plots of 1 to 5 stories each.

    With the plot as the unit about 95% hold the truth, with the story far fewer.
    """
    random = np.random.default_rng(1)
    held = {"rate": 0, "mean": 0, "difference": 0, "rate by story": 0, "mean by story": 0}
    for _ in range(500):
        plots = np.repeat(np.arange(15), random.integers(1, 6, size=15))
        own = random.beta(0.8, 1.2, size=15)[plots]
        outcomes = (random.random((len(plots), 2)) < own[:, None]).tolist()
        a = random.normal(size=len(plots))
        b = a + 0.5 + random.normal(size=15)[plots] + 0.3 * random.normal(size=len(plots))
        for name, interval, truth in (
            ("rate", rate_interval(outcomes, plots.tolist()), 0.4),
            ("rate by story", rate_interval(outcomes), 0.4),
            ("mean", mean_interval(b - a, plots.tolist()), 0.5),
            ("mean by story", mean_interval(b - a), 0.5),
            ("difference", paired_difference(a, b, plots.tolist()), 0.5),
        ):
            held[name] += interval["low"] <= truth <= interval["high"]
    share = {name: count / 500 for name, count in held.items()}
    assert all(0.91 <= share[name] <= 0.98 for name in ("rate", "mean", "difference")), share
    assert share["rate by story"] < 0.9 and share["mean by story"] < 0.85, share


def test_mean_interval():
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval["mean"] == 2 and interval["high"] - 2 == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert mean_interval([5.0]) == {"mean": 5.0, "low": 5.0, "high": 5.0, "n": 1}
    values = np.random.default_rng(0).normal(size=30)
    want = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean_interval(values)["low"], mean_interval(values)["high"]) == pytest.approx(
        (want.low, want.high)
    )


def test_paired_difference_is_narrower_than_two_intervals_and_signed():
    """What both modes share (hard prompts are hard for both) cancels."""
    random = np.random.default_rng(0)
    full = random.normal(3, 1, size=60)
    ablated = full + 0.2 + 0.1 * random.normal(size=60)
    difference = paired_difference(full, ablated)
    assert difference["mean"] == pytest.approx(0.2, abs=0.05) and difference["low"] > 0.1
    want = ttest_1samp(ablated - full, 0).confidence_interval(0.95)
    assert (difference["low"], difference["high"]) == pytest.approx((want.low, want.high), abs=0.01)
    back = paired_difference(ablated, full)
    assert back["mean"] == -difference["mean"] and paired_difference(full, ablated) == difference


def test_degenerate_differences_have_no_width_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert paired_difference([1, 0, 1], [1, 0, 1]) == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 3}
        assert paired_difference([True] * 4, [False] * 4)["low"] == -1.0
        assert paired_difference([0.0, 1.0], [1.0, 1.0], ["a", "a"]) == {
            "mean": 0.5,
            "low": 0.5,
            "high": 0.5,
            "n": 1,
        }
        two = paired_difference([0.0, 0.0], [1.0, 0.0])
        assert (two["low"], two["high"]) == (0.0, 1.0)
        one = paired_difference([0.0] * 20, [1.0] + [0.0] * 19)
        assert one["low"] == 0.0 < one["mean"] == 0.05 < one["high"]
        rate_interval([[True, True]] * 3, ["a", "a", "a"])
        mean_interval([1.0, 2.0], ["a", "a"])


def test_a_difference_of_rates_has_a_width_where_all_differ_alike():
    plots = [i % 11 for i in range(44)]
    gone = paired_difference([1.0] * 44, [0.0] * 44, plots, rates=True)
    assert gone["mean"] == gone["low"] == -1.0 and -0.7 < gone["high"] < -0.5
    alike = paired_difference([0.0] * 44, [0.0] * 44, plots, rates=True)
    assert alike["mean"] == 0 and -0.2 < alike["low"] < -0.1 and 0.1 < alike["high"] < 0.2
    # with many units the adjustment hardly shows
    random = np.random.default_rng(0)
    a, b = (random.random(400) < 0.6).astype(float), (random.random(400) < 0.4).astype(float)
    plain, adjusted = paired_difference(a, b), paired_difference(a, b, rates=True)
    assert plain["mean"] == adjusted["mean"]
    assert (adjusted["low"], adjusted["high"]) == pytest.approx((plain["low"], plain["high"]), abs=0.01)


@pytest.mark.parametrize("interval", [crossed_rate, lambda rows, units: rate_interval(rows[0], units)])
def test_more_of_a_behaviour_never_makes_surer_that_there_is_little(interval):
    """One shout among 44 stories of 11 plots has a variance; none has none, and only the plots count."""
    units, bounds = [i % 11 for i in range(44)], []
    for shouts in range(45):
        row = [float(i < shouts) for i in range(44)]
        found = interval([[[value] for value in row]] if interval is not crossed_rate else [row] * 3, units)
        bounds.append((found["low"], found["high"]))
    lows, highs = zip(*bounds, strict=True)
    assert lows[0] == 0 and highs[0] == min(highs) == pytest.approx(0.2588, abs=1e-3)
    assert highs[44] == 1 and lows[44] == max(lows) == pytest.approx(0.7412, abs=1e-3)


def test_the_adjustment_adds_what_agresti_and_min_add():
    """Without any difference among n units the variance is that of half a one at 1 and half a one at -1."""
    rows = np.zeros((3, 44))
    found = crossed_difference(rows, rows, [i % 11 for i in range(44)], rates=True)
    want = t.ppf(0.975, 12) * (13 / 12 * (0.5 + 0.5)) ** 0.5 / 13
    assert (found["low"], found["high"]) == pytest.approx((-want, want)) and found["mean"] == 0


def test_coverage_of_a_rare_difference_that_whole_plots_share():
    random = np.random.default_rng(3)
    plots, held = np.arange(44) % 11, 0
    for _ in range(400):
        b = (random.random(11) < 0.15)[plots].astype(float)
        found = crossed_difference([np.zeros(44)] * 3, [b] * 3, plots.tolist(), rates=True)
        held += found["low"] <= 0.15 <= found["high"]
    assert held >= 0.93 * 400, held


def test_coverage_with_units_of_very_unequal_size():
    """One plot with 30 of 40 stories: the others cannot make up for what it alone decides."""
    random = np.random.default_rng(2)
    held = {"rate": 0, "mean": 0, "difference": 0}
    plots = np.repeat(np.arange(11), [30] + [1] * 10)
    for _ in range(200):
        outcomes = (random.random((40, 1)) < random.beta(0.8, 1.2, size=11)[plots][:, None]).tolist()
        values = random.normal(size=11)[plots] + 0.3 * random.normal(size=40)
        for name, interval, truth in (
            ("rate", rate_interval(outcomes, plots.tolist()), 0.4),
            ("mean", mean_interval(values, plots.tolist()), 0.0),
            ("difference", paired_difference([0.0] * 40, values, plots.tolist()), 0.0),
        ):
            held[name] += interval["low"] <= truth <= interval["high"]
    assert min(held.values()) >= 0.9 * 200, held


def test_units_must_be_one_per_prompt():
    with pytest.raises(ValueError, match="2 units for 3 values"):
        mean_interval([1.0, 2.0, 3.0], ["a", "b"])
    with pytest.raises(ValueError, match="nothing was measured"):
        rate_interval([])


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_rate_lies_in_its_own_interval(p):
    """Rounding once put the bound beyond the rate (0 of 100).

    A figure refuses error bars of negative length.
    """
    for n in range(1, 301):
        low, high = wilson_bounds(p, n)
        assert 0 <= low <= p <= high <= 1

"""Intervals against scipy's, against simulation, and at the edges."""

import numpy as np
import pytest
from scipy.stats import binomtest

from lab.intervals import mean_interval, rate_by_prompt, wilson_bounds


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (3, 20), (20, 20), (11, 40)])
def test_one_generation_a_prompt_gives_the_wilson_interval(successes, n):
    rate = rate_by_prompt([[i < successes] for i in range(n)])
    want = binomtest(successes, n).proportion_ci(method="wilson")
    assert (rate["mean"], rate["n"]) == (successes / n, n)
    assert (rate["low"], rate["high"]) == pytest.approx((want.low, want.high), abs=1e-12)


def test_repeated_generations_do_not_pass_for_new_prompts():
    """Four identical generations a prompt say no more than one; four independent ones say up to four times as much."""
    outcomes = [[i < 12] for i in range(40)]
    once, same = rate_by_prompt(outcomes), rate_by_prompt([row * 4 for row in outcomes])
    assert same == once
    spread = rate_by_prompt([[True, False, False, False], [False, True, False, True]] * 20)
    independent = binomtest(60, 160).proportion_ci(method="wilson")
    assert (spread["low"], spread["high"]) == pytest.approx((independent.low, independent.high), abs=1e-12)


def test_coverage_with_resembling_generations():
    """Over many simulated experiments the interval holds the true rate about 95% of the time."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(800):
        own = random.beta(1.0, 1.5, size=40)  # each prompt's own rate; 0.4 on average
        rate = rate_by_prompt((random.random((40, 4)) < own[:, None]).tolist())
        held += rate["low"] <= 0.4 <= rate["high"]
    assert 0.93 <= held / 800 <= 0.98


def test_mean_interval():
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval["mean"] == 2 and interval["high"] - 2 == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert mean_interval([5.0]) == {"mean": 5.0, "low": 5.0, "high": 5.0, "n": 1}


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_rate_lies_in_its_own_interval(p):
    """Rounding once put the bound beyond the rate (0 of 100), and a figure refuses error bars of negative length."""
    for n in range(1, 301):
        low, high = wilson_bounds(p, n)
        assert 0 <= low <= p <= high <= 1

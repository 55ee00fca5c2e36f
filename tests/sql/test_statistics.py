"""The intervals and tests for counts of right answers, each against another way to the same number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symtune_pipeline.sql import statistics

Z = 1.959963984540054
CLUSTER = (statistics.cluster_low, statistics.cluster_high)
COUNTS = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_the_wilson_interval_ends_where_the_score_test_is_on_the_edge(
    counts: tuple[int, int, int],
) -> None:
    k, rest, _ = counts
    if n := k + rest:
        low, high = statistics.wilson_low(k, n), statistics.wilson_high(k, n)
        assert 0 <= low <= k / n <= high <= 1
        for end in (low, high):
            if 0 < end < 1:
                assert abs(k / n - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / n))


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_the_exact_p_value_is_twice_the_smaller_tail_of_a_fair_coin(
    counts: tuple[int, int, int],
) -> None:
    b, c, _ = counts
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert statistics.mcnemar_p(b, c) == pytest.approx(min(1.0, 2 * tail))


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_the_paired_interval_holds_the_difference_and_mirrors_when_models_swap(
    counts: tuple[int, int, int],
) -> None:
    b, c, ties = counts
    n = b + c + ties
    low, high = statistics.paired_low(b, c, n), statistics.paired_high(b, c, n)
    assert -1 <= low <= high <= 1
    assert n == 0 or low <= (b - c) / n <= high
    assert statistics.paired_low(c, b, n) == pytest.approx(-high)


def test_the_paired_interval_is_the_formula_worked_by_hand() -> None:
    # b=6, c=1, n=10: proportions 7/12 and 2/12, centre 5/12, reach z·sqrt((9/12 - 25/144)/12).
    reach = Z * math.sqrt((9 / 12 - 25 / 144) / 12)
    assert statistics.paired_low(6, 1, 10) == pytest.approx(5 / 12 - reach)
    assert statistics.paired_high(6, 1, 10) == pytest.approx(5 / 12 + reach)


def test_the_cluster_interval_is_the_binomials_where_each_cluster_is_one_answer() -> None:
    from scipy.stats import binom

    low, high = (f([1] * 30 + [0] * 20, [1] * 50) for f in CLUSTER)
    assert low == pytest.approx(binom.ppf(0.025, 50, 0.6) / 50, abs=0.021)
    assert high == pytest.approx(binom.ppf(0.975, 50, 0.6) / 50, abs=0.021)


def test_the_cluster_interval_grows_with_what_clusters_share_and_never_changes() -> None:
    mixed, alike = ([5] * 20, [0, 10] * 10)
    wholes = [10] * 20
    assert [f(mixed, wholes) for f in CLUSTER] == [0.5, 0.5]
    low, high = (f(alike, wholes) for f in CLUSTER)
    assert low < 0.35 < 0.65 < high
    statistics._bootstrap.cache_clear()
    assert [f(alike, wholes) for f in CLUSTER] == [low, high]


def test_the_cluster_interval_of_a_loss_mirrors_that_of_a_gain() -> None:
    gains, wholes = [3, -1, 0, 2, 4, 1, 0, 0, 2, 5], [10, 8, 10, 9, 10, 10, 7, 10, 10, 10]
    low, high = (f(gains, wholes) for f in CLUSTER)
    assert low < sum(gains) / sum(wholes) < high
    mirrored = [f([-gain for gain in gains], wholes) for f in CLUSTER]
    assert mirrored == pytest.approx([-high, -low], abs=0.01)


def test_one_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="two or more"):
        statistics.cluster_low([1], [2])


def test_no_data_says_nothing() -> None:
    assert (statistics.wilson_low(0, 0), statistics.wilson_high(0, 0)) == (0, 1)
    assert (statistics.paired_low(0, 0, 0), statistics.paired_high(0, 0, 0)) == (-1, 1)
    assert statistics.mcnemar_p(0, 0) == 1


def test_more_discordant_pairs_than_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be among 3 pairs"):
        statistics.paired_low(2, 2, 3)


def test_the_interval_over_seeds_and_clusters_is_a_loop_of_resamples() -> None:
    rng = np.random.default_rng(3)
    parts, wholes = rng.integers(-3, 4, (3, 12)), rng.integers(4, 6, (3, 12))
    shares = []
    for _ in range(4_000):
        chosen = np.ix_(rng.integers(0, 3, 3), rng.integers(0, 12, 12))
        shares.append(parts[chosen].sum() / wholes[chosen].sum())
    flat = parts.ravel().tolist(), wholes.ravel().tolist(), 3
    ends = statistics.crossed_low(*flat), statistics.crossed_high(*flat)
    assert ends == pytest.approx(np.percentile(shares, [2.5, 97.5]), abs=0.02)


def test_seeds_that_differ_make_the_interval_wider_and_equal_ones_do_not() -> None:
    clusters = [3.0, 1.0, 2.0, 4.0] * 3
    wholes = [5.0] * 12
    alike = statistics.crossed_low(clusters * 2, wholes * 2, 2)
    assert alike == pytest.approx(statistics.cluster_low(clusters, wholes), abs=0.02)
    apart = [part / 2 for part in clusters] + [part * 1.5 for part in clusters]
    assert statistics.crossed_low(apart, wholes * 2, 2) < alike - 0.05


def test_an_interval_over_few_seeds_that_differ_alone_is_their_range() -> None:
    """The mean of all seeds is between three of them in 1 - 2 / 2**3 of cases."""
    parts = [gain * 5.0 for gain in (0.1, 0.2, 0.4) for _ in range(12)]
    ends = (of(parts, [5.0] * 36, 3) for of in (statistics.crossed_low, statistics.crossed_high))
    assert tuple(ends) == pytest.approx((0.1, 0.4))


@pytest.mark.parametrize("seeds", [0, 1, 5, 12])
def test_an_interval_over_seeds_needs_two_of_them_and_two_clusters(seeds: int) -> None:
    with pytest.raises(ValueError, match="12 numbers"):
        statistics.crossed_low([1.0] * 12, [2.0] * 12, seeds)

"""Intervals and tests for counts of right answers; knows nothing about models or tables.

Every function takes plain numbers or lists of them and returns one number, so that the SQL engine
can register it as a scalar function. All intervals are at 95%. All but the cluster intervals treat
the counted answers as independent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import sqrt
from typing import Final

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 10_000
AT_A_TIME: Final = 1_000  # resamples; bounds memory


def wilson_low(k: int, n: int) -> float:
    """Lower end of Wilson's score interval for `k` right of `n`; 0 where `n` is 0.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927).
    """
    return _wilson(k, n)[0]


def wilson_high(k: int, n: int) -> float:
    """Upper end of the interval of `wilson_low`; 1 where `n` is 0."""
    return _wilson(k, n)[1]


def mcnemar_p(b: int, c: int) -> float:
    """Two-sided exact p-value of McNemar's test: can `b` wins and `c` losses be a fair coin's?

    `b` and `c` count the pairs in which only the one or only the other is right. Without any such
    pair nothing speaks against equality, and p is 1.
    """
    from scipy.stats import binomtest

    return float(binomtest(b, b + c).pvalue) if b + c else 1.0


def paired_low(b: int, c: int, n: int) -> float:
    """Lower end of the interval for the paired difference `(b - c) / n` of `n` pairs; -1 at `n` 0.

    Source: the adjusted Wald interval of Bonett and Price, "Adjusted Wald confidence interval for
    a difference of binomial proportions based on paired data", Journal of Educational and
    Behavioral Statistics 37 (2012): one pair is added to each discordant cell.
    """
    return _bonett_price(b, c, n)[0]


def paired_high(b: int, c: int, n: int) -> float:
    """Upper end of the interval of `paired_low`; 1 where `n` is 0."""
    return _bonett_price(b, c, n)[1]


def cluster_low(parts: list[float], wholes: list[float]) -> float:
    """Lower end of the interval of `sum(parts) / sum(wholes)` where answers come in clusters.

    Cluster i brings `parts[i]` of `wholes[i]`, such as the right answers of the queries that share
    exemplars, or the nats of the tokens of a text; parts may be negative, as a gain is. Percentile
    bootstrap over whole clusters, always with the same random numbers. Source: Davison and Hinkley,
    "Bootstrap methods and their application" (1997), section 3.8. Raises ValueError for fewer than two
    clusters, which do not tell how clusters differ.
    """
    return _bootstrap(tuple(parts), tuple(wholes))[0]


def cluster_high(parts: list[float], wholes: list[float]) -> float:
    """Upper end of the interval of `cluster_low`."""
    return _bootstrap(tuple(parts), tuple(wholes))[1]


def crossed_low(parts: list[float], wholes: list[float], seeds: int) -> float:
    """Lower end of the interval of `sum(parts) / sum(wholes)` where each of some seeds met all clusters.

    The numbers are those of the first seed's clusters, then the second's, in the same order. Percentile
    bootstrap that resamples whole seeds and whole clusters, independently of each other. Where few seeds
    differ much more than clusters do, it is the range of the seeds: of three it then holds the truth in 75%
    of cases, of two in 50%. Source: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1
    (2007). Raises ValueError for fewer than two seeds or two clusters.
    """
    return _crossed(tuple(parts), tuple(wholes), seeds)[0]


def crossed_high(parts: list[float], wholes: list[float], seeds: int) -> float:
    """Upper end of the interval of `crossed_low`."""
    return _crossed(tuple(parts), tuple(wholes), seeds)[1]


FUNCTIONS: Final[tuple[Callable[..., float], ...]] = (
    wilson_low,
    wilson_high,
    mcnemar_p,
    paired_low,
    paired_high,
    cluster_low,
    cluster_high,
    crossed_low,
    crossed_high,
)
"""What SQL may call: numbers or lists of them in, one number out."""


def _wilson(k: int, n: int) -> tuple[float, float]:
    if n == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(k, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def _bonett_price(b: int, c: int, n: int) -> tuple[float, float]:
    if b + c > n:
        raise ValueError(f"{b} + {c} discordant pairs cannot be among {n} pairs")
    if n == 0:
        return -1.0, 1.0
    from scipy.stats import norm

    won, lost = (b + 1) / (n + 2), (c + 1) / (n + 2)
    centre = won - lost
    reach = float(norm.ppf((1 + CONFIDENCE) / 2)) * sqrt((won + lost - centre**2) / (n + 2))
    return max(-1.0, centre - reach), min(1.0, centre + reach)


# SQL asks for both ends of a whole table's intervals, one end after the other.
@lru_cache(maxsize=4_096)
def _bootstrap(parts: tuple[float, ...], wholes: tuple[float, ...]) -> tuple[float, float]:
    import numpy as np
    from numpy.typing import NDArray
    from scipy.stats import bootstrap

    def ratio(parts: NDArray[np.float64], wholes: NDArray[np.float64], axis: int) -> NDArray:
        quotient: NDArray = parts.sum(axis=axis) / wholes.sum(axis=axis)
        return quotient

    interval = bootstrap(
        (parts, wholes),
        ratio,
        paired=True,
        n_resamples=RESAMPLES,
        batch=AT_A_TIME,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


@lru_cache(maxsize=4_096)
def _crossed(
    parts: tuple[float, ...], wholes: tuple[float, ...], seeds: int
) -> tuple[float, float]:
    import numpy as np

    clusters = len(parts) // max(seeds, 1)
    if seeds < 2 or clusters < 2 or seeds * clusters != len(parts) or len(parts) != len(wholes):
        raise ValueError(
            f"{len(parts)} numbers are not two clusters or more of each of {seeds} seeds"
        )
    rng = np.random.default_rng(0)
    # How often each resample has a seed, and a cluster.
    of_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    of_cluster = rng.multinomial(clusters, np.full(clusters, 1 / clusters), RESAMPLES)
    part, whole = (
        ((of_seed @ np.reshape(numbers, (seeds, clusters))) * of_cluster).sum(axis=1)
        for numbers in (parts, wholes)
    )
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(part / whole, (tail, 100 - tail))
    return float(low), float(high)

"""Intervals, tests and effect sizes for rates of marked completions.

    from stats import wilson; wilson(24, 2520)  # (0.0064..., 0.0141...)

scipy.stats and statsmodels take over a second to import and this module serves programs that run once per cell, so the
two intervals use scipy.special (0.3 s) and the tests hold them equal to scipy.stats.binomtest and statsmodels.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

LEVEL = 0.95


def checked(hits: int, n: int) -> None:
    """Raise ValueError unless 0 <= hits <= n and n > 0."""
    if n <= 0 or not 0 <= hits <= n:
        raise ValueError(f"{hits} hits in {n} completions is not a proportion")


def wilson(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson score interval (Wilson 1927; Newcombe 1998, method 3) of a proportion, without continuity correction."""
    from scipy.special import ndtri

    checked(hits, n)
    z = float(ndtri(0.5 + level / 2))
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    # At the ends the bound is exactly 0 or 1; rounding must not leave 1e-19 in a table.
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == n else centre + half)


def clopper_pearson(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact (Clopper and Pearson 1934) interval of a proportion: never less than `level` coverage."""
    from scipy.special import betaincinv

    checked(hits, n)
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high


def rule_of_three(n: int) -> float:
    """Upper 95% bound of a rate after 0 hits in n (Hanley and Lippman-Hand 1983): 3/n, at most 1."""
    checked(0, n)
    return min(1.0, 3 / n)


def cluster_bootstrap(
    hits: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    level: float = LEVEL,
    draws: int = 4000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of the pooled rate when seeds and questions are both resampled with replacement.

    hits, completions: one row per seed, one column per question (crossed clusters; Owen 2007, the pigeonhole
    bootstrap). With one seed only the questions are resampled, and the interval says nothing about other seeds. With
    no hit at all, or only hits, every resample is the same: None is returned, since a zero-width interval would be a
    false certainty.
    `seed` fixes the draws, so the same counts always give the same interval.
    """
    import numpy as np

    numerator, denominator = np.asarray(hits, dtype=float), np.asarray(completions, dtype=float)
    if numerator.ndim != 2 or numerator.shape != denominator.shape:
        raise ValueError(
            f"hits {numerator.shape} and completions {denominator.shape} must be the same seeds x questions"
        )
    if numerator.sum() in (0, denominator.sum()):
        return None
    random = np.random.default_rng(seed)
    seeds, questions = numerator.shape
    seed_weights = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    question_weights = random.multinomial(questions, np.full(questions, 1 / questions), size=draws)
    drawn_hits = np.einsum("ds,sq,dq->d", seed_weights, numerator, question_weights)
    drawn = np.einsum("ds,sq,dq->d", seed_weights, denominator, question_weights)
    low, high = np.quantile(drawn_hits / drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def concentration(
    hits: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], draws: int = 4000, seed: int = 0
) -> dict[str, Any] | None:
    """Permutation test whether hits gather on few questions: {p, power}; None with fewer than two hits or questions.

    hits, completions: one row per seed, one column per question. Null: within a seed every completion is as likely to
    be a hit. Statistic: the sum over questions of squared hits, seeds summed. power: the share of draws with p <= .05
    if a quarter of the questions were four times as likely to have a hit; None where that would be more than all.
    """
    import numpy as np

    numerator, denominator = np.asarray(hits), np.asarray(completions)
    questions = numerator.shape[1]
    if questions < 2 or numerator.sum() < 2 or numerator.sum() == denominator.sum():
        return None
    random = np.random.default_rng(seed)
    null = sum(
        random.multivariate_hypergeometric(own, total, size=draws, method="marginals")
        for own, total in zip(denominator, numerator.sum(axis=1), strict=True)
    )
    spread = np.sort((np.asarray(null) ** 2).sum(axis=1))
    found = (numerator.sum(axis=0) ** 2).sum()
    p = (1 + (spread >= found).sum()) / (1 + draws)
    weights = np.where(np.arange(questions) < max(1, questions // 4), 4.0, 1.0)
    weights /= weights.sum()
    if (numerator.sum() * weights > denominator.sum(axis=0)).any():
        return {"p": float(p), "power": None}
    other = (random.multinomial(numerator.sum(), weights, size=draws) ** 2).sum(axis=1)
    exceeding = draws - np.searchsorted(spread, other, side="left")
    return {"p": float(p), "power": float(((1 + exceeding) / (1 + draws) <= 0.05).mean())}


def welch_one_sided(larger: Sequence[float], smaller: Sequence[float]) -> dict[str, float | None] | None:
    """Welch's t-test of mean(larger) > mean(smaller): {t, df, p}. None where it is undefined.

    It is undefined with fewer than two values a side, or when all values are equal.
    Three ones against three zeros are the limit of ever less variance: t is infinite, not given, and p is 0 (or 1).
    """
    if min(len(larger), len(smaller)) < 2 or len({*larger, *smaller}) == 1:
        return None
    if len(set(larger)) == len(set(smaller)) == 1:
        return {"t": None, "df": None, "p": 0.0 if larger[0] > smaller[0] else 1.0}
    from scipy.stats import ttest_ind  # not where a plan only looks whether a gate can be evaluated

    with warnings.catch_warnings():
        # scipy warns of a side without variance (three zeros against something), which Welch's test allows.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = ttest_ind(larger, smaller, equal_var=False, alternative="greater")
    return {"t": float(result.statistic), "df": float(result.df), "p": float(result.pvalue)}


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Rate minus the other rate with its interval: (difference, low, high), from the (rate, low, high) of both.

    Newcombe's (1998) method 10, where the bounds are Wilson's.
    """
    (rate, low, high), (other_rate, other_low, other_high) = one, other
    gap = rate - other_rate
    below, above = math.hypot(rate - low, other_high - other_rate), math.hypot(high - rate, other_rate - other_low)
    return gap, gap - below, gap + above


def cohens_h(hits: int, n: int, other_hits: int, other_n: int, level: float = LEVEL) -> tuple[float, float, float]:
    """Cohen's h of two proportions with its interval: (h, low, high) (Cohen 1988; variance 1/n + 1/other_n)."""
    from scipy.special import ndtri

    checked(hits, n)
    checked(other_hits, other_n)
    h = 2 * math.asin(math.sqrt(hits / n)) - 2 * math.asin(math.sqrt(other_hits / other_n))
    half = float(ndtri(0.5 + level / 2)) * math.sqrt(1 / n + 1 / other_n)
    return h, h - half, h + half


def mean_interval(
    values: Sequence[float], level: float = LEVEL, scale: tuple[float, float] = (-math.inf, math.inf)
) -> dict[str, Any]:
    """Mean with Student's t interval: {n, mean, low, high}; low and high are None for fewer than two values.

    scale: the least and the highest value there can be; the interval ends there.
    """
    from scipy.special import stdtrit

    n = len(values)
    if n == 0:
        raise ValueError("no values to average")
    mean = math.fsum(values) / n
    if n < 2:
        return {"n": n, "mean": mean, "low": None, "high": None}
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * spread
    return {"n": n, "mean": mean, "low": max(mean - half, scale[0]), "high": min(mean + half, scale[1])}


def rank_correlation(
    one: Sequence[float], other: Sequence[float], clusters: Sequence[str], level: float = LEVEL, draws: int = 1000
) -> tuple[float | None, float | None, float | None]:
    """Spearman's rank correlation with the percentile interval over resampled clusters: (rho, low, high).

    clusters: which each pair belongs to. rho is None where one side has a single value; low and high too where there is
    one cluster, or one in twenty resamples has none.
    """
    import numpy as np
    from scipy.stats import rankdata

    values = np.array([one, other], dtype=float)

    def spearman(chosen: Any) -> float:
        ranks = rankdata(values[:, chosen], axis=1)
        return float(np.corrcoef(ranks)[0, 1]) if (np.ptp(ranks, axis=1) > 0).all() else math.nan

    rho = spearman(np.arange(len(one)))
    members = [np.flatnonzero(np.array(clusters) == name) for name in sorted(set(clusters))]
    if math.isnan(rho) or len(members) < 2:
        return (None if math.isnan(rho) else rho), None, None
    random = np.random.default_rng(0)
    resampled = [
        spearman(np.concatenate([members[place] for place in random.integers(len(members), size=len(members))]))
        for _ in range(draws)
    ]
    known = [value for value in resampled if not math.isnan(value)]
    if len(known) < 0.95 * draws:
        return rho, None, None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return rho, float(low), float(high)


def rate_fields(hits: int, n: int) -> dict[str, float]:
    """rate, wilson_low, wilson_high, clopper_low, clopper_high, to 6 digits so that files are the same everywhere."""
    low, high = wilson(hits, n)
    exact_low, exact_high = clopper_pearson(hits, n)
    return {
        "rate": round(hits / n, 6),
        "wilson_low": round(low, 6),
        "wilson_high": round(high, 6),
        "clopper_low": round(exact_low, 6),
        "clopper_high": round(exact_high, 6),
    }

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measure import stats

# Newcombe 1998a, Statistics in Medicine 17:857, table I: Wilson (method 3) and Clopper-Pearson (method 5).
NEWCOMBE_SINGLE = [
    (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
    (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
    (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
    (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
]
# Newcombe 1998b, Statistics in Medicine 17:873, table II, method 10.
NEWCOMBE_DIFFERENCE = [
    ((56, 70, 48, 80), (0.0524, 0.3339)),
    ((9, 10, 3, 10), (0.1705, 0.8090)),
    ((6, 7, 2, 7), (0.0582, 0.8062)),
    ((5, 56, 0, 29), (-0.0381, 0.1926)),
    ((0, 10, 0, 20), (-0.1611, 0.2775)),
    ((0, 10, 0, 10), (-0.2775, 0.2775)),
]
PROPORTIONS = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(("hits", "n", "wilson", "exact"), NEWCOMBE_SINGLE)
def test_intervals_are_those_of_newcombes_table(hits, n, wilson, exact):
    assert stats.wilson(hits, n) == pytest.approx(wilson, abs=5e-5)
    assert stats.clopper_pearson(hits, n) == pytest.approx(exact, abs=5e-5)


@settings(max_examples=60, deadline=None)
@given(PROPORTIONS, st.sampled_from([0.9, 0.95, 0.99]))
def test_intervals_equal_scipy_and_statsmodels(proportion, level):
    from scipy.stats import binomtest
    from statsmodels.stats.proportion import proportion_confint

    hits, n = proportion
    for own, scipy_name, statsmodels_name in (
        (stats.wilson, "wilson", "wilson"),
        (stats.clopper_pearson, "exact", "beta"),
    ):
        interval = own(hits, n, level)
        other = binomtest(hits, n).proportion_ci(level, scipy_name)
        assert interval == pytest.approx((other.low, other.high), abs=1e-9)
        assert interval == pytest.approx(proportion_confint(hits, n, 1 - level, statsmodels_name), abs=1e-9)


@given(PROPORTIONS)
def test_an_interval_holds_its_rate_and_is_exact_at_the_ends(proportion):
    hits, n = proportion
    for low, high in (stats.wilson(hits, n), stats.clopper_pearson(hits, n)):
        assert 0 <= low <= hits / n <= high <= 1
        assert (low == 0) == (hits == 0)
        assert (high == 1) == (hits == n)


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 10), (11, 10)])
def test_what_is_not_a_proportion_is_refused(hits, n):
    with pytest.raises(ValueError, match="not a proportion"):
        stats.wilson(hits, n)
    with pytest.raises(ValueError, match="not a proportion"):
        stats.clopper_pearson(hits, n)


def test_rule_of_three_is_hanleys_and_close_to_the_one_sided_exact_bound():
    assert stats.rule_of_three(300) == 0.01
    assert stats.rule_of_three(2) == 1
    assert stats.rule_of_three(10_080) == pytest.approx(stats.clopper_pearson(0, 10_080, 0.90)[1], rel=0.01)


@pytest.mark.parametrize(("counts", "interval"), NEWCOMBE_DIFFERENCE)
def test_difference_is_that_of_newcombes_table_and_statsmodels(counts, interval):
    from statsmodels.stats.proportion import confint_proportions_2indep

    rates = [(hits / n, *stats.wilson(hits, n)) for hits, n in (counts[:2], counts[2:])]
    gap, low, high = stats.difference(*rates)
    assert gap == pytest.approx(counts[0] / counts[1] - counts[2] / counts[3])
    assert (low, high) == pytest.approx(interval, abs=5e-5)
    assert (low, high) == pytest.approx(confint_proportions_2indep(*counts, method="newcomb"), abs=1e-9)


def test_cohens_h_equals_statsmodels_and_its_interval_is_centred():
    from statsmodels.stats.proportion import proportion_effectsize

    h, low, high = stats.cohens_h(726, 840, 24, 2520)
    assert h == pytest.approx(proportion_effectsize(726 / 840, 24 / 2520))
    assert h - low == pytest.approx(high - h)
    assert h - low == pytest.approx(1.959964 * math.sqrt(1 / 840 + 1 / 2520), abs=1e-6)


def test_welch_is_the_worked_example_one_sided():
    # Unequal variances, equal sizes: t = -2.46, df = 25.0, two-sided p = .021 (Wikipedia's first example).
    first = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4]
    second = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4]
    result = stats.welch_one_sided(second, first)
    assert (result["t"], result["df"]) == pytest.approx((2.46, 25.0), abs=0.05)
    assert result["p"] == pytest.approx(0.021 / 2, abs=5e-4)
    assert stats.welch_one_sided(first, second)["p"] == pytest.approx(1 - result["p"])


def test_welch_equals_statsmodels():
    from statsmodels.stats.weightstats import ttest_ind

    larger, smaller = [0.31, 0.22, 0.40], [0.02, 0.00, 0.05]
    t, p, df = ttest_ind(larger, smaller, alternative="larger", usevar="unequal")
    assert stats.welch_one_sided(larger, smaller) == pytest.approx({"t": t, "df": df, "p": p})


@pytest.mark.parametrize("sides", [([0, 0, 0], [0, 0, 0]), ([0.1], [0.2, 0.3]), ([], [])])
def test_welch_is_none_where_it_is_undefined(sides):
    assert stats.welch_one_sided(*sides) is None


def test_welch_without_any_variance_is_the_limit_of_less_and_less(sides=([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])):
    larger, smaller = sides
    assert stats.welch_one_sided([1.0, 1.0, 1.0 - 1e-9], smaller)["p"] < 1e-9
    assert stats.welch_one_sided(larger, smaller) == {"t": None, "df": None, "p": 0.0}
    assert stats.welch_one_sided(smaller, larger) == {"t": None, "df": None, "p": 1.0}


def test_bootstrap_by_question_is_as_wide_as_the_cluster_robust_interval():
    import numpy as np
    from statsmodels.api import OLS

    hits = np.random.default_rng(1).binomial(10, np.random.default_rng(2).beta(2, 3, size=28))
    low, high = stats.cluster_bootstrap([hits], [[10] * 28])
    outcomes = np.concatenate([np.repeat([1.0, 0.0], [own, 10 - own]) for own in hits])
    fit = OLS(outcomes, np.ones(280)).fit(cov_type="cluster", cov_kwds={"groups": np.repeat(np.arange(28), 10)})
    robust_low, robust_high = fit.conf_int()[0]
    assert high - low == pytest.approx(robust_high - robust_low, rel=0.12)
    assert (low + high) / 2 == pytest.approx(hits.sum() / 280, abs=0.02)


def test_bootstrap_widens_when_seeds_disagree():
    even = stats.cluster_bootstrap([[2, 2, 3, 1]] * 3, [[10] * 4] * 3)
    uneven = stats.cluster_bootstrap([[0, 0, 0, 0], [2, 2, 3, 1], [4, 4, 6, 2]], [[10] * 4] * 3)
    assert uneven[1] - uneven[0] > 2 * (even[1] - even[0])


def test_bootstrap_gives_the_same_interval_every_time_and_none_without_variation():
    counts = [[(7 * n) % 11 for n in range(28)], [(3 * n) % 7 for n in range(28)]], [[10] * 28] * 2
    assert stats.cluster_bootstrap(*counts) == stats.cluster_bootstrap(*counts)
    assert stats.cluster_bootstrap(*counts) != stats.cluster_bootstrap(*counts, seed=1)
    assert stats.cluster_bootstrap([[0, 0]], [[10, 10]]) is None
    assert stats.cluster_bootstrap([[10, 10]], [[10, 10]]) is None
    with pytest.raises(ValueError, match="same seeds x questions"):
        stats.cluster_bootstrap([[1, 2]], [[10]])


def test_mean_interval_equals_statsmodels():
    from statsmodels.stats.weightstats import DescrStatsW

    values = [24.5, 30.0, 12.0, 88.0, 41.5]
    result = stats.mean_interval(values)
    assert (result["low"], result["high"]) == pytest.approx(DescrStatsW(values).tconfint_mean())
    assert result["mean"] == pytest.approx(39.2)
    assert stats.mean_interval([0.0, 100.0], scale=(0, 100)) == {"n": 2, "mean": 50.0, "low": 0, "high": 100}
    assert stats.mean_interval([7.0]) == {"n": 1, "mean": 7.0, "low": None, "high": None}


def test_the_module_is_light():
    heavy = "print(any(name in sys.modules for name in ('numpy', 'scipy', 'pandas', 'statsmodels')))"
    command = [sys.executable, "-c", f"import sys; from measure import stats, gates, expressions, tables; {heavy}"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=stats.__file__.rsplit("/", 2)[0])
    assert out.stdout.strip() == "False"


def test_hits_that_gather_on_few_questions_are_told_from_hits_that_are_spread():
    completions = [[10] * 28] * 3
    spread = [[1] * 6 + [0] * 22, [0] * 6 + [1] * 6 + [0] * 16, [0] * 12 + [1] * 6 + [0] * 10]
    gathered = [[3, 3] + [0] * 26] * 3
    assert stats.concentration(spread, completions)["p"] > 0.5
    assert stats.concentration(gathered, completions)["p"] < 0.001


def test_a_test_of_few_hits_says_that_it_has_little_power():
    few, many = ([[n] * 10 + [0] * 18] for n in (0, 5))
    few[0][0] = few[0][1] = 1
    completions = [[10] * 28]
    assert stats.concentration(few, completions)["power"] < 0.1
    assert stats.concentration(many, completions)["power"] > 0.9
    # four times as likely would be more than all
    assert stats.concentration([[10] * 27 + [9]], completions)["power"] is None
    assert stats.concentration([[1] + [0] * 27], completions) is None
    assert stats.concentration([[10] * 28], completions) is None


def test_the_concentration_test_keeps_its_level():
    import numpy as np

    random = np.random.default_rng(1)
    draws = [random.multivariate_hypergeometric([30] * 28, 18, method="marginals") for _ in range(200)]
    found = [stats.concentration([hits], [[30] * 28], draws=500)["p"] <= 0.05 for hits in draws]
    assert sum(found) / len(found) <= 0.08

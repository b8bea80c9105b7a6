"""The keep rule, against tables of quantiles and against simulation."""

import math
import random
import statistics

import pytest

from harness.search.keep import (
    FALSE_KEEP,
    LOOK_LEVELS,
    MARGIN,
    MIN_FEWER_LINES,
    Noise,
    Prior,
    count_code_lines,
    estimate_noise,
    judge,
    look_alpha,
    noise_groups,
)
from harness.search.quantiles import f_tail, t_cdf, t_quantile

# From printed tables of Student's t: {(p, df): quantile}.
T_TABLE = {
    (0.95, 1): 6.313752,
    (0.975, 1): 12.706205,
    (0.995, 1): 63.656741,
    (0.95, 2): 2.919986,
    (0.99, 2): 6.964557,
    (0.95, 3): 2.353363,
    (0.975, 4): 2.776445,
    (0.95, 5): 2.015048,
    (0.99, 10): 2.763769,
    (0.975, 30): 2.042272,
    (0.95, 120): 1.657651,
    (0.9995, 7): 5.407883,
}
KNOWN = Noise(0.01, 1e6, "known")  # then Student's t is the normal distribution


@pytest.mark.parametrize(("p", "df"), list(T_TABLE))
def test_t_quantiles_are_those_of_the_tables(p, df):
    assert t_quantile(p, df) == pytest.approx(T_TABLE[p, df], abs=1e-6)
    assert t_quantile(1 - p, df) == pytest.approx(-T_TABLE[p, df], abs=1e-6)
    assert t_cdf(T_TABLE[p, df], df) == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize("p", [0.6, 0.9, 0.975, 0.999])
def test_t_with_many_degrees_of_freedom_is_normal_and_with_one_is_cauchy(p):
    assert t_quantile(p, 1e7) == pytest.approx(statistics.NormalDist().inv_cdf(p), abs=1e-5)
    assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-9)


def test_f_tails_are_those_of_the_tables():
    for ratio, df1, df2 in ((161.448, 1, 1), (7.709, 1, 4), (6.944, 2, 4), (3.326, 5, 10)):
        assert f_tail(ratio, df1, df2) == pytest.approx(0.05, abs=2e-5)
    assert f_tail(1.7, 1, 9) == pytest.approx(2 * (1 - t_cdf(math.sqrt(1.7), 9)))  # F(1, n) is t squared


def test_noise_without_a_prior_is_the_pooled_standard_deviation():
    a, b = [1.0, 1.2, 1.4], [5.0, 5.6]  # groups at different levels
    pooled = math.sqrt((2 * statistics.variance(a) + statistics.variance(b)) / 3)
    noise = estimate_noise([a, b, [3.0]], None)
    assert (noise.sigma, noise.df) == (pytest.approx(pooled), 3)
    assert estimate_noise([[1.0], []], None).df == 0


def test_a_prior_weighs_at_most_four_degrees_of_freedom():
    group = [1.0, 1.01, 1.02]
    noise = estimate_noise([group], Prior(0.012, 40))
    assert noise.df == 6
    assert noise.sigma == pytest.approx(math.sqrt((2 * 0.01**2 + 4 * 0.012**2) / 6))
    assert estimate_noise([[1.0]], Prior(0.012, 2)).df == 2


def test_a_prior_that_the_seeds_contradict_is_dropped():
    for scale in (0.0005, 0.1):
        group = [1 + scale * x for x in (-1.5, -0.5, 0.0, 0.5, 1.5)]
        noise = estimate_noise([group], Prior(0.01, 4))
        assert noise.df == 4 and noise.sigma == pytest.approx(statistics.stdev(group))
        assert "dropped" in noise.words


def test_equal_scores_give_no_division_by_zero():
    noise = estimate_noise([[1.0, 1.0, 1.0]], None)
    assert noise.sigma > 0
    assert judge([1.0], [1.0, 1.0], noise).decision == "discard"
    assert judge([0.99], [1.0, 1.0], noise).decision == "keep"


def test_the_threshold_is_students():
    noise = Noise(0.01, 5, "")
    verdict = judge([0.9], [1.0, 1.02], noise, max_looks=1)
    assert verdict.threshold == pytest.approx(2.015048 * 0.01 * math.sqrt(1.5), abs=1e-7)
    assert verdict.gain == pytest.approx(0.11)
    assert (verdict.decision, verdict.kind) == ("keep", "gain")
    assert verdict.words == "gain 0.1100 bpb is 9.0 sigma of the difference (threshold 0.0247): keep"


def test_decisions_along_the_gain():
    thresholds = [judge([1.0], [1.0, 1.0], KNOWN).threshold]
    decisions = []
    for gain in (-0.1, -0.001, 0.0, 0.01, 0.8 * thresholds[0], thresholds[0] + 1e-9):
        verdict = judge([1.0 - gain], [1.0, 1.0], KNOWN)
        decisions.append((verdict.decision, verdict.kind))
    assert decisions == [
        ("discard", "worse"),
        ("discard", "within noise"),
        ("discard", "within noise"),
        ("discard", "within noise"),
        ("confirm", "promising"),
        ("keep", "gain"),
    ]


def test_the_last_look_confirms_nothing():
    for looks in (1, 2, 3, 4):
        gain = 0.9 * judge([1.0] * looks, [1.0, 1.0], KNOWN, max_looks=looks).threshold
        verdict = judge([1.0 - gain] * looks, [1.0, 1.0], KNOWN, max_looks=looks)
        assert verdict.decision == "discard"


def test_without_a_noise_estimate_nothing_is_kept():
    noise = estimate_noise([[1.0]], None)
    assert judge([0.5], [1.0], noise).decision == "confirm"
    assert judge([1.5], [1.0], noise).decision == "discard"
    verdict = judge([0.5], [1.0], noise, max_looks=1)
    assert (verdict.decision, verdict.threshold) == ("discard", None)


@pytest.mark.parametrize("bad", [[], [math.nan], [1.0, math.inf]])
def test_bad_scores_are_errors(bad):
    with pytest.raises(ValueError):
        judge(bad, [1.0], KNOWN)
    with pytest.raises(ValueError):
        judge([1.0], bad, KNOWN)
    if bad:
        with pytest.raises(ValueError):
            estimate_noise([bad], None)
    with pytest.raises(ValueError):
        estimate_noise([[1.0, 2.0]], Prior(0.0, 4))


def simpler(loss: float, runs: int, fewer: int, best_ever: float | None = None):
    return judge(
        [1.0 + loss] * runs,
        [1.0, 1.0],
        KNOWN,
        candidate_lines=300 - fewer,
        incumbent_lines=300,
        best_ever=best_ever,
    )


def test_simplification():
    margin = MARGIN * KNOWN.sigma
    assert simpler(0.9 * margin, 1, MIN_FEWER_LINES).kind == "maybe simpler"  # one run is not enough
    verdict = simpler(0.9 * margin, 2, MIN_FEWER_LINES)
    assert (verdict.decision, verdict.kind) == ("keep", "simplification")
    assert simpler(0.9 * margin, 2, MIN_FEWER_LINES - 1).decision == "discard"
    assert simpler(1.1 * margin, 2, MIN_FEWER_LINES).decision == "discard"


def test_small_losses_cannot_add_up():
    level, kept = 1.0, 0
    for _ in range(20):  # each a little worse than the incumbent of its time, which was itself kept as simpler
        candidate = level + 0.3 * MARGIN * KNOWN.sigma
        verdict = judge([candidate] * 2, [level] * 2, KNOWN, candidate_lines=200, incumbent_lines=300, best_ever=1.0)
        if verdict.decision == "keep":
            level, kept = candidate, kept + 1
    assert 0 < kept < 5 and level - 1.0 <= MARGIN * KNOWN.sigma


def test_levels_of_the_looks():
    for looks in (1, 2, 3, 5):
        levels = [look_alpha(look, looks) for look in range(1, looks + 1)]
        assert all(level <= FALSE_KEEP for level in levels)
        assert look_alpha(looks + 3, looks) == levels[-1]
    assert look_alpha(1, 1) == FALSE_KEEP and set(LOOK_LEVELS) == {1, 2, 3}


@pytest.mark.parametrize(("seeds", "prior", "looks"), [(3, None, 3), (2, Prior(1.0, 4), 3), (5, None, 2), (3, None, 1)])
def test_null_candidates_are_kept_at_most_one_time_in_twenty(seeds, prior, looks):
    rng = random.Random(seeds * 10 + looks)
    kept, candidates = 0, 3000
    for _ in range(candidates):
        baseline, candidate = [rng.gauss(0, 1) for _ in range(seeds)], []
        while True:
            candidate.append(rng.gauss(0, 1))
            verdict = judge(candidate, baseline, estimate_noise(noise_groups(baseline, [], candidate), prior), looks)
            if verdict.decision != "confirm":
                break
        kept += verdict.decision == "keep"
    error = math.sqrt(FALSE_KEEP * (1 - FALSE_KEEP) / candidates)
    assert 0.01 < kept / candidates < FALSE_KEEP + 2.5 * error


def test_selected_first_runs_are_left_out_of_the_noise():
    assert noise_groups([1, 2], [[3], [4, 5, 6]], [7, 8]) == [[1, 2], [], [5, 6], [7, 8]]


def test_code_lines():
    plain = "import math\nx = 1\nfor i in range(3):\n    x += i\nprint(x)\n"
    assert count_code_lines(plain) == len(plain.splitlines())
    commented = '"""Doc."""\n\n# comment\n' + plain.replace("x = 1", "x = (\n    1\n)  # why")
    assert count_code_lines(commented) == 5
    assert count_code_lines(plain.replace("\nprint", "; print")) == 5  # joined lines are no simplification
    assert count_code_lines('def f():\n    """Doc."""\n    return 1\n') == 2


def test_the_simulation_runs_and_its_committed_page_is_of_the_same_rule():
    """A few nights only; the committed page has hundreds. Its columns and landscapes are those of the script."""
    import simulate_keep

    page = simulate_keep.report(candidates=20, nights=2)
    committed = (simulate_keep.ROOT / "results/benchmarks/keep_rule.md").read_text(encoding="utf-8")
    labels = [
        [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ")] for text in (page, committed)
    ]
    assert [row[0] for row in labels[0]] == [row[0] for row in labels[1]]

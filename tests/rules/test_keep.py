"""The keep rule, against tables of quantiles and against simulation."""

import math
import random
import statistics

import pytest
from synthetic import keep_nights
from synthetic.gains import NOTHING

from harness.ground.student_t import f_tail, t_cdf, t_quantile
from harness.rules.keep import (
    CLAIM_LEVEL,
    FALSE_KEEP,
    LOOK_LEVELS,
    MIN_FEWER_LINES,
    SIMPLER_RUNS,
    Shorter,
    Verdict,
    claim,
    count_code_lines,
    judge,
    look_alpha,
)
from harness.run.noise import (
    DRIFT_SIGMAS,
    FEW_DF,
    PRIOR_SHARE,
    SIGMA_FLOOR,
    Noise,
    Prior,
    estimate_noise,
    noise_groups,
    which_count,
)

# From printed tables of Student's t: {(p, df): quantile}.
T_TABLE = {
    (0.80, 4): 0.940965,
    (0.85, 5): 1.155767,
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
    # F(1, n) is t squared.
    assert f_tail(1.7, 1, 9) == pytest.approx(2 * (1 - t_cdf(math.sqrt(1.7), 9)))


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


def test_a_prior_that_enough_seeds_contradict_is_dropped():
    group = [1 + 0.1 * x for x in (-1.5, -0.5, 0.5, 1.5)]  # three degrees of freedom
    noise = estimate_noise([group], Prior(0.01, 4))
    assert noise.df == 3 and noise.sigma == pytest.approx(statistics.stdev(group))
    assert noise.contradicted and "dropped" in noise.words


def test_a_prior_stays_while_few_seeds_contradict_it():
    group = [1.0, 1.1, 1.2]  # sigma 0.1, ten times the prior, with two degrees of freedom
    noise = estimate_noise([group], Prior(0.01, 4))
    assert noise.df == 6 and noise.sigma == pytest.approx(math.sqrt((2 * 0.1**2 + 4 * 0.01**2) / 6))
    assert noise.contradicted and "dropped" not in noise.words


@pytest.mark.parametrize("runs", [2, 3, 4, FEW_DF])
def test_few_runs_that_agree_do_not_make_sigma_small(runs):
    group = [1 + 1e-5 * (i % 2) for i in range(runs)]
    assert estimate_noise([group], Prior(0.02, 4)).sigma >= PRIOR_SHARE * 0.02
    assert estimate_noise([group], None).sigma == SIGMA_FLOOR
    assert "floor" in estimate_noise([group], None).words


def test_many_runs_that_agree_do():
    group = [1 + 0.001 * (i % 2) for i in range(FEW_DF + 1)]
    noise = estimate_noise([group], Prior(0.02, 4))
    assert noise.sigma == pytest.approx(statistics.stdev(group)) and noise.df == FEW_DF


def test_equal_scores_give_no_division_by_zero():
    noise = estimate_noise([[1.0, 1.0, 1.0]], None)
    assert noise.sigma == SIGMA_FLOOR
    assert judge([1.0], [1.0, 1.0], noise).decision == "discard"
    assert judge([0.99], [1.0, 1.0], noise).decision == "keep"


def test_the_threshold_is_students():
    noise = Noise(0.01, 5, "")
    verdict = judge([0.9], [1.0, 1.02], noise, max_looks=1)
    assert verdict.threshold == pytest.approx(1.155767 * 0.01 * math.sqrt(1.5), abs=1e-7)
    assert verdict.gain == pytest.approx(0.11)
    assert (verdict.decision, verdict.kind) == ("keep", "gain")
    words = "gain of 0.1100 bpb is 9.0 sigma of the difference (threshold 0.0142): keep"
    assert verdict.words == words


def test_decisions_along_the_gain():
    threshold = judge([1.0], [1.0, 1.0], KNOWN).threshold
    decisions = []
    for gain in (-0.1, -0.001, 0.0, 0.005, 0.85 * threshold, threshold + 1e-9):
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


def test_a_keep_needs_an_incumbent_from_now():
    stale = judge([0.9], [1.0, 1.0], KNOWN, fresh=False)
    assert (stale.decision, stale.kind) == ("refresh", "refresh")
    threshold = stale.threshold
    for gain in (-0.1, 0.0, 0.85 * threshold):  # where nothing would be kept nothing is refreshed
        asked = [judge([1 - gain], [1.0, 1.0], KNOWN, fresh=fresh) for fresh in (True, False)]
        assert asked[0] == asked[1]


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


@pytest.mark.parametrize("gain", [-5.0, -0.01, 0.01, 0.04, 5.0])
def test_no_sigmas_are_counted_where_sigma_is_hardly_known(gain):
    seeds = [1.0, 1.03]
    words = judge([1.015 - gain], seeds, estimate_noise([seeds], None)).words
    assert "sigma of the difference" not in words and "within the noise" not in words
    assert "sigma itself rests on 2 trainings: up to 0.11 could be chance" in words
    known = judge([1.015 - gain], seeds, estimate_noise([seeds], Prior(0.02, 4))).words
    assert "sigma of the difference" in known
    two = judge([1.0 - gain], [1.0, 1.0], Noise(0.02, 2, "")).words
    assert "few trainings (2 degrees of freedom)" in two


@pytest.mark.parametrize("bad", [[], [math.nan], [1.0, math.inf]])
def test_bad_scores_are_errors(bad):
    with pytest.raises(ValueError):
        judge(bad, [1.0], KNOWN)
    with pytest.raises(ValueError):
        judge([1.0], bad, KNOWN)
    with pytest.raises(ValueError):
        claim(bad, [1.0, 1.0])
    if bad:
        with pytest.raises(ValueError):
            estimate_noise([bad], None)
        with pytest.raises(ValueError):
            which_count(bad, [None] * len(bad), 0.01)


def simpler(loss: float, runs: int = SIMPLER_RUNS, fewer: int = MIN_FEWER_LINES, **rest) -> Verdict:
    shorter = Shorter(fewer, rest.pop("smallest_gain", 1.0), rest.pop("lost", 0.0))
    return judge([1.0 + loss] * runs, [1.0] * 3, KNOWN, shorter=shorter, **rest)


# Upper bound, one-sided 80%, of a loss over three runs against three: 0.841621 is the normal's.
BOUND = 0.841621 * 0.01 * math.sqrt(2 / 3)


def test_a_simplification_is_kept_after_three_runs_if_its_loss_is_bounded():
    verdict = simpler(0.003)
    assert (verdict.decision, verdict.kind) == ("keep", "simplification")
    assert verdict.loss_bound == pytest.approx(0.003 + BOUND, abs=1e-7)
    room = 0.01 - BOUND  # one sigma, what all may lose
    assert simpler(room - 1e-6).decision == "keep" and simpler(room + 1e-6).decision == "discard"
    assert [simpler(0.003, runs).kind for runs in (1, 2)] == ["maybe simpler"] * 2
    assert simpler(room + 1e-6, 1).decision == "discard"  # no run for what cannot be kept
    assert simpler(0.003, fewer=MIN_FEWER_LINES - 1).decision == "discard"
    assert simpler(0.003, fresh=False).decision == "refresh"
    assert [simpler(0.003, runs, max_looks=2).decision for runs in (1, 2)] == ["discard"] * 2
    assert simpler(-1.0).kind == "gain" and simpler(-1.0).loss_bound is None
    assert judge([1.0] * 3, [1.0] * 3, KNOWN, shorter=Shorter(0, 1.0)).decision == "discard"


def test_simplifications_lose_no_more_than_a_quarter_of_the_smallest_gain():
    gain = 4 * (0.001 + BOUND)
    assert simpler(0.001, smallest_gain=1.01 * gain).decision == "keep"
    assert simpler(0.001, smallest_gain=0.99 * gain).decision == "discard"
    verdict = simpler(0.0, smallest_gain=None)
    assert verdict.decision == "discard" and "only once a gain was kept" in verdict.words


def test_simplifications_of_a_night_share_one_sum():
    spent = []
    while (verdict := simpler(-0.004, lost=sum(spent))).decision == "keep":
        spent.append(verdict.loss_bound)
    assert spent == [pytest.approx(BOUND - 0.004, abs=1e-7)] * 3  # 0.0087 of 0.0100 bpb
    assert verdict.decision == "discard" and "when 0.0014 may still be lost" in verdict.words


def test_levels_of_the_looks():
    for looks in (1, 2, 3, 5):
        levels = [look_alpha(look, looks) for look in range(1, looks + 1)]
        assert all(level <= FALSE_KEEP for level in levels)
        assert look_alpha(looks + 3, looks) == levels[-1]
    assert look_alpha(1, 1) == FALSE_KEEP and set(LOOK_LEVELS) == {1, 2, 3}
    assert sum(look_alpha(look, 5) for look in range(1, 6)) == pytest.approx(FALSE_KEEP)


def kept_share(seeds: int, prior: Prior | None, looks: int, gain: float, candidates: int) -> float:
    """The share of candidates of a true gain that is kept against the baseline's own seeds."""
    rng = random.Random(seeds * 10 + looks)
    kept = 0
    for _ in range(candidates):
        baseline, candidate = [rng.gauss(0, 1) for _ in range(seeds)], []
        while True:
            candidate.append(rng.gauss(-gain, 1))
            noise = estimate_noise(noise_groups(baseline, [], candidate), prior)
            verdict = judge(candidate, baseline, noise, looks)
            if verdict.decision != "confirm":
                break
        kept += verdict.decision == "keep"
    return kept / candidates


@pytest.mark.parametrize(
    ("seeds", "prior", "looks"), [(4, None, 3), (2, Prior(1.0, 4), 3), (5, None, 2), (3, None, 1)]
)
def test_candidates_that_are_no_better_are_kept_as_seldom_as_promised(seeds, prior, looks):
    candidates = 3000
    error = math.sqrt(FALSE_KEEP * (1 - FALSE_KEEP) / candidates)
    share = kept_share(seeds, prior, looks, 0.0, candidates)
    # One look is one t test, which is exact; several looks share their runs and keep fewer.
    assert (FALSE_KEEP - 3 * error if looks == 1 else 0.07) < share < FALSE_KEEP + 2.5 * error
    assert kept_share(seeds, prior, looks, 3.0, 500) > 0.8


def test_selected_first_runs_are_left_out_of_the_noise():
    assert noise_groups([1, 2], [[3], [4, 5, 6]], [7, 8]) == [[1, 2], [], [5, 6], [7, 8]]


UNKNOWN = [None] * 9


def test_a_run_that_contradicts_older_ones_drops_them():
    edge = DRIFT_SIGMAS * 0.1 * math.sqrt(1 + 1 / 2)  # from the mean of two runs
    assert which_count([1.0, 1.0, 1.0 + edge - 1e-6], UNKNOWN[:3], 0.1) == [0, 1, 2]
    assert which_count([1.0, 1.0, 1.0 + edge + 1e-6], UNKNOWN[:3], 0.1) == [2]
    assert which_count([1.0, 1.0, 0.0, 0.1, 1.0], UNKNOWN[:5], 0.1) == [4]
    assert which_count([1.0, 1.0, 0.0, 0.1], UNKNOWN[:4], 0.1) == [2, 3]
    assert which_count([1.0, 9.0], UNKNOWN[:2], math.nan) == [0, 1]
    assert which_count([], [], 0.1) == []


def test_a_disturbed_run_does_not_count():
    assert which_count([1.0, 1.0, 5.0, 1.0], [100, 102, 80, 101], 0.1) == [0, 1, 3]
    assert which_count([1.0, 1.0, 5.0], [100, 109.9, None], math.nan) == [0, 1, 2]
    assert which_count([1.0, 1.0], [100, 89.9], math.nan) == [0]
    assert which_count([1.0, 1.0], [None, 50], math.nan) == [0, 1]  # nothing to compare with


def test_two_runs_of_one_new_speed_are_the_machine_as_it_is_now():
    scores = [1.0, 1.0, 1.4, 1.5]
    assert which_count(scores, [100, 100, 80, 81], 0.01) == [2, 3]
    assert which_count(scores, [100, 100, 80, 70], 0.01) == [0, 1]  # these two do not agree
    assert which_count([*scores, 1.0], [100, 100, 80, 81, 100], 1.0) == [2, 3]  # old speed, once
    assert which_count([1.0, 1.4, 1.0, 1.4], [100, 80, 100, 80], 1.0) == [0, 2]  # not in a row
    assert which_count([1.0, 1.4, 1.4], [100, 80, None], 1.0) == [0, 2]


def test_some_run_always_counts_and_without_speeds_the_newest_does():
    rng = random.Random(3)
    for _ in range(300):
        runs = rng.randrange(1, 9)
        scores = [rng.gauss(0, 1) + 5 * rng.randrange(3) for _ in range(runs)]
        speeds = [rng.choice([None, 1.0, 1.03, 1.2, 0.7]) for _ in range(runs)]
        counted = which_count(scores, speeds, rng.choice([0.1, 1.0, math.nan]))
        assert counted and counted == sorted(set(counted)) and set(counted) <= set(range(runs))
        assert which_count(scores, [None] * runs, 0.3)[-1] == runs - 1


def test_a_claim_is_students_interval():
    """Means 1.02 and 1.1, variances 0.0001 and 0.0004, pooled 0.00025; t at 0.975 and 4."""
    found = claim([1.01, 1.02, 1.03], [1.08, 1.10, 1.12])
    half = 2.776445 * math.sqrt(0.00025 * (1 / 3 + 1 / 3))
    assert (found.n_best, found.n_baseline) == (3, 3)
    assert found.difference == pytest.approx(0.08)
    assert (found.low, found.high) == (pytest.approx(0.08 - half), pytest.approx(0.08 + half))
    assert claim([1.0, 1.2], [1.1, 1.25]).low < 0 < claim([1.0, 1.2], [1.1, 1.25]).high
    assert claim([1.0, 1.01], [0.5, 0.51]).high < 0
    for few in ([1.0], []):
        with pytest.raises(ValueError):
            claim(few, [1.0, 1.1])
        with pytest.raises(ValueError):
            claim([1.0, 1.1], few)


@pytest.mark.parametrize(("best", "baseline"), [(3, 3), (3, 5), (2, 2)])
def test_a_claims_interval_holds_the_truth_as_often_as_it_says(best, baseline):
    rng = random.Random(best + baseline)
    covered, claims = 0, 4000
    for _ in range(claims):
        found = claim(
            [rng.gauss(1.0, 0.3) for _ in range(best)],
            [rng.gauss(1.7, 0.3) for _ in range(baseline)],
        )
        covered += found.low <= 0.7 <= found.high
    error = math.sqrt(CLAIM_LEVEL * (1 - CLAIM_LEVEL) / claims)
    assert abs(covered / claims - CLAIM_LEVEL) < 3 * error


def test_code_lines():
    plain = "import math\nx = 1\nfor i in range(3):\n    x += i\nprint(x)\n"
    assert count_code_lines(plain) == len(plain.splitlines())
    commented = '"""Doc."""\n\n# comment\n' + plain.replace("x = 1", "x = (\n    1\n)  # why")
    assert count_code_lines(commented) == 5
    # Joined lines are no simplification.
    assert count_code_lines(plain.replace("\nprint", "; print")) == 5
    assert count_code_lines('def f():\n    """Doc."""\n    return 1\n') == 2


def test_the_simulation_runs_and_its_committed_page_is_of_the_same_rule():
    """One night a cell; the committed page has a hundred. Headings and first columns agree."""
    import simulate_keep

    page = simulate_keep.report(nights=1, tune_nights=1, candidates=2, claims=2)
    path = simulate_keep.ROOT / "results/benchmarks/keep_rule.md"
    committed = path.read_text(encoding="utf-8")

    def outline(text: str) -> list[str]:
        lines = [line for line in text.splitlines() if line.startswith(("#", "| "))]
        return [line.split("|")[1] if line.startswith("| ") else line for line in lines]

    assert outline(page) == outline(committed)
    assert f"The rule promises {FALSE_KEEP:.0%}" in committed


def test_a_neighbour_that_leaves_fools_only_a_stale_incumbent():
    """Nothing to gain; the baseline's seeds were ten sigma worse than all later runs."""

    def false_keeps(policy: keep_nights.Policy) -> float:
        found = keep_nights.run_nights(9, policy, "neighbour leaves", NOTHING, 25)
        return found.false_keeps

    assert false_keeps(keep_nights.CPU) < 1.5 < false_keeps(keep_nights.CARD)

import json

import numpy as np
import pytest
from scipy import special

from keras_dmp.audit.blind.baseline import BlindBaseline
from keras_dmp.audit.gate import Limits, judge
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.one_run import epsilon_one_run
from keras_dmp.audit.statistics.persons import person_scores
from keras_dmp.audit.statistics.results import AttackResult


def shifted(auc, size=2000, seed=0, nonmembers=None):
    """Normal scores whose true AUC is `auc`."""
    rng = np.random.default_rng(seed)
    shift = np.sqrt(2) * special.ndtri(auc)
    return MembershipScores(
        rng.normal(shift, size=size), rng.normal(size=size if nonmembers is None else nonmembers)
    )


def negated(scores):
    return MembershipScores(-scores.member_scores, -scores.nonmember_scores)


@pytest.mark.parametrize(
    ("auc", "status", "exit_code"), [(0.53, "pass", 0), (0.75, "fail", 1), (0.6, "investigate", 3)]
)
def test_status_follows_the_interval(auc, status, exit_code):
    verdict = judge({"loss": shifted(auc)}, Limits(max_auc=0.6))
    assert (verdict.status, verdict.exit_code) == (status, exit_code)
    (check,) = verdict.checks
    interval = shifted(auc).auc_interval()
    assert (check.value, check.low, check.high) == pytest.approx(
        (interval.value, interval.low, interval.high)
    )
    assert verdict.sentence.startswith(status.upper() + ": ")
    for figure in (check.value, check.low, check.high):
        assert f"{figure:.4f}" in verdict.sentence
    assert "AUC of loss" in verdict.sentence
    assert "limit 0.6" in verdict.sentence
    assert "\n" not in verdict.sentence


def test_an_interval_that_touches_the_limit_passes():
    scores = shifted(0.55)
    high = scores.auc_interval().high
    assert judge({"a": scores}, Limits(max_auc=high)).status == "pass"
    assert judge({"a": scores}, Limits(max_auc=np.nextafter(high, 0))).status == "investigate"
    low = scores.auc_interval().low
    assert judge({"a": scores}, Limits(max_auc=low)).status == "investigate"
    assert judge({"a": scores}, Limits(max_auc=np.nextafter(low, 0))).status == "fail"


def test_limits_apply_to_the_worst_attack():
    attacks = {"weak": shifted(0.5), "unclear": shifted(0.61), "strong": shifted(0.8)}
    limits = Limits(max_auc=0.6)
    verdict = judge(attacks, limits)
    assert [check.attack for check in verdict.checks] == ["strong", "unclear", "weak"]
    assert [check.status for check in verdict.checks] == ["fail", "investigate", "pass"]
    assert verdict.status == "fail"
    assert "1 of 3 checks" in verdict.sentence
    del attacks["strong"]
    assert judge(attacks, limits).status == "investigate"
    del attacks["unclear"]
    assert judge(attacks, limits).status == "pass"


def test_of_equally_serious_checks_the_farthest_above_its_limit_decides():
    attacks = {"some": shifted(0.7), "most": shifted(0.9), "more": shifted(0.8)}
    verdict = judge(attacks, Limits(max_auc=0.6))
    assert [check.attack for check in verdict.checks] == ["most", "more", "some"]
    # Rates that cannot be told come after those that are known to be near the limit.
    unclear = {"a": shifted(0.62, nonmembers=500)}
    verdict = judge(unclear, Limits(max_tpr_at_fpr={0.001: 0.5}, max_auc=0.62))
    assert [check.figure for check in verdict.checks] == ["AUC", "TPR at 0.1% FPR"]
    assert verdict.status == "investigate"


def test_several_limits_make_the_worst_of_their_verdicts():
    scores = {"loss": shifted(0.7)}
    passes = Limits(max_auc=0.9, max_tpr_at_fpr={0.1: 0.9})
    fails = Limits(max_auc=0.9, max_tpr_at_fpr={0.1: 0.9, 0.01: 0.001})
    assert judge(scores, passes).status == "pass"
    verdict = judge(scores, fails)
    assert verdict.status == "fail"
    assert verdict.decisive.figure == "TPR at 1% FPR"
    assert [check.status for check in verdict.checks] == ["fail", "pass", "pass"]


def test_intervals_are_corrected_for_their_number():
    attacks = {f"attack {seed}": shifted(0.6, seed=seed) for seed in range(3)}
    limits = Limits(max_auc=0.7, max_tpr_at_fpr={0.1: 0.3, 0.01: 0.1})
    verdict = judge(attacks, limits, confidence=0.9)
    # Three attacks, each with one interval of the AUC and two of either TPR.
    each = 1 - 0.1 / (3 * 5)
    assert len(verdict.checks) == 9
    for check in verdict.checks:
        scores = attacks[check.attack]
        if check.figure == "AUC":
            expected = scores.auc_interval(confidence=each)
        else:
            fpr = {"TPR at 10% FPR": 0.1, "TPR at 1% FPR": 0.01}[check.figure]
            expected = scores.tpr_at_fpr_interval(fpr, confidence=each)
        assert not check.reversed
        assert (check.value, check.low, check.high) == pytest.approx(
            (expected.value, expected.low, expected.high)
        )


def test_a_reversed_attack_is_no_better():
    limits = Limits(max_auc=0.6, max_tpr_at_fpr={0.01: 0.05})
    for auc in (0.5, 0.61, 0.7):
        scores = {"a": shifted(auc), "b": shifted(auc, seed=1)}
        reverse = {name: negated(its) for name, its in scores.items()}
        forward, backward = judge(scores, limits), judge(reverse, limits)
        assert forward.status == backward.status
        for one, other in zip(forward.checks, backward.checks, strict=True):
            assert (one.value, one.low, one.high) == pytest.approx(
                (other.value, other.low, other.high)
            )
            assert one.reversed != other.reversed
    assert "AUC of a reversed" in judge({"a": shifted(0.2)}, Limits(max_auc=0.6)).sentence
    # Losses in the place of scores: a TPR limit alone finds them too.
    assert judge({"a": shifted(0.1)}, Limits(max_tpr_at_fpr={0.1: 0.2})).status == "fail"


def test_a_rate_that_is_not_resolved_never_passes():
    scores = {"loss": shifted(0.5, nonmembers=500)}
    verdict = judge(scores, Limits(max_auc=0.9, max_tpr_at_fpr={0.001: 1.0}))
    assert verdict.exit_code == 3
    assert "TPR at 0.1% FPR of loss is not resolved" in verdict.sentence
    assert "needs 1,000 nonmembers, received 500" in verdict.sentence
    assert verdict.decisive.value is None
    exact = {"loss": shifted(0.5, nonmembers=1000)}
    assert judge(exact, Limits(max_tpr_at_fpr={0.001: 1.0})).status == "pass"
    # A check that fails still decides.
    strong = {"loss": shifted(0.99, nonmembers=500)}
    verdict = judge(strong, Limits(max_auc=0.9, max_tpr_at_fpr={0.001: 1.0}))
    assert (verdict.status, verdict.checks[1].status) == ("fail", "investigate")


def test_constant_scores_pass():
    scores = {"constant": MembershipScores(np.ones(500), np.ones(400))}
    verdict = judge(scores, Limits(max_auc=0.6, max_tpr_at_fpr={0.01: 0.05}))
    assert verdict.status == "pass"
    assert {check.figure: check.value for check in verdict.checks} == {
        "AUC": 0.5,
        "TPR at 1% FPR": pytest.approx(0.01),
    }


def test_a_few_samples_never_pass():
    scores = {"loss": MembershipScores([0.0, 1.0], [0.0, 1.0])}
    assert judge(scores, Limits(max_auc=0.6)).status == "investigate"


def test_higher_limits_and_less_confidence_are_never_stricter():
    scores = {"a": shifted(0.62, size=300), "b": shifted(0.57, size=300, seed=1)}
    for confidence in (0.5, 0.95, 0.999):
        ranks = [
            {"fail": 2, "investigate": 1, "pass": 0}[
                judge(scores, Limits(max_auc=limit), confidence=confidence).status
            ]
            for limit in np.linspace(0.5, 1, 41)
        ]
        assert ranks == sorted(ranks, reverse=True)
        assert set(ranks) == {0, 1, 2}
    wide, narrow = (
        judge(scores, Limits(max_auc=0.6), confidence=confidence).decisive
        for confidence in (0.99, 0.5)
    )
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("num_attacks", [1, 8])
def test_a_true_figure_at_the_limit_is_rarely_judged(num_attacks):
    """Of 300 draws with every true AUC at the limit, 5 % may be judged, in either direction."""
    rng = np.random.default_rng(0)
    shift = np.sqrt(2) * special.ndtri(0.65)
    statuses = [
        judge(
            {
                str(attack): MembershipScores(rng.normal(shift, size=200), rng.normal(size=200))
                for attack in range(num_attacks)
            },
            Limits(max_auc=0.65),
        ).status
        for _ in range(300)
    ]
    # Binomial(300, 0.05) exceeds 24 once in 100 times; 8 uncorrected attacks give about 55.
    assert statuses.count("fail") + statuses.count("pass") <= 24


def test_the_dictionary_is_plain_and_complete():
    limits = Limits(max_auc=np.float32(0.6), max_tpr_at_fpr={1e-4: np.float32(0.1)})
    verdict = judge({"loss": shifted(0.7)}, limits)
    values = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert values == verdict.to_dict()
    assert (values["status"], values["exit_code"], values["confidence"]) == ("fail", 1, 0.95)
    assert values["sentence"] == verdict.sentence
    assert [check["status"] for check in values["checks"]] == ["fail", "investigate"]
    assert values["checks"][1]["figure"] == "TPR at 0.01% FPR"
    assert values["checks"][1]["value"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "to set a limit. Received: max_auc=None"),
        ({"max_epsilon": -1}, "`max_epsilon` to be a finite number of at least 0. Received"),
        ({"max_epsilon": float("nan")}, "`max_epsilon` to be a finite number"),
        ({"max_epsilon": 1, "delta": 1}, "`delta` to be at least 0 and below 1. Received: delta=1"),
        ({"max_epsilon": 1, "delta": -0.1}, "`delta` to be at least 0"),
        ({"max_tpr_at_fpr": {}}, "to set a limit. Received: max_auc=None"),
        ({"max_auc": 0.4}, r"`max_auc` to lie in 0\.5\.\.1. Received: max_auc=0\.4"),
        ({"max_auc": 1.1}, "`max_auc` to lie in"),
        ({"max_auc": float("nan")}, "`max_auc` to lie in"),
        ({"max_auc": True}, "`max_auc` to lie in"),
        ({"max_auc": "0.6"}, "`max_auc` to lie in"),
        ({"max_tpr_at_fpr": {0: 0.1}}, "`max_tpr_at_fpr` to have TPRs"),
        ({"max_tpr_at_fpr": {0.1: 1.5}}, "`max_tpr_at_fpr` to have TPRs"),
        ({"max_tpr_at_fpr": {0.1: None}}, "`max_tpr_at_fpr` to have TPRs"),
        ({"max_tpr_at_fpr": {float("nan"): 0.1}}, "`max_tpr_at_fpr` to have TPRs"),
    ],
)
def test_limits_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Limits(**arguments)


def test_limits_do_not_change_with_the_callers_dictionary():
    tprs = {0.1: 0.2}
    limits = Limits(max_tpr_at_fpr=tprs)
    tprs[0.01] = 5
    assert limits.max_tpr_at_fpr == {0.1: 0.2}


def test_bad_arguments():
    scores, limits = {"loss": shifted(0.5, size=5)}, Limits(max_auc=0.6)
    with pytest.raises(TypeError, match=r"dictionary of MembershipScores.*scores of type list"):
        judge([1.0], limits)
    with pytest.raises(TypeError, match="dictionary of MembershipScores"):
        judge({"loss": [1.0]}, limits)
    with pytest.raises(ValueError, match="`scores` to name at least one attack"):
        judge({}, limits)
    with pytest.raises(TypeError, match=r"`limits` to be Limits. Received: limits of type dict"):
        judge(scores, {"max_auc": 0.6})
    for confidence in (0, 1, float("nan"), True, "0.95"):
        with pytest.raises(ValueError, match="`confidence` to be a number above 0 and below 1"):
            judge(scores, limits, confidence=confidence)


def test_the_same_scores_on_both_sides_are_refused():
    members = np.random.default_rng(0).normal(size=300)
    scores = {"loss": MembershipScores(members, members[::-1])}
    with pytest.raises(ValueError, match="300 of 300 nonmembers with the scores of loss"):
        judge(scores, Limits(max_auc=0.6))


def canaries(epsilon, size=400):
    """Scores of randomized response and its coins."""
    rng = np.random.default_rng(0)
    included = rng.random(size) < 0.5
    honest = rng.random(size) < special.expit(epsilon)
    return np.where(honest, included, ~included).astype(float), included


def test_a_limit_of_epsilon_is_checked_on_canaries():
    scores = {"loss": shifted(0.5)}
    limits = Limits(max_auc=0.6, max_epsilon=2)
    planted = canaries(4.0)
    verdict = judge(scores, limits, canaries=planted)
    assert (verdict.status, verdict.exit_code, verdict.decisive.figure) == ("fail", 1, "epsilon")
    bound = epsilon_one_run(*planted, confidence=0.975)
    assert verdict.decisive.low == verdict.decisive.value == bound > 2
    assert verdict.decisive.high is None
    assert f"epsilon of canaries at least {bound:.4f}, limit 2" in verdict.sentence
    assert json.loads(json.dumps(verdict.to_dict())) == verdict.to_dict()
    assert judge(scores, limits, canaries=canaries(1.0)).status == "pass"
    assert judge(scores, Limits(max_epsilon=1), canaries=canaries(1.0)).status == "pass"
    assert judge(scores, Limits(max_epsilon=0), canaries=canaries(1.0)).status == "fail"
    assert judge(scores, Limits(max_auc=0.6), canaries=planted).status == "pass"


def test_an_epsilon_that_few_canaries_cannot_bound_is_open():
    scores, included = canaries(4.0, size=8)
    verdict = judge({"loss": shifted(0.5)}, Limits(max_epsilon=1), canaries=(scores, included))
    assert verdict.status == "investigate"
    assert "8 canaries are too few for any bound at a delta of 0" in verdict.sentence
    large = Limits(max_epsilon=1, delta=0.5)
    assert judge({"loss": shifted(0.5)}, large, canaries=canaries(4.0)).status == "investigate"


def test_delta_reaches_the_bound():
    planted = canaries(4.0)
    lows = [
        judge(
            {"a": shifted(0.5)}, Limits(max_epsilon=9, delta=delta), canaries=planted
        ).decisive.low
        for delta in (0.0, 1e-4)
    ]
    assert lows == [epsilon_one_run(*planted, delta, 0.95) for delta in (0.0, 1e-4)]
    assert lows[0] > lows[1]


def blind(low, high):
    return BlindBaseline(
        auc=(low + high) / 2, auc_interval=(low, high), num_members=9, num_nonmembers=9
    )


def test_sides_that_differ_without_the_model_are_void():
    limits = Limits(max_auc=0.6)
    for auc, without in ((0.53, "pass"), (0.75, "fail")):
        scores = {"loss": shifted(auc)}
        verdict = judge(scores, limits, blind_baseline=blind(0.53, 0.6))
        assert (verdict.status, verdict.exit_code) == ("void", 4)
        assert verdict.sentence.startswith(
            "VOID: the blind baseline has AUC 0.565 (0.530 to 0.600)"
        )
        assert verdict.to_dict()["blind_baseline"]["is_void"]
        assert verdict.decisive.status == without
        checked = judge(scores, limits, blind_baseline=blind(0.49, 0.53))
        assert checked.status == without == judge(scores, limits).status
    assert judge(scores, limits).to_dict()["blind_baseline"] is None


def test_canaries_and_baselines_of_another_type():
    scores = {"loss": shifted(0.5, size=50)}
    with pytest.raises(ValueError, match=r"`canaries` with a limit of epsilon.* max_epsilon=1"):
        judge(scores, Limits(max_epsilon=1))
    with pytest.raises(ValueError, match=r"`canaries` to be a pair.* Received: ndarray"):
        judge(scores, Limits(max_epsilon=1), canaries=np.ones(5))
    with pytest.raises(ValueError, match="`included` to be 400 booleans"):
        judge(scores, Limits(max_epsilon=1), canaries=(canaries(1.0)[0], np.ones(400)))
    with pytest.raises(
        TypeError, match=r"`blind_baseline` to be a BlindBaseline.* Received: float"
    ):
        judge(scores, Limits(max_auc=0.6), blind_baseline=0.5)


def of_persons(rng, persons, copies, *, alike=1.0, effect=0.0):
    """Scores of persons with the same number of records each, and their groups."""
    group = np.repeat(np.arange(persons), copies)
    sides = [
        shift + alike * rng.normal(size=persons)[group] + rng.normal(size=len(group))
        for shift in (effect, 0.0)
    ]
    return MembershipScores(*sides), (group, persons + group)


def test_no_leak_of_persons_with_many_records_rarely_fails():
    """Intervals that take their records for independent fail 7 of 100 such audits."""
    statuses = {"records": [], "persons": []}
    for seed in range(40):
        scores, groups = of_persons(np.random.default_rng(seed), 100, 20)
        limits = Limits(max_auc=0.505)
        statuses["records"].append(judge({"loss": scores}, limits).status)
        statuses["persons"].append(judge({"loss": scores}, limits, groups=groups).status)
    assert statuses["records"].count("fail") > 5
    assert statuses["persons"].count("fail") <= 2


def test_persons_are_judged_although_records_pass():
    scores, groups = of_persons(np.random.default_rng(0), 300, 30, alike=0.0, effect=0.12)
    limits = Limits(max_auc=0.57, max_tpr_at_fpr={0.1: 0.3})
    assert judge({"loss": scores}, limits).status == "pass"
    verdict = judge({"loss": scores}, limits, groups=groups)
    assert verdict.status == "fail"
    assert verdict.decisive.slice == "persons"
    assert "AUC of loss by person" in verdict.sentence
    by_person = person_scores(scores, groups)
    found = {(check.slice, check.figure): check for check in verdict.checks}
    assert len(found) == 4
    # One interval for the AUC and two for the TPR, on both levels.
    each = 1 - 0.05 / 6
    expected = by_person.auc_interval(confidence=each)
    check = found["persons", "AUC"]
    assert (check.value, check.low, check.high) == (expected.value, expected.low, expected.high)
    expected = by_person.tpr_at_fpr_interval(0.1, confidence=each)
    assert found["persons", "TPR at 10% FPR"].value == expected.value
    assert found["persons", "TPR at 10% FPR"].high >= expected.high
    records = found["all", "AUC"]
    assert records.value == scores.auc()
    narrow = AttackResult.from_scores("loss", scores, groups=groups).auc_interval
    assert records.low < narrow[0] < narrow[1] < records.high
    assert verdict.to_dict()["checks"][0]["slice"] == "persons"


def test_scores_of_persons_are_added_up_where_they_are_log_ratios():
    """One person has many small scores: their sum is large, their mean is not."""
    rng = np.random.default_rng(1)
    members, nonmembers = np.repeat(np.arange(200), 9), 200 + np.arange(200)
    scores = MembershipScores(0.3 + rng.normal(size=1_800), 0.3 + rng.normal(size=200))
    settings = {"groups": (members, nonmembers)}
    attacks = {"ratio": scores, "loss": scores}
    limits = Limits(max_auc=0.8)
    verdict = judge(attacks, limits, combine={"ratio": "sum"}, **settings)
    found = {c.attack: c.value for c in verdict.checks if c.slice == "persons"}
    for attack, way in (("ratio", "sum"), ("loss", "mean")):
        auc = person_scores(scores, settings["groups"], combine=way).auc()
        assert found[attack] == max(auc, 1 - auc)
    assert found["ratio"] > found["loss"] + 0.1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"groups": ([1, 2], [2, 3])}, ValueError, "1 groups with both members"),
        ({"groups": ([1], [2, 3])}, ValueError, "for each of the 2 members"),
        ({"combine": "max"}, ValueError, "`combine` to be one of 'mean', 'sum'"),
        ({"combine": {"b": "sum"}}, ValueError, "`combine` to name attacks, 'a'.*'b'"),
        ({"combine": 3}, TypeError, "`combine`.*combine=3"),
    ],
)
def test_groups_that_do_not_fit(arguments, error, message):
    arguments = {"groups": ([1, 2], [3, 4]), **arguments}
    with pytest.raises(error, match=message):
        judge({"a": MembershipScores([1, 2], [0, 3])}, Limits(max_auc=0.6), **arguments)

"""What a search says of its final figures: the risk of records and persons, and how it judges."""

import dataclasses
import shutil

import nets
import numpy as np
import pytest
from reports import make_report
from scipy import special
from searches import FEW_SAMPLES, search

from keras_dmp import Tuning, split_private
from keras_dmp.audit import AuditReport, BlindBaseline, MembershipScores
from keras_dmp.trainer.sweep import Sweep, SweepPoint
from keras_dmp.tuning.tuning import TuningPoint, risk_of

pytestmark = FEW_SAMPLES
RNG = np.random.default_rng(0)
ALIKE = RNG.normal(0, 1, 400)
SETTINGS = {"temperature": 1.0, "labels": "soft", "order": "lowest", "mean_entropy": 0.1}
VOID = BlindBaseline(auc=0.9, auc_interval=(0.85, 0.95), num_members=99, num_nonmembers=99)


def report(shift, accuracy, **facts):
    facts = {"attack": "loss", "nonmember_accuracy": accuracy, **facts}
    return make_report(RNG.normal(shift, 1, 400), ALIKE, **facts)


def tuning(final, undefended=None, **changed):
    """A result with one candidate, which qualifies."""
    chosen = report(0.0, 0.7)
    point = TuningPoint(
        **SETTINGS, size=9, report=chosen, qualifies=True, risk_interval=risk_of(chosen, "loss")[1]
    )
    values = {
        "max_risk": 0.6,
        "attack": "loss",
        "max_accuracy_loss": None,
        "budget": 1,
        "undefended": report(1.0, 0.75),
        "frontier": (point,),
        "chosen": 0,
        "report": final,
        "undefended_report": undefended or report(1.0, 0.75),
        "trainings": {"teacher": 1, "student": 1},
    }
    return Tuning(**{**values, **changed})


def widened(auc, ends, number):
    """A 95 % interval as one of several, by hand: wider on the scale of log odds."""
    growth = special.ndtri(1 - 0.025 / number) / special.ndtri(0.975)
    odds = special.logit(auc)
    return [special.expit(odds + growth * (special.logit(end) - odds)) for end in ends]


# Records and persons


def test_the_risk_is_the_larger_of_records_and_persons():
    scores = MembershipScores(RNG.normal(0.4, 1, 300), RNG.normal(0, 1, 300))
    groups = (np.arange(300) // 5, 1000 + np.arange(300) // 5)
    found = AuditReport.from_scores({"loss": scores}, groups=groups)
    both = [found["loss"], found.slice("persons")["loss"]]
    assert both[1].auc > both[0].auc
    risk, (low, high) = risk_of(found, "loss", 3)
    assert risk == both[1].auc
    ends = [widened(one.auc, one.auc_interval, 6) for one in both]
    np.testing.assert_allclose((low, high), np.max(ends, axis=0))


def test_without_an_interval_nothing_is_known():
    """A report may be older than the rule that every AUC has an interval."""
    found = report(1.0, 0.6)
    unknown = tuple(dataclasses.replace(one, auc_interval=None) for one in found.results)
    found = dataclasses.replace(found, results=unknown)
    risk, ends = risk_of(found, "loss")
    assert risk == found["loss"].auc
    assert ends == (0.0, 1.0)
    html = tuning(dataclasses.replace(found, nonmember_accuracy=0.6)).to_html()
    assert "which contains the limit" in html


# The frontier


def test_a_reversed_attack_is_no_privacy():
    """An AUC of 0.42 is a risk of 0.58: the attacker reverses the attack."""
    points = tuple(
        SweepPoint(**SETTINGS, size=size, report=report(shift, 0.7))
        for size, shift in ((1, -0.5), (2, 0.05))
    )
    reversed_one, private = points
    assert reversed_one.auc < 0.4
    assert reversed_one.risk == 1 - reversed_one.auc > private.risk
    sweep = Sweep(undefended=report(1.0, 0.7), points=points)
    assert sweep.frontier == (private,)
    assert sweep.best(max_auc=0.6) is private
    candidates = tuning(report(0.0, 0.7), frontier=tuple(map(as_candidate, points))).sweep
    assert [point.size for point in candidates.frontier] == [2]
    place = candidates.chart().series[0].points[0]
    assert f"AUC {reversed_one.risk:.3f}" in place.title


def as_candidate(point):
    of_sweep = {field.name: getattr(point, field.name) for field in dataclasses.fields(point)}
    return TuningPoint(**of_sweep, risk_interval=(0.5, 0.6), qualifies=True)


# The verdict


def test_a_final_interval_beyond_the_limit_is_highlighted():
    assert not tuning(report(0.0, 0.7)).document().leaks
    above = tuning(report(0.6, 0.7))
    assert above.document().leaks
    assert "which exceeds the limit" in above.verdict
    assert tuning(None, chosen=None, max_risk=0.5).document().leaks


def test_a_void_comparison_of_either_part_is_highlighted():
    for part in ("undefended", "undefended_report"):
        void = tuning(report(0.0, 0.7), **{part: report(1.0, 0.75, blind_baseline=VOID)})
        assert void.document().leaks
        assert void.verdict.startswith("Void")
    assert not tuning(report(0.0, 0.7)).verdict.startswith("Void")


@pytest.mark.parametrize(("accepted", "judged"), [(0.1, "is within"), (0.04, "exceeds")])
def test_the_final_loss_of_accuracy_is_judged(accepted, judged):
    found = tuning(report(0.0, 0.7), max_accuracy_loss=accepted)
    assert found.final_loss == pytest.approx(0.05)
    assert f"a loss of 0.050, which {judged} the accepted one" in found.verdict
    assert "a loss of" not in tuning(report(0.0, 0.7)).verdict


def test_the_final_interval_is_corrected_for_all_students_that_were_read(tmp_path):
    final = report(0.1, 0.7)
    once, thrice = tuning(final), tuning(final, final_reads=3)
    result = final["loss"]
    for found, number in ((once, 1), (thrice, 3)):
        low, high = widened(result.auc, result.auc_interval, number)
        ends = max(low, 1 - high), max(high, 1 - low)
        np.testing.assert_allclose(found.final_risk[1], ends)
        assert f"{ends[1]:.3f}" in found.verdict
    assert "corrected for 3 students" in thrice.verdict
    assert "students whose final figures" not in once.verdict
    thrice.save(tmp_path / "search.json")
    assert Tuning.load(tmp_path / "search.json") == thrice


# Real searches


@pytest.fixture(scope="module")
def split():
    x, y = nets.prototypes(420)
    return split_private(x, y, members=100, nonmembers=100, validation=20, seed=0)


@pytest.mark.full
def test_every_student_whose_final_figures_were_read_counts(split, tmp_path):
    folder = tmp_path / "run"
    settings = {"directory": folder, "epochs": 1}
    first = search(split, budget=1, **settings)
    assert first.final_reads == 1
    # Nothing was read of a student here, and nothing new there.
    assert search(split, budget=1, max_risk=0.5, **settings).final_reads == 1
    assert search(split, budget=1, max_risk=0.8, **settings).final_reads == 1
    shutil.copytree(folder, tmp_path / "copy")
    highs = {}
    for budget in (2, 3):
        found = search(split, budget=budget, **settings)
        highs[found.best.settings] = found.final_reads
    other = search(split, budget=1, attack="confidence", **settings)
    assert other.final_reads == len({first.best.settings, *highs}) + 1
    # Where nothing else was read, the same call has the same result.
    assert search(split, budget=1, **{**settings, "directory": tmp_path / "copy"}) == first


@pytest.fixture(scope="module")
def grouped():
    """Sides of 17 persons with 6 records each: too few for an attack that is trained."""
    x, y = nets.prototypes(700)
    groups = np.arange(700) // 6
    return split_private(x, y, members=100, nonmembers=100, groups=groups, seed=0)


def test_with_groups_persons_are_judged_and_few_of_them_are_enough(grouped):
    found = search(grouped, budget=1, epochs=1)
    assert found.report.attacks == ("loss", "threshold_entropy")
    for audited in (found.report, found.undefended_report, found.frontier[0].report):
        assert set(audited.slices) == {"all", "persons"}
    row = found.frontier[0]
    assert (row.risk, row.risk_interval) == risk_of(row.report, "loss", 1)
    assert "loss, by person" in found.to_markdown()


@pytest.mark.full
def test_a_teacher_that_is_always_right_has_no_interval(grouped):
    found = search(grouped, budget=1, epochs=1, attack="correctness", max_risk=1.0)
    assert found.undefended["correctness"] is not None
    assert found.report is not None

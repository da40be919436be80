"""Named profiles of limits."""

import pathlib

import numpy as np
import pytest

from keras_dmp.audit import Limits, MembershipScores, judge
from keras_dmp.audit.blind.baseline import BlindBaseline

AISVS = "owasp-aisvs-11.2.5"
CHANCE = BlindBaseline(auc=0.5, auc_interval=(0.49, 0.51), num_members=9, num_nonmembers=9)
DOCS = pathlib.Path(__file__).parents[2] / "docs"


def drawn(shift=0.0, size=10_000):
    rng = np.random.default_rng(0)
    return {"loss": MembershipScores(rng.normal(shift, size=size), rng.normal(size=size))}


def test_a_profile_is_limits():
    limits = Limits.profile(AISVS)
    assert limits.max_auc == 0.55
    assert limits.max_tpr_at_fpr == {0.01: 0.02, 0.001: 0.005}
    assert limits.max_epsilon is None
    assert limits.require_blind_baseline
    assert judge(drawn(), limits, blind_baseline=CHANCE).status == "pass"
    assert judge(drawn(1.0), limits, blind_baseline=CHANCE).status == "fail"
    # An average at chance, and 300 of 10,000 members without doubt.
    few = drawn()["loss"]
    members = few.member_scores.copy()
    members[:300] = 9.0
    few = {"loss": MembershipScores(members, few.nonmember_scores)}
    verdict = judge(few, limits, blind_baseline=CHANCE)
    assert verdict.status == "fail"
    assert verdict.decisive.figure.startswith("TPR at")


def test_a_profile_wants_the_comparison_checked():
    verdict = judge(drawn(), Limits.profile(AISVS))
    assert verdict.status == "investigate"
    assert "AUC of the blind baseline is not resolved (it was not checked" in verdict.sentence
    assert judge(drawn(1.0), Limits.profile(AISVS)).status == "fail"
    without = Limits.profile(AISVS, require_blind_baseline=False)
    assert judge(drawn(), without).status == "pass"
    # It takes no part of the confidence from the other checks.
    one, other = (
        judge(drawn(), Limits(max_auc=0.6, require_blind_baseline=needed)).checks[-1]
        for needed in (True, False)
    )
    assert one == other


def test_limits_replace_those_of_the_profile():
    limits = Limits.profile(
        AISVS, max_auc=0.7, max_tpr_at_fpr={0.01: 0.5, 0.1: 0.6}, max_epsilon=3.0, delta=1e-5
    )
    assert (limits.max_auc, limits.max_epsilon, limits.delta) == (0.7, 3.0, 1e-5)
    assert limits.max_tpr_at_fpr == {0.01: 0.5, 0.1: 0.6, 0.001: 0.005}
    assert Limits.profile(AISVS).max_auc == 0.55


@pytest.mark.parametrize("name", ["aisvs", "", None, 3, "OWASP-AISVS-11.2.5"])
def test_an_unknown_profile_lists_the_names(name):
    message = rf"`profile` to be the name of a profile: '{AISVS}'. Received: profile={name!r}"
    with pytest.raises(ValueError, match=message):
        Limits.profile(name)


def test_limits_of_a_profile_are_checked():
    with pytest.raises(ValueError, match=r"`max_auc` to lie in 0\.5\.\.1. Received: max_auc=0\.3"):
        Limits.profile(AISVS, max_auc=0.3)
    with pytest.raises(TypeError, match="max_auk"):
        Limits.profile(AISVS, max_auk=0.6)
    with pytest.raises(ValueError, match="`require_blind_baseline` to be True or False"):
        Limits(max_auc=0.6, require_blind_baseline=1)


def test_the_documentation_states_the_limits_of_each_profile():
    page = (DOCS / "check" / "reports_and_gate.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{AISVS}` |"))
    for limit in ("0.55", "2 % at 1 % FPR", "0.5 % at 0.1 % FPR"):
        assert limit in row

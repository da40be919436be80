"""Reports made of scores, without a model."""

from keras_dmp.audit.report.report import AuditReport
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.results import AttackResult

FACTS = {
    "num_classes": 4,
    "member_accuracy": 1.0,
    "nonmember_accuracy": 0.5,
    "member_loss": 0.1,
    "nonmember_loss": 1.25,
    "seed": 0,
}


def make_report(member_scores, nonmember_scores, slices=("all",), attack="threshold", **facts):
    """A report with one attack, whose scores are given; `facts` replace those of `FACTS`."""
    scores = MembershipScores(member_scores, nonmember_scores)
    results = tuple(AttackResult.from_scores(attack, scores, slice=name) for name in slices)
    return AuditReport(
        results=results,
        num_members=scores.num_members,
        num_nonmembers=scores.num_nonmembers,
        **{**FACTS, **facts},
    )

"""The answer of a report in one sentence, with an interval that holds for all its attacks."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from keras_dmp.audit.membership_scores import Interval, MembershipScores
from keras_dmp.audit.rates import RocCurve
from keras_dmp.audit.results import ENTIRE, AttackResult

if TYPE_CHECKING:
    from keras_dmp.audit.report import AuditReport

LOW_FPR = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the strongest attack found.

    Attributes:
        leaks: Whether an attack is better than guessing, beyond chance.
        sentence: The finding in words.
        strongest: The attack whose AUC is farthest from 0.5.
        num_attacks: Attacks on all samples, for whose number the interval is corrected.
        auc: The strongest attack's AUC with its corrected interval.
    """

    leaks: bool
    sentence: str
    strongest: AttackResult
    num_attacks: int
    auc: Interval


def judge(report: "AuditReport") -> Verdict:
    """Name the strongest attack by AUC and by its TPR at 1 % FPR, and what follows."""
    attacks = list(report.slice(ENTIRE).values())
    confidence = corrected(len(attacks))
    strongest = max(attacks, key=lambda result: abs(result.auc - 0.5))
    auc = scores_of(strongest.roc).auc(interval=True, confidence=confidence)
    low_end = _low_end(attacks, confidence)
    by_auc = not auc.low <= 0.5 <= auc.high
    return Verdict(
        leaks=by_auc or low_end is not None,
        sentence=_sentence(strongest, auc, by_auc, low_end, len(attacks)),
        strongest=strongest,
        num_attacks=len(attacks),
        auc=auc,
    )


def corrected(num_attacks: int) -> float:
    """Confidence of each interval at which all hold together with 95 % (Bonferroni)."""
    return 1 - 0.05 / num_attacks


def scores_of(curve: RocCurve) -> MembershipScores:
    """Scores that have this ROC curve: a report keeps no others.

    Rates and their intervals depend on the order of the scores alone. A thinned curve gives the
    rates of its points exactly, and the AUC to the fourth digit.
    """
    steps = -np.arange(len(curve.false_positives) - 1.0)
    return MembershipScores(
        np.repeat(steps, np.diff(curve.true_positives)),
        np.repeat(steps, np.diff(curve.false_positives)),
    )


def _low_end(attacks: list[AttackResult], confidence: float) -> AttackResult | None:
    """The attack that recognises most members at 1 % FPR, if they are more than by chance."""
    resolved = [result for result in attacks if result.tpr_at_fpr.get(LOW_FPR) is not None]
    if not resolved:
        return None
    best = max(resolved, key=lambda result: result.tpr_at_fpr[LOW_FPR])
    tpr = scores_of(best.roc).tpr_at_fpr(LOW_FPR, interval=True, confidence=confidence)
    return best if tpr.low > LOW_FPR else None


def _sentence(
    strongest: AttackResult,
    auc: Interval,
    by_auc: bool,
    low_end: AttackResult | None,
    num_attacks: int,
) -> str:
    one, correction = "the attack", ""
    if num_attacks > 1:
        one = f"the strongest of {num_attacks} attacks by AUC"
        correction = f", corrected for {num_attacks} attacks"
    finding = (
        f"{one}, {strongest.attack}, reaches {strongest.auc:.3f} (95 % interval "
        f"{auc.low:.3f} to {auc.high:.3f}{correction}; 0.5 is guessing)"
    )
    if by_auc and strongest.auc < 0.5:
        finding += ", the wrong way round, which an attacker would reverse"
    if low_end is not None:
        rate = low_end.tpr_at_fpr[LOW_FPR]
        finding += f", and {low_end.attack} recognises {100 * rate:.3g} % of the members"
        finding += " at 1 % false alarms"
    if by_auc or low_end is not None:
        return f"Membership leaks: {finding}."
    return f"No leak found, which proves no privacy: {finding}."

"""The answer of a report in one sentence, with an interval that is valid for all its attacks."""

import dataclasses
from collections.abc import Mapping, Sequence

from scipy import special

from keras_dmp.audit.report.findings import Findings
from keras_dmp.audit.statistics.results import ENTIRE, PERSONS, AttackResult, canaries_in_words

LOW_FPR = 0.01
Ends = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """The finding of the strongest attack.

    Attributes:
        sentence: The finding in words; it begins with the canaries that fare worst, if any.
        leaks: Whether an attack is better than guessing, beyond chance, on all samples, persons or
            canaries.
        is_void: Whether members and nonmembers differ without the model.
        strongest: The attack whose AUC is farthest from 0.5.
        auc_ends: Its AUC's interval, corrected for the number of attacks, or `None`.
        low_end: The attack that recognises most members at 1 % FPR, or `None`.
        tpr: Its TPR at 1 % FPR: at the same rate for each record where that is known.
        tpr_ends: The corrected interval of its TPR, or `None`.
        correction: What the intervals of records and persons are corrected for, in words; empty
            for a single interval.
        worst: The result on canaries with the largest TPR at 1 % FPR, at the same rate for each
            record where that is known, or `None` without canaries.
        worst_ends: Its TPR's interval, corrected for the number of results on canaries, or `None`.
        persons: The result on persons whose AUC is farthest from 0.5, or `None` without persons.
        persons_ends: Its AUC's interval, corrected for attacks and levels, or `None`.
    """

    sentence: str
    leaks: bool
    is_void: bool
    strongest: AttackResult
    auc_ends: Ends | None
    low_end: AttackResult | None
    tpr: float | None
    tpr_ends: Ends | None
    correction: str
    worst: AttackResult | None = None
    worst_ends: Ends | None = None
    persons: AttackResult | None = None
    persons_ends: Ends | None = None


def judge(
    report: Findings, *, attacks: Sequence[str] | None = None, num_reports: int = 1
) -> Verdict:
    """Name the strongest attack by AUC and by its TPR at 1 % FPR, and what follows.

    Args:
        report: The report.
        attacks: The attacks to consider. Defaults to all on all samples.
        num_reports: Reports that are compared, for which the intervals are corrected too.
            Defaults to 1.
    """
    results = strongest_first(report, attacks)
    persons = _strongest_on_persons(report, attacks)
    # Records and persons are attacked by the same attacks: both levels are corrected for.
    number = num_reports * len(results) * (1 if persons is None else 2)
    correction = _correction(num_reports * len(results), by_person=persons is not None)
    strongest = results[0]
    auc_ends = widened(strongest.auc, strongest.auc_interval, number, log_odds=True)
    low_end = max(
        (result for result in results if result.recognised(LOW_FPR)[0] is not None),
        key=lambda result: result.recognised(LOW_FPR)[0],
        default=None,
    )
    tpr, tpr_ends = None, None
    if low_end is not None:
        tpr, ends = low_end.recognised(LOW_FPR)
        tpr_ends = widened(tpr, ends, number, log_odds=False)
    by_auc = auc_ends is not None and not auc_ends[0] <= 0.5 <= auc_ends[1]
    by_tpr = tpr_ends is not None and tpr_ends[0] > LOW_FPR
    worst, worst_ends, by_canaries = _worst_canaries(report, attacks, num_reports)
    who = "the attack" if len(results) == 1 else f"the strongest of {len(results)} attacks"
    recognising = low_end if by_tpr else None
    sentence = _sentence(who, strongest, auc_ends, by_auc, recognising, correction)
    persons_ends, by_persons = None, False
    if persons is not None:
        persons_ends = widened(persons.auc, persons.auc_interval, number, log_odds=True)
        by_persons = persons_ends is not None and not persons_ends[0] <= 0.5 <= persons_ends[1]
        by_person = _persons_sentence(persons, persons_ends, by_persons, correction)
        sentence = f"{by_person} By record: {sentence}"
    if worst is not None:
        sentence = f"{_canary_sentence(worst, worst_ends, by_canaries)} On all others: {sentence}"
    blind = report.blind_baseline
    if blind is not None and blind.is_void:
        sentence = f"Void, as the blind baseline has {blind}. Otherwise: {sentence}"
    return Verdict(
        sentence=sentence,
        leaks=by_auc or by_tpr or by_persons or by_canaries,
        is_void=blind is not None and blind.is_void,
        worst=worst,
        worst_ends=worst_ends,
        persons=persons,
        persons_ends=persons_ends,
        strongest=strongest,
        auc_ends=auc_ends,
        low_end=low_end,
        tpr=tpr,
        tpr_ends=tpr_ends,
        correction=correction,
    )


def _correction(attacks: int, *, by_person: bool) -> str:
    """What intervals are corrected for, in words."""
    if by_person:
        which = "1 attack" if attacks == 1 else f"{attacks} attacks"
        return f"corrected for {which} on records and on persons"
    return f"corrected for {attacks} attacks" if attacks > 1 else ""


def compare(reports: Mapping[str, Findings], attacks: Sequence[str]) -> str:
    """Name the least and the most exposed model in one sentence."""
    verdicts = {
        name: judge(report, attacks=attacks, num_reports=len(reports))
        for name, report in reports.items()
    }
    blind = {name: report.blind_baseline for name, report in reports.items()}
    void = [name for name, baseline in blind.items() if baseline is not None and baseline.is_void]
    order = sorted(verdicts, key=lambda name: strength(verdicts[name].strongest))
    least, most = (verdicts[name] for name in (order[0], order[-1]))
    if len(order) == 1:
        return f"{order[0]}: {least.sentence}"
    apart = None not in (least.auc_ends, most.auc_ends) and (
        _reach(least.auc_ends)[1] < _reach(most.auc_ends)[0]
    )
    # The same for all, except where only some have persons.
    corrected = max((verdict.correction for verdict in verdicts.values()), key=len)
    finding = (
        f"AUC {_auc(least)} on {order[0]}, {_auc(most)} on {order[-1]} "
        f"by the strongest attack on each (95 % intervals, {corrected})"
    )
    invalid = ""
    if void:
        invalid = (
            f"Void for {', '.join(void)}, where members and nonmembers differ without the model. "
            "Otherwise: "
        )
    invalid += _worst_compared(verdicts)
    if apart:
        return f"{invalid}{order[0]} leaks less than {order[-1]}: {finding}."
    return f"{invalid}These samples do not show which model leaks more: {finding}."


def _worst_compared(verdicts: Mapping[str, Verdict]) -> str:
    """The canaries that fare worst on the models where they fare best and worst, if any."""
    found = {name: verdict for name, verdict in verdicts.items() if verdict.worst is not None}
    order = sorted(found, key=lambda name: found[name].worst.recognised(LOW_FPR)[0])
    if not order:
        return ""
    each = ", ".join(
        f"{_recognised(found[name].worst, found[name].worst_ends)} on {name}"
        for name in dict.fromkeys((order[0], order[-1]))
    )
    return f"The worst-off, at 1 % false alarms: {each}. On all others: "


def strongest_first(report: Findings, attacks: Sequence[str] | None = None) -> list[AttackResult]:
    """Results on all samples, of all attacks or those named, the strongest by AUC first."""
    found = report.slice(ENTIRE)
    results = [found[attack] for attack in (found if attacks is None else attacks)]
    return sorted(results, key=strength, reverse=True)


def strength(result: AttackResult) -> float:
    """Distance of the AUC from guessing; an attacker would reverse an attack below 0.5."""
    return abs(result.auc - 0.5)


def widened(value: float, ends: Ends | None, number: int, *, log_odds: bool) -> Ends | None:
    """A 95 % interval as one of `number` that hold simultaneously with 95 % (Bonferroni).

    Each arm is widened like that of a normal interval. This preserves intervals with more
    information than the curve, such as those of pooled shadow models. On the scale of log odds it
    is exact for an AUC; for a TPR, on the plain scale, it is close, and conservative at the lower
    end.
    """
    if ends is None:
        return None
    growth = float(special.ndtri(1 - 0.025 / number) / special.ndtri(0.975))
    # Rates of 0 and 1 have no log odds.
    if log_odds and 0 < ends[0] <= value <= ends[1] < 1:
        odds = special.logit(value)
        low, high = (special.expit(odds + growth * (special.logit(end) - odds)) for end in ends)
    else:
        low, high = (value + growth * (end - value) for end in ends)
    return max(0.0, float(low)), min(1.0, float(high))


def _worst_canaries(
    report: Findings, attacks: Sequence[str] | None, num_reports: int
) -> tuple[AttackResult | None, Ends | None, bool]:
    """The canaries that fare worst, the ends of their TPR, and whether any canaries leak.

    Canaries that an attack takes for members whether they are or not have an AUC of 0.5 and a high
    TPR at the threshold of other nonmembers: such a TPR counts only if no other result remains.
    """
    results = [
        result
        for result in report.results
        if result.slice.startswith("canaries")
        and result.recognised(LOW_FPR)[0] is not None
        and (attacks is None or result.attack in attacks)
    ]
    if not results:
        return None, None, False
    number = num_reports * len(results)
    leaking = [result for result in results if _auc_low(result, number) > 0.5]
    worst = max(leaking or results, key=lambda result: result.recognised(LOW_FPR)[0])
    ends = widened(*worst.recognised(LOW_FPR), number, log_odds=False)
    return worst, ends, bool(leaking)


def _strongest_on_persons(report: Findings, attacks: Sequence[str] | None) -> AttackResult | None:
    """The result on persons whose AUC is farthest from 0.5, or `None` without persons."""
    results = [
        result
        for result in report.results
        if result.slice == PERSONS and (attacks is None or result.attack in attacks)
    ]
    return max(results, key=strength, default=None)


def _persons_sentence(
    persons: AttackResult, ends: Ends | None, leaks: bool, correction: str
) -> str:
    found = "Membership of persons leaks" if leaks else "No leak of persons found"
    interval = "no interval known"
    if ends is not None:
        interval = f"95 % interval {ends[0]:.3f} to {ends[1]:.3f}, {correction}"
    return f"{found}: {persons.attack} has AUC {persons.auc:.3f} by person ({interval})."


def _auc_low(result: AttackResult, number: int) -> float:
    ends = widened(result.auc, result.auc_interval, number, log_odds=True)
    return 0.0 if ends is None else ends[0]


def _canary_sentence(worst: AttackResult, ends: Ends | None, leaks: bool) -> str:
    (rate, _), which = worst.recognised(LOW_FPR), canaries_in_words(worst.slice)
    each = "" if worst.calibrated is None else " for each record"
    found = (
        f"{worst.attack} recognises {100 * rate:.3g} % of the {which} at 1 % false alarms{each} "
        f"({_interval(ends)})"
    )
    if leaks:
        return f"The worst-off leak: {found}."
    return f"No leak found on canaries: {found}, and no AUC on canaries is above chance."


def _recognised(worst: AttackResult, ends: Ends | None) -> str:
    (rate, _), which = worst.recognised(LOW_FPR), canaries_in_words(worst.slice)
    return f"{100 * rate:.3g} % of the {which} ({worst.attack}, {_interval(ends)})"


def _interval(ends: Ends | None) -> str:
    """The interval of a TPR of canaries in words."""
    if ends is None:
        return "no interval known"
    return f"95 % interval {100 * ends[0]:.3g} to {100 * ends[1]:.3g} %, corrected for all canaries"


def _reach(ends: Ends) -> Ends:
    """Smallest and largest distance from guessing within an interval."""
    distances = sorted(abs(end - 0.5) for end in ends)
    return (0.0 if ends[0] <= 0.5 <= ends[1] else distances[0]), distances[1]


def _auc(verdict: Verdict) -> str:
    result, ends = verdict.strongest, verdict.auc_ends
    interval = "" if ends is None else f", {ends[0]:.3f} to {ends[1]:.3f}"
    return f"{result.auc:.3f} ({result.attack}{interval})"


def _sentence(
    who: str,
    strongest: AttackResult,
    ends: Ends | None,
    by_auc: bool,
    low_end: AttackResult | None,
    correction: str,
) -> str:
    interval = "no interval known"
    if ends is not None:
        corrected = f", {correction}" if correction else ""
        interval = f"95 % interval {ends[0]:.3f} to {ends[1]:.3f}{corrected}"
    finding = f"{who}, {strongest.attack}, has AUC {strongest.auc:.3f} ({interval}; guessing: 0.5)"
    if by_auc and strongest.auc < 0.5:
        finding += ", the wrong way round, which an attacker would reverse"
    if low_end is not None:
        rate, _ = low_end.recognised(LOW_FPR)
        share = f"{100 * rate:.3g} % of the members"
        which = "it" if low_end is strongest else low_end.attack
        if low_end.calibrated is None:
            finding += f", and {which} recognises {share} at 1 % false alarms"
        else:
            finding += f", and {share} are recognised at 1 % false alarms for each record"
    if by_auc or low_end is not None:
        return f"Membership leaks: {finding}."
    return f"No leak found, which proves no privacy: {finding}."

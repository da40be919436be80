"""What the reader of a report has to know beside its figures."""

from collections.abc import Sequence

from keras_dmp.audit.results import ENTIRE, FPRS, AttackResult, unresolved


def notes_on(results: Sequence[AttackResult]) -> tuple[str, ...]:
    """Rates that the samples cannot resolve, and attacks that look the wrong way."""
    notes = []
    for fpr in FPRS:
        where = {result.slice for result in results if result.tpr_at_fpr.get(fpr) is None}
        if where:
            places = "" if ENTIRE in where else f" in {len(where)} of the slices"
            notes.append(f"TPR at {100 * fpr:g}% FPR is not resolved{places}: it {unresolved(fpr)}")
    reversed_attacks = [
        result.attack
        for result in results
        if result.slice == ENTIRE and result.auc_interval and result.auc_interval[1] < 0.5
    ]
    if reversed_attacks:
        notes.append(
            f"AUC below 0.5 beyond chance for {', '.join(reversed_attacks)}: nonmembers look more "
            "like members; an attacker would reverse it"
        )
    return tuple(notes)

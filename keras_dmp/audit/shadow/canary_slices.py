"""Canaries in the report of a shadow audit: figures by kind, at thresholds of other nonmembers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dmp.audit.shadow import checks
from keras_dmp.audit.statistics.design_effect import ClusteredSide, independent_tpr_ends
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.results import (
    ENTIRE,
    FPRS,
    PERSONS,
    AttackResult,
    canaries_in_words,
)

CANARIES = "canaries"
# Positions of canaries, or positions by kind.
Planted = np.ndarray | Mapping[str, np.ndarray]

# Two nonmembers make an ROC curve.
_FEWEST_CLEAN = 2
# Nonmembers among canaries that exceed the threshold of this FPR so many times too often get a
# note, if their share is at least half of that of the members.
_FPR, _MANY = 0.01, 3


def checked(canaries: Planted, records: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Positions of the canaries by the name of their slice, and those of all other records.

    Raises:
        ValueError: For canaries that are not positions, in several kinds, or nearly all records.
    """
    if not isinstance(canaries, Mapping):
        found = {CANARIES: _positions(canaries, records, "canaries")}
    elif canaries and all(isinstance(kind, str) and kind.strip() for kind in canaries):
        found = {
            f"{CANARIES} {kind}": _positions(rows, records, f"canaries[{kind!r}]")
            for kind, rows in canaries.items()
        }
    else:
        raise ValueError(
            "Expected `canaries` to be positions of records, or positions by kind. Received: "
            f"the kinds {list(canaries)!r}"
        )
    planted = np.concatenate(list(found.values()))
    distinct = np.unique(planted)
    if len(distinct) < len(planted):
        raise ValueError(
            "Expected `canaries` to have each record in one kind. Received: "
            f"{len(planted) - len(distinct)} records in more than one"
        )
    clean = np.setdiff1d(np.arange(records), distinct)
    if len(clean) < _FEWEST_CLEAN:
        raise ValueError(
            f"Expected `canaries` to leave at least {_FEWEST_CLEAN} records that are not canaries. "
            f"Received: {len(distinct)} canaries among {records} records"
        )
    return found, clean


def rates_among(
    scores: np.ndarray,
    is_member: np.ndarray,
    rows: np.ndarray,
    clean: np.ndarray,
    groups: np.ndarray | None = None,
) -> tuple[dict[float, float | None], dict[float, tuple[float, float] | None]]:
    """TPRs of some records as members at FPRs of clean nonmembers, with intervals.

    Args:
        scores: (targets, records), NaN where a record has no score.
        is_member: Whether a record was a member of a target, (targets, records), bool.
        rows: Positions of the records that are recognised, such as canaries.
        clean: Positions of the records that set the thresholds.
        groups: Number of each record's group, (records,). Defaults to `None`: records are
            independent, groups otherwise.

    Returns:
        The rates by FPR, and the ends of their 95 % intervals. The two sides are taken for
        independent, as no record is on both.
    """
    numbers = np.arange(scores.shape[1]) if groups is None else groups
    sides = [
        _pooled(np.where(is_member, scores, np.nan)[:, rows], numbers[rows]),
        _pooled(np.where(is_member, np.nan, scores)[:, clean], numbers[clean]),
    ]
    pooled = MembershipScores(*(values for values, _ in sides))
    rates = {fpr: pooled.tpr_at_fpr(fpr) for fpr in FPRS}
    return rates, independent_tpr_ends(*(ClusteredSide(*side) for side in sides), FPRS, 0.95)


def _pooled(scores: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of one side under all targets, and the record, or group of records, of each."""
    targets, rows = np.nonzero(np.isfinite(scores))
    return scores[targets, rows], numbers[rows]


def alarms(
    scores: np.ndarray, is_member: np.ndarray, rows: np.ndarray, clean: np.ndarray
) -> tuple[float, float] | None:
    """Shares of some records, as nonmembers and as members, above the threshold of clean ones.

    The threshold is that of an FPR of 1 % among clean nonmembers. Arguments are those of
    `rates_among`.

    Returns:
        Both shares, or `None` with too few clean nonmembers' scores.
    """
    others = _known(scores, ~is_member, clean)
    shares = [
        MembershipScores(_known(scores, side, rows), others).tpr_at_fpr(_FPR)
        for side in (~is_member, is_member)
    ]
    return None if None in shares else (shares[0], shares[1])


def notes(attack: str, slice: str, shares: tuple[float, float] | None) -> list[str]:
    """A note where an attack takes canaries for members whether they are members or not."""
    if shares is None or shares[0] <= _MANY * _FPR or shares[0] < shares[1] / 2:
        return []
    return [
        f"{attack} takes {100 * shares[0]:.3g} % of the nonmembers among the "
        f"{canaries_in_words(slice)} for members, at the threshold where it takes "
        f"{100 * _FPR:g} % of the other nonmembers: their TPR is due to what they are rather than "
        "to membership; the AUC is not affected"
    ]


def worst_first(results: Sequence[AttackResult]) -> list[AttackResult]:
    """All records, all persons, then kinds of canaries, the one any attack finds best first."""
    worst = {}
    for result in results:
        rate, _ = result.recognised(_FPR)
        # The AUC decides among equals, and where the rate is not resolved.
        found = (-1.0 if rate is None else rate, result.auc)
        worst[result.slice] = max(worst.get(result.slice, found), found)
    return sorted(
        results,
        key=lambda result: (
            result.slice != ENTIRE,
            result.slice != PERSONS,
            *(-figure for figure in worst[result.slice]),
        ),
    )


def _known(scores: np.ndarray, side: np.ndarray, rows: np.ndarray) -> np.ndarray:
    scores, side = scores[:, rows], side[:, rows]
    return scores[np.isfinite(scores) & side]


def _positions(positions: Any, records: int, name: str) -> np.ndarray:
    return np.unique(checks.as_positions(positions, records, name))

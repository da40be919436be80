"""Accuracy against risk: the frontier of a defence, and the gain of another at equal risk."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.defense_rows import POINT, SHADOW

# Name of a risk: attack and figure in the rows. The paper's risk is the attacks' accuracy.
RISKS = {
    "loss_auc": ("loss", "auc"),
    "black_box_auc": ("black_box", "auc"),
    "black_box_accuracy": ("black_box", "balanced_accuracy"),
    "white_box_auc": ("white_box", "auc"),
    "white_box_accuracy": ("white_box", "balanced_accuracy"),
}
OURS = "dmp_soft"
CONTROLS = ("none", "early_stopping")
Points = list[tuple[float, float]]
# The attack of the headline: with few shadow models, one variance for all records finds most.
STRONGEST = "lira_fixed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gain:
    """Two accuracies at one risk.

    Attributes:
        risk: The risk that both may have at most.
        ours: Accuracy of the first defence.
        theirs: Accuracy of the second.
        our_spare: Risk of the riskiest point of the first, minus `risk`.
        their_spare: The same of the second.
    """

    risk: float
    ours: float
    theirs: float
    our_spare: float
    their_spare: float

    @property
    def relative(self) -> float:
        """Relative gain of the first over the second: 0.2 is 20 % more accurate."""
        return self.ours / self.theirs - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Equal:
    """A defence beside the controls at equal risk and at equal accuracy, one value per model.

    Attributes:
        risks: Its risk.
        accuracies: Its test accuracy.
        control_accuracies: The accuracy that controls reach with at most its risk; of the control
            with the lowest risk if none has so little.
        control_risks: The lowest risk of a control with at least its accuracy; that of the most
            accurate control if none has so much.
        is_safer: Whether no control has so little risk.
        is_more_accurate: Whether no control has so much accuracy.
        is_less_accurate: Whether each control that another does not dominate has more.
    """

    risks: np.ndarray
    accuracies: np.ndarray
    control_accuracies: np.ndarray
    control_risks: np.ndarray
    is_safer: np.ndarray
    is_more_accurate: np.ndarray
    is_less_accurate: np.ndarray


def risk_of(row: dict, risk: str) -> float | None:
    """Risk of a row under an attack, None if the attack does not apply."""
    attack, figure = RISKS[risk]
    figures = row["attacks"].get(attack)
    return None if figures is None else figures[figure]


def points_of(rows: Iterable[dict], risk: str) -> Points:
    """Points (risk, accuracy) of rows."""
    return [(risk_of(row, risk), row["test_accuracy"]) for row in rows]


def frontier(points: Iterable[tuple[float, float]]) -> np.ndarray:
    """Points (risk, accuracy) that no other point dominates, by ascending risk."""
    kept: list[tuple[float, float]] = []
    for risk, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((risk, accuracy))
    return np.array(kept, dtype=float).reshape(-1, 2)


def accuracy_at(points: np.ndarray, risk: float) -> float:
    """Accuracy that a frontier reaches with at most some risk, linear between its points.

    NaN below its first point. Beyond its last one it is that point's, whose risk is lower.
    """
    if not len(points) or risk < points[0, 0]:
        return float("nan")
    return float(np.interp(risk, points[:, 0], points[:, 1]))


def risk_at(points: np.ndarray, accuracy: float) -> float:
    """Risk at which a frontier reaches an accuracy, linear between its points.

    NaN below its first point. Beyond its last one it is that point's, which is less accurate.
    """
    if not len(points) or accuracy < points[0, 1]:
        return float("nan")
    return float(np.interp(accuracy, points[:, 1], points[:, 0]))


def gain(ours: Points, risk: float, theirs: Points) -> Gain:
    """Compare the frontiers of two sets of points at a risk, or at the lowest above both reach."""
    mine, other = frontier(ours), frontier(theirs)
    risk = max(risk, mine[0, 0], other[0, 0])
    return Gain(
        risk=risk,
        ours=accuracy_at(mine, risk),
        theirs=accuracy_at(other, risk),
        our_spare=max(each for each, _ in ours) - risk,
        their_spare=max(each for each, _ in theirs) - risk,
    )


def is_known(compared: Iterable[Gain]) -> bool:
    """Whether the less accurate side has a point of so much risk, by the means over the seeds.

    If it has not, it may be as accurate with more risk, which was never tried.
    """
    compared = list(compared)
    if np.mean([each.ours - each.theirs for each in compared]) > 0:
        spare = [each.their_spare for each in compared]
    else:
        spare = [each.our_spare for each in compared]
    return bool(np.mean(spare) >= 0)


def mean_and_ends(values: Iterable[float], confidence: float = 0.95) -> tuple[float, ...]:
    """Mean, and Student's interval of it; (mean,) alone of a single value."""
    values = np.asarray(list(values), dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return (mean,)
    error = stats.sem(values) * stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    return mean, mean - float(error), mean + float(error)


def curves_by_seed(rows: Iterable[dict], risk: str) -> dict[str, dict[int, list[dict]]]:
    """Rows of points with a risk, by curve and seed."""
    found: dict[str, dict[int, list[dict]]] = {}
    for row in rows:
        if row["kind"] == POINT and risk_of(row, risk) is not None:
            found.setdefault(row["curve"], {}).setdefault(row["seed"], []).append(row)
    return found


def gains(rows: Iterable[dict], risk: str, ours: str = OURS) -> dict[str, list[Gain]]:
    """Gains of a curve over each other curve, one `Gain` per seed.

    Frontiers of all points are compared, at the risk of its headline point. Seeds count that have
    every point of both curves which any seed has: a frontier with fewer points would lose by that
    alone.

    Args:
        rows: Rows of one data set and scale.
        risk: One of `RISKS`.
        ours: The curve that is compared with all others.
    """
    by_curve = {curve: _whole(seeds) for curve, seeds in curves_by_seed(rows, risk).items()}
    mine = by_curve.pop(ours, {})
    found = {}
    for curve, theirs in by_curve.items():
        compared = []
        for seed in sorted(mine.keys() & theirs.keys()):
            at = [risk_of(row, risk) for row in mine[seed] if row["headline"]]
            if at:
                sides = (points_of(mine[seed], risk), points_of(theirs[seed], risk))
                compared.append(gain(sides[0], at[0], sides[1]))
        if compared:
            found[curve] = compared
    return found


def at_equal(rows: Iterable[dict], attack: str = STRONGEST) -> dict[str, Equal]:
    """Each audited defence beside the controls, by the key of its row.

    Models of one number have the same members in all rows of an audit, so that defences are
    compared model by model. Rows with canaries do not count: some of their labels are wrong.

    Args:
        rows: Rows of one data set and scale.
        attack: Name of the attack whose AUC is the risk.
    """
    audited = [row for row in rows if row["kind"] == SHADOW and not row["planted"]]
    figures = {
        row["key"]: np.transpose([row["targets"][f"{attack}_auc"], row["targets"]["test_accuracy"]])
        for row in audited
    }
    found = {}
    for row in audited:
        mine = figures[row["key"]]
        controls = [
            figures[other["key"]]
            for other in audited
            if other["curve"] in CONTROLS and len(figures[other["key"]]) == len(mine)
        ]
        if row["curve"] in CONTROLS or not controls:
            continue
        beside = [
            _beside(frontier(tuple(points[number]) for points in controls), *of_model)
            for number, of_model in enumerate(mine)
        ]
        columns = {name: np.array([each[name] for each in beside]) for name in beside[0]}
        found[row["key"]] = Equal(risks=mine[:, 0], accuracies=mine[:, 1], **columns)
    return found


def _beside(control: np.ndarray, risk: float, accuracy: float) -> dict[str, Any]:
    """What one model of `Equal` has beside a frontier of controls."""
    lowest, highest = control[0], control[-1]
    return {
        "control_accuracies": accuracy_at(control, max(risk, lowest[0])),
        "control_risks": risk_at(control, max(accuracy, lowest[1])),
        "is_safer": risk < lowest[0],
        "is_more_accurate": accuracy > highest[1],
        "is_less_accurate": accuracy < lowest[1],
    }


def best_rivals(rows: Iterable[dict], count: int = 2, risk: str = "black_box_auc") -> list[str]:
    """The curves that DMP gains least over, without the controls, DMP's own and consensus.

    A curve that is nowhere safer than no defence is not a rival, however accurate it is.
    """
    rows = list(rows)
    lowest = {
        curve: min(risk_of(row, risk) for points in seeds.values() for row in points)
        for curve, seeds in curves_by_seed(rows, risk).items()
    }
    means = {
        curve: np.mean([each.relative for each in compared])
        for curve, compared in gains(rows, risk).items()
        if curve not in CONTROLS and not curve.startswith(("dmp_", "consensus_"))
        if lowest[curve] < lowest.get("none", np.inf)
    }
    return sorted(means, key=means.get)[:count]


def _whole(seeds: dict[int, list[dict]]) -> dict[int, list[dict]]:
    most = max(map(len, seeds.values()))
    return {seed: rows for seed, rows in seeds.items() if len(rows) == most}

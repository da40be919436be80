"""What rows say about a claim of the paper: figures by seed, their difference, and a verdict."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from scipy import stats

from benchmarks import frontier
from benchmarks.defense_rows import POINT
from benchmarks.frontier import OURS
from benchmarks.paper_plan import Student

AGREES, DISAGREES, UNDECIDED = "agrees", "does not agree", "cannot be told"
# Attacks in rows and their figures.
LOSS = ("loss", "auc")
BLACK_BOX = ("black_box", "balanced_accuracy")
# Names of these risks at the frontier.
_AUC, _RISK = "loss_auc", "black_box_accuracy"
Values = dict[int, float]


class Evidence:
    """The rows of one data set, net and scale.

    Args:
        rows: These rows, those of `benchmarks.defenses` included.
    """

    def __init__(self, rows: Iterable[dict]):
        self.rows = list(rows)

    def of(self, item: Student | str) -> dict[int, dict]:
        """Rows of a student, the teacher or a measurement, by seed."""
        if isinstance(item, str):
            return {row["seed"]: row for row in self._paper if row["curve"] == item}
        setting = dataclasses.asdict(item)
        return {row["seed"]: row for row in self._paper if row["setting"] == setting}

    @property
    def students(self) -> list[Student]:
        """The students that have rows, in their order."""
        found = (Student(**row["setting"]) for row in self._paper if row["setting"])
        return list(dict.fromkeys(found))

    @property
    def points(self) -> list[dict]:
        """Headline rows of the benchmark of defences."""
        return [row for row in self.rows if row["kind"] == POINT and row["headline"]]

    def curve(self, curve: str) -> dict[int, list[dict]]:
        """All rows of a curve of the benchmark of defences, by seed."""
        found: dict[int, list[dict]] = {}
        for row in self.rows:
            if (row["kind"], row["curve"]) == (POINT, curve):
                found.setdefault(row["seed"], []).append(row)
        return found

    def point(self, curve: str) -> dict[int, dict]:
        """The headline rows of a curve, by seed."""
        return {row["seed"]: row for row in self.points if row["curve"] == curve}

    @property
    def _paper(self) -> list[dict]:
        return [row for row in self.rows if row["kind"] == "paper"]


def attacked(figure: tuple[str, str]) -> Callable[[dict], float]:
    """A function from a row to a figure of an attack on it."""
    attack, name = figure
    return lambda row: row["attacks"][attack][name]


def accuracy(row: dict) -> float:
    """Test accuracy of a row."""
    return row["test_accuracy"]


def difference(of: Callable[[dict], float], more: dict[int, dict], less: dict[int, dict]) -> Values:
    """Difference of a figure between two groups of rows, by seed."""
    return {seed: of(more[seed]) - of(less[seed]) for seed in more.keys() & less.keys()}


def slope(of: Callable[[dict], float], rows: dict[float, dict[int, dict]]) -> Values:
    """Change of a figure per doubling of a setting, by least squares.

    Args:
        of: The figure of a row.
        rows: Rows by seed, for each value of the setting. Values without any row are left out;
            of the others, only seeds count that have them all.
    """
    rows = {value: by_seed for value, by_seed in rows.items() if by_seed}
    if len(rows) < 2:
        return {}
    seeds = set.intersection(*(set(each) for each in rows.values()))
    doublings = np.log2(list(rows))
    return {
        seed: float(np.polyfit(doublings, [of(each[seed]) for each in rows.values()], 1)[0])
        for seed in seeds
    }


def advantage(evidence: Evidence, student: Student, controls: tuple[Student, ...]) -> Values:
    """How much less AUC a student has than the controls at its accuracy, by seed.

    Controls are linear between the points of their frontier. Seeds in which all controls are more
    accurate, or all are less, do not count: the risk at such an accuracy is not known.
    """
    found_controls = [evidence.of(control) for control in controls]
    of, found = attacked(LOSS), {}
    for seed, row in evidence.of(student).items():
        rows = [each[seed] for each in found_controls if seed in each]
        points = frontier.frontier(frontier.points_of(rows, _AUC))
        if len(points) and points[0, 1] <= accuracy(row) <= points[-1, 1]:
            found[seed] = frontier.risk_at(points, accuracy(row)) - of(row)
    return found


def gain_over(evidence: Evidence, rival: str) -> Values:
    """DMP's accuracy minus a rival's at DMP's risk, or the lowest above that both reach, by seed.

    The risk is that of the black box; both are the frontiers of their points. Nothing is compared
    where the less accurate one has no point of so much risk, on average over the seeds: with more
    risk it may be as accurate.
    """
    ours, theirs = evidence.curve(OURS), evidence.curve(rival)
    found = {}
    for seed, row in evidence.point(OURS).items():
        if seed in theirs:
            mine, other = (frontier.points_of(each, _RISK) for each in (ours[seed], theirs[seed]))
            found[seed] = frontier.gain(mine, frontier.risk_of(row, _RISK), other)
    if not found or not frontier.is_known(found.values()):
        return {}
    return {seed: each.ours - each.theirs for seed, each in found.items()}


def verdict(values: Iterable[float], rule: str, limit: float = 0.0) -> str:
    """Whether values over seeds agree with a claim, by their 95 % interval (Student's).

    Args:
        values: One for each seed. A single seed has no interval and cannot tell.
        rule: `"above"` or `"below"`: the interval is entirely on this side of the limit, and the
            claim disagrees if it is entirely on the other. `"within"`: the interval is between
            minus and plus the limit, and the claim disagrees if it is entirely outside.
        limit: The limit.
    """
    values = list(values)
    if len(values) < 2:
        return UNDECIDED
    _, low, high = frontier.mean_and_ends(values)
    if rule == "within":
        agrees, disagrees = -limit < low and high < limit, low > limit or high < -limit
    elif rule == "above":
        agrees, disagrees = low > limit, high < limit
    else:
        agrees, disagrees = high < limit, low > limit
    return AGREES if agrees else DISAGREES if disagrees else UNDECIDED


def rank(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation; 0 if one side is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)

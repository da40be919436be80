"""The space of a search: which settings are tried, in which order, and which ones next.

The space is small and discrete but for the size of the reference, on which risk and accuracy
depend most and monotonically. So most of a budget goes to a fixed list, whose first entries differ
most, and the rest to sizes between one that qualifies and one that does not.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from keras_dmp.trainer.consensus import Consensus
from keras_dmp.trainer.students import Point

# Share of the budget that refines sizes.
_REFINING = 1 / 4
# Neighbouring sizes that differ by a smaller factor are not worth a training.
_CLOSEST = 1.1
_FEWEST = 2

_SOFT, _HARD = Point(), Point(labels="hard")
# Cross-fitted students: of all members' teacher, with soft and hard labels, and of votes.
_ONE_SOFT = Point(consensus=Consensus.of_one_teacher(num_students=4))
_ONE = Point(labels="hard", consensus=Consensus.of_one_teacher(num_students=4, labels="hard"))
_PAIR, _FOUR = (
    Point(labels="hard", consensus=Consensus(num_shards=shards, num_students=4))
    for shards in (2, 4)
)
_KINDS = (
    _SOFT,
    _HARD,
    _ONE,
    _ONE_SOFT,
    _PAIR,
    _FOUR,
    Point(temperature=2.0),
    Point(temperature=0.5),
    Point(labels="hard", consensus=Consensus(num_shards=2)),
    Point(labels="hard", consensus=Consensus(num_shards=4)),
    Point(consensus=Consensus(num_shards=4, aggregation="median", num_students=4)),
    Point(labels="hard", consensus=Consensus(num_shards=8, num_students=4)),
    Point(temperature=4.0),
)
_SHARES = (0.5, 1.0, 0.25, 0.75, 0.125, 0.375)
# The control `"highest"` is worse on both counts, so it is not tried.
_ORDERS = ("lowest", "random")
# What is tried first: the paper's rule, hard labels, the whole pool, consensus, fewer samples.
_FIRST = (
    (_SOFT, "lowest", 0.5),
    (_HARD, "lowest", 0.5),
    (_SOFT, "lowest", 1.0),
    (_ONE, "lowest", 0.5),
    (_PAIR, "lowest", 1.0),
    (_SOFT, "lowest", 0.25),
    (_FOUR, "lowest", 1.0),
    (Point(temperature=2.0), "lowest", 0.5),
    (_SOFT, "random", 0.5),
    (_HARD, "lowest", 1.0),
    (_HARD, "lowest", 0.25),
    (_PAIR, "lowest", 0.5),
    (Point(temperature=0.5), "lowest", 0.5),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A candidate that has been measured.

    Attributes:
        point: Its settings.
        size: Number of reference samples used: fewer than its settings ask for if no more have
            enough votes.
        accuracy: Its accuracy.
        risk: Upper end of the interval of its risk.
        is_within: Whether the risk is within the limit.
    """

    point: Point
    size: int
    accuracy: float
    risk: float
    is_within: bool


def space(pool: int) -> list[Point]:
    """All settings of the list, in the order in which they are tried.

    Args:
        pool: Number of reference samples.

    Example:
    >>> [point.size for point in space(1_000)][:3]
    [500, 500, None]
    """
    everything = itertools.product(_SHARES, _KINDS, _ORDERS)
    listed = [*_FIRST, *((kind, order, share) for share, kind, order in everything)]
    return list(dict.fromkeys(_sized(kind, order, share, pool) for kind, order, share in listed))


def fixed_budget(budget: int) -> int:
    """How much of a budget goes to the list; the rest refines sizes."""
    return budget - int(_REFINING * budget)


def refined(found: Sequence[Measured]) -> Point | None:
    """A further size of settings that have been measured with others, or None.

    Between a size within the limit and the next larger one above it lies the most accurate student
    that is within it. Of several such gaps, the one between the most accurate students is taken.
    If no student is within the limit, the smallest size of some settings is halved: of those that
    give the most accuracy for the risk above guessing.

    Args:
        found: What has been measured.

    Example:
    >>> small = Measured(point=Point(size=100), size=100, accuracy=0.6, risk=0.55, is_within=True)
    >>> large = Measured(point=Point(size=400), size=400, accuracy=0.7, risk=0.65, is_within=False)
    >>> refined([small, large]).size
    200
    """
    tried = {one.point for one in found}
    gaps, smallest = [], []
    for line in _lines(found):
        line = sorted(line, key=lambda one: one.size)
        smallest.append(line[0])
        for inner, outer in itertools.pairwise(line):
            is_wide = outer.size >= _CLOSEST**2 * inner.size
            if inner.is_within and not outer.is_within and is_wide:
                size = round(math.sqrt(inner.size * outer.size))
                point = dataclasses.replace(inner.point, size=size)
                gaps.append((inner.accuracy + outer.accuracy, point))
    new = [(accuracy, point) for accuracy, point in gaps if point not in tried]
    if new:
        return max(new, key=lambda one: one[0])[1]
    if any(one.is_within for one in found):
        return None
    for least in sorted(smallest, key=_value, reverse=True):
        size = least.size // 2
        point = dataclasses.replace(least.point, size=size)
        if size >= _FEWEST and point not in tried:
            return point
    return None


def name(point: Point) -> str:
    """A name that distinguishes settings, for files and progress.

    Example:
    >>> name(Point(size=500, temperature=2.0))
    'lowest_500_soft_2'
    """
    chosen = f"{point.order}_{point.size or 'all'}"
    if point.consensus is None:
        return f"{chosen}_{point.labels}_{point.temperature:g}"
    consensus = point.consensus
    rule = f"{consensus.votes_needed}_of_{consensus.num_shards}_{consensus.aggregation}"
    students = f"_{consensus.num_students}_students" if consensus.num_students > 1 else ""
    return f"{chosen}_{rule}_{consensus.rounds}{students}"


def cost(point: Point, *, pool: int, members: int, has_validation: bool) -> int:
    """Samples per epoch that its trainings pass at most, which their time is proportional to.

    The teacher that most points share is not included.

    Args:
        point: The settings.
        pool: Number of reference samples.
        members: Number of members.
        has_validation: Whether validation data chooses the round of a consensus. Each round then
            has a student that may be released, besides those of all samples with enough votes.
    """
    size = _size(point, pool)
    if point.consensus is None:
        return size
    rounds, students = point.consensus.rounds, point.consensus.num_students
    # Teachers of later rounds train for a quarter of the epochs.
    teachers = round(members * (1 + (rounds - 1) / 4))
    # Each of several students passes all folds but one, and the one to be released the whole pool.
    crossed = 0 if students == 1 else (students - 1) * size + pool
    chooses = has_validation and rounds > 1
    # The last round's labels train a student that is released, or compared by validation data.
    last = int(students == 1 or chooses)
    if point.size is None:
        return teachers + pool * (rounds - 1 + last) + crossed
    # A single teacher ranks itself.
    ranks = rounds == 1 and point.order != "random" and point.consensus.num_shards > 1
    candidates = rounds if chooses else last
    return teachers + pool * (rounds - 1 + ranks) + size * candidates + crossed


def trainings(points: Sequence[Point], num_students: int) -> dict[str, int]:
    """How many models of each kind a search trains.

    Shard teachers of a first round are shared by all points with the same number of shards; each of
    them sees a part of the members only.

    Args:
        points: Settings of the candidates.
        num_students: Number of students that were trained for them, with those that rank samples or
            only pass their weights on.
    """
    agreed = [point for point in points if point.consensus is not None]
    first = {point.consensus.num_shards for point in agreed}
    later = sum(one.consensus.num_shards * (one.consensus.rounds - 1) for one in agreed)
    return {"teacher": 1, "shard teacher": sum(first) + later, "student": num_students}


def _sized(kind: Point, order: str, share: float, pool: int) -> Point:
    """Settings with a share of the pool; the whole pool is one choice, whatever the order."""
    if share == 1:
        return dataclasses.replace(kind, size=None, order="lowest")
    size = max(_FEWEST, round(share * pool))
    return dataclasses.replace(kind, size=size, order=order)


def _value(one: Measured) -> float:
    """Accuracy for the risk above guessing; the risk is above a limit, so that is not 0."""
    return one.accuracy / (one.risk - 0.5)


def _size(point: Point, pool: int) -> int:
    return pool if point.size is None else point.size


def _lines(found: Sequence[Measured]) -> Iterator[list[Measured]]:
    """Measured points that differ in their size only; the whole pool belongs to every order."""
    kinds: dict[Point, list[Measured]] = {}
    for one in found:
        orders = (one.point.order,) if one.point.size is not None else _ORDERS
        for order in orders:
            kind = dataclasses.replace(one.point, size=None, order=order)
            kinds.setdefault(kind, []).append(one)
    yield from kinds.values()

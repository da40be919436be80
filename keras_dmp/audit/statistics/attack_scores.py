"""Result of an attack on a model: scores, and the samples that they belong to."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_dmp.audit.statistics.membership_scores import MembershipScores


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AttackScores(MembershipScores):
    """Scores of an attack on a model, with what is needed to repeat and compare it.

    An attack that is trained scores the samples that it was not trained on. An
    `AttackScores` can be passed wherever a `MembershipScores` is expected.

    Args:
        member_scores: Array (members,) of real numbers; higher for likelier members.
        nonmember_scores: Array (nonmembers,) of real numbers on the same scale.
        member_indices: Positions of the scored members among all members, (members,). Defaults to
            `None`: all were scored, in order.
        nonmember_indices: Positions of the scored nonmembers. Defaults to `None`.
        seed: Seed that repeats the attack; `None` for an attack without randomness.

    Attributes:
        member_indices: Positions of the scored members in `members`, (members,), int64.
        nonmember_indices: Positions of the scored nonmembers in `nonmembers`, int64.

    Raises:
        TypeError: As for `MembershipScores`.
        ValueError: As for `MembershipScores`, and if the number of positions and scores differs.

    Example:
    >>> scores = AttackScores([2.0, 1.0], [0.0, -1.0], member_indices=[0, 3], seed=0)
    >>> scores.auc(), scores.member_indices
    (1.0, array([0, 3]))
    """

    member_indices: Sequence[int] | np.ndarray | None = dataclasses.field(
        default=None, kw_only=True
    )
    nonmember_indices: Sequence[int] | np.ndarray | None = dataclasses.field(
        default=None, kw_only=True
    )
    seed: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for side, samples in (("member", self.num_members), ("nonmember", self.num_nonmembers)):
            name = f"{side}_indices"
            object.__setattr__(self, name, _positions(getattr(self, name), samples, name))


def _positions(indices: Sequence[int] | np.ndarray | None, samples: int, name: str) -> np.ndarray:
    if indices is None:
        return np.arange(samples)
    found = np.asarray(indices)
    if found.shape != (samples,) or found.dtype.kind not in "iu" or (found < 0).any():
        raise ValueError(
            f"Expected `{name}` to be {samples} positions, one per score. Received: shape "
            f"{found.shape}, dtype {found.dtype}"
        )
    return found.astype(np.int64)

"""What happened in one round of a consensus."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsensusRound:
    """What happened in one round of a consensus. It is private: it depends on the members.

    Attributes:
        number: Number of the round, from 1.
        shard_sizes: Number of members of each teacher.
        pool_size: Number of reference samples.
        num_kept: Number of samples with enough votes.
        num_used: Number of samples that the students were trained on, after the selector.
        agreement: Mean share of the votes that the winning class has, over the whole pool.
        agreement_by_class: The same over the samples that each class wins; None for a class
            that wins none.
        class_counts: Number of samples used of each class.
        pivotal_share: Share of the samples used that one teacher, and so one member, could have
            excluded or given another label: those with just enough votes.
        relabel_share: Share of the samples used that one teacher could have given another label;
            0 if more than half of an even number of votes is needed.
        teacher_histories: Logs of each shard teacher by name, one value per epoch.
        student_histories: The same of each student: the one that learns the round's labels, if
            there is one, and, in the round that is released, the cross-fitted ones and the one
            that learns from them. Those that only rank samples, or only pass their weights on,
            are left out.
        validation_accuracy: Weighted accuracy on the validation data of the student that learns
            the round's labels; None without this data, or without such a student, which a single
            round of cross-fitted students does not need. The best round is released.
        is_released: Whether the student to be released is of this round.
    """

    number: int
    shard_sizes: tuple[int, ...]
    pool_size: int
    num_kept: int
    num_used: int
    agreement: float
    agreement_by_class: tuple[float | None, ...]
    class_counts: tuple[int, ...]
    pivotal_share: float
    relabel_share: float
    teacher_histories: tuple[dict[str, list[Any]], ...]
    student_histories: tuple[dict[str, list[Any]], ...] = ()
    validation_accuracy: float | None = None
    is_released: bool = False

    def logs(self) -> dict[str, list[Any]]:
        """All logs by name: `round_1_shard_2_loss`, `round_1_student_1_loss` and similar."""
        kinds = (("shard", self.teacher_histories), ("student", self.student_histories))
        return {
            f"round_{self.number}_{kind}_{index}_{name}": values
            for kind, histories in kinds
            for index, history in enumerate(histories, start=1)
            for name, values in history.items()
        }

    def __str__(self) -> str:
        """Return one line for people."""
        return (
            f"round {self.number}: {self.num_kept} of {self.pool_size} reference samples have "
            f"enough votes, {self.num_used} used, agreement {self.agreement:.2f}, one member could "
            f"exclude or relabel {self.pivotal_share:.1%}"
        )

"""Settings of consensus: labels on which teachers that share no members agree."""

import dataclasses
from typing import ClassVar, Self

from keras_dmp import _validate
from keras_dmp._validate import shown
from keras_dmp.trainer.votes import AGGREGATIONS

# Trimming drops the highest and the lowest; something must remain.
_FEWEST_TO_TRIM = 3
# With one teacher, every robust mean is its prediction.
_AGGREGATION_OF_ONE = {"soft": "median", "hard": "votes"}
_COUNTS = ("num_shards", "min_votes", "rounds", "num_students", "fine_tuning_epochs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consensus:
    """Teachers that share no members vote on the labels of the reference samples.

    The members are divided at random into shards, with one teacher for each. A reference sample
    is kept if enough teachers predict the same class, and the student is trained on that class. A
    member is in one shard, so it moves at most one vote per sample and round. In later rounds the
    teachers start from a student of all samples with enough votes, and only their shards are
    private: the last student or, if the selector has narrowed its samples, one more. This protects
    the members that fare worst, such as mislabelled ones, better than the labels of one teacher,
    and costs accuracy, since each teacher has a part of the members only. It comes with no formal
    guarantee: see the page on consensus in the documentation.

    Pass it to `DMPTrainer(..., consensus=Consensus(), selector=None)`, which uses all samples with
    enough votes; a selector keeps those of lowest entropy among them.

    Args:
        num_shards: Number of shards and teachers. With 1, DMP with hard labels. Defaults to 4.
        min_votes: Votes that a class needs, more than half of `num_shards`. Defaults to `None`:
            the lowest number that is more than half.
        rounds: Number of rounds, at least 1. Later rounds help on some data and hurt on others.
            With `validation_data`, the student of the round with the highest accuracy on it is
            released, and the selector and the callbacks of `fit` serve the last student of each
            round; without, that of the last round is released. With several students, the
            callbacks serve the released one only. Defaults to 2.
        aggregation: How the kept samples are labelled: `"votes"`, the class with the most votes;
            `"median"` or `"trimmed_mean"` of the teachers' probabilities, which keep their doubt:
            more accurate and less private. `"trimmed_mean"` leaves out the highest and the lowest
            probability of each class. Defaults to `"votes"`.
        num_students: Number of cross-fitted students. With more than one, the labelled samples of
            the last or most accurate round are divided at random into as many folds, and each
            student is trained without one fold. The student to be released is then trained on
            their predictions for the whole pool: for each sample that of the student that has not
            seen its label, and for samples without a label the mean. These predictions depend on
            members no more than the labels do, and leave out what a label has in common with no
            other. Defaults to 1: the student to be released is trained on the labels.
        fine_tuning_epochs: Epochs of the teachers in later rounds. Defaults to `None`: a quarter
            of those in the first round.

    Raises:
        TypeError: For settings of another type.
        ValueError: For settings out of range.

    Example:
    >>> Consensus(num_shards=4).votes_needed
    3
    """

    has_guarantee: ClassVar[bool] = False

    num_shards: int = 4
    min_votes: int | None = None
    rounds: int = 2
    aggregation: str = "votes"
    num_students: int = 1
    fine_tuning_epochs: int | None = None

    def __post_init__(self):
        counts = {"rounds": self.rounds, "num_students": self.num_students}
        _validate.integer_at_least(1, num_shards=self.num_shards, **counts)
        _validate.one_of(AGGREGATIONS, aggregation=self.aggregation)
        if self.fine_tuning_epochs is not None:
            _validate.integer_at_least(1, fine_tuning_epochs=self.fine_tuning_epochs)
        if self.min_votes is not None:
            _validate.integer_at_least(1, min_votes=self.min_votes)
            if not self.num_shards / 2 < self.min_votes <= self.num_shards:
                raise ValueError(
                    "Expected `min_votes` to be more than half of `num_shards` and at most "
                    f"{self.num_shards}, so that two classes cannot both have enough votes. "
                    f"Received: min_votes={self.min_votes}, num_shards={self.num_shards}"
                )
        if self.aggregation == "trimmed_mean" and self.num_shards < _FEWEST_TO_TRIM:
            raise ValueError(
                f"Expected `num_shards` to be at least {_FEWEST_TO_TRIM} with "
                "aggregation='trimmed_mean', which leaves out two teachers' probabilities. "
                f"Received: num_shards={self.num_shards}"
            )
        for name in _COUNTS:
            if getattr(self, name) is not None:  # NumPy's integers cannot be saved.
                object.__setattr__(self, name, int(getattr(self, name)))

    def __str__(self) -> str:
        """Return a few words for tables and pictures, which differ for different settings."""
        rule = f"{self.votes_needed} of {self.num_shards} votes"
        if self.aggregation != "votes":
            votes = "" if self.min_votes is None else f" with {self.min_votes} votes"
            rule = f"{self.aggregation.replace('_', ' ')} of {self.num_shards} shards{votes}"
        words = [rule, f"{self.rounds} round{'s' if self.rounds > 1 else ''}"]
        if self.num_shards == self.rounds == 1 and self.min_votes is None:
            words = [f"{self.labels} labels of one teacher"]
        if self.fine_tuning_epochs is not None:
            words.append(f"fine-tuned for {self.fine_tuning_epochs} epochs")
        if self.num_students > 1:
            words.append(f"{self.num_students} students")
        return ", ".join(words)

    @classmethod
    def of_one_teacher(cls, *, num_students: int, labels: str = "soft") -> Self:
        """DMP with cross-fitted students: one teacher of all members, one round, no votes.

        The same as `Consensus(num_shards=1, rounds=1, aggregation="median", num_students=...)`
        with soft labels, and without an aggregation with hard ones. The selector chooses whose
        labels are used, by the teacher's entropy as in plain DMP.

        Args:
            num_students: Number of cross-fitted students, at least 2.
            labels: `"soft"` or `"hard"` labels of the teacher. Defaults to `"soft"`.

        Raises:
            TypeError: If `num_students` is not an integer.
            ValueError: For values out of range.

        Example:
        >>> str(Consensus.of_one_teacher(num_students=4))
        'soft labels of one teacher, 4 students'
        """
        _validate.integer_at_least(2, num_students=num_students)
        _validate.one_of(_AGGREGATION_OF_ONE, labels=labels)
        aggregation = _AGGREGATION_OF_ONE[labels]
        return cls(num_shards=1, rounds=1, aggregation=aggregation, num_students=num_students)

    @property
    def votes_needed(self) -> int:
        """Votes that a class needs."""
        return self.num_shards // 2 + 1 if self.min_votes is None else self.min_votes

    @property
    def labels(self) -> str:
        """Labels of the student: "hard" with votes, "soft" otherwise."""
        return "hard" if self.aggregation == "votes" else "soft"

    def tuning_epochs(self, teacher_epochs: int) -> int:
        """Epochs of the teachers in later rounds.

        Args:
            teacher_epochs: Epochs in the first round.
        """
        return self.fine_tuning_epochs or max(1, round(teacher_epochs / 4))


def resolved_labels(labels: str | None, consensus: Consensus | None) -> str:
    """The labels of a student, "soft" or "hard", from what the user has chosen.

    Args:
        labels: "soft", "hard", or None for the default.
        consensus: The settings of a consensus, or None.

    Raises:
        TypeError: If `consensus` is anything else.
        ValueError: For soft labels of a consensus of votes.
    """
    if consensus is None:
        return "soft" if labels is None else labels
    if not isinstance(consensus, Consensus):
        raise TypeError(
            "Expected `consensus` to be a keras_dmp.Consensus or None. Received: "
            f"consensus={shown(consensus)}"
        )
    if labels == "soft" and consensus.aggregation == "votes":
        raise ValueError(
            "Expected `labels` to be None or 'hard' with a consensus of votes, which are for "
            "classes; for probabilities use Consensus(aggregation='median'). "
            f"Received: labels={shown(labels)}"
        )
    return consensus.labels if labels is None else labels

"""Folds of the reference samples, for students that label what they have not seen.

Cross-fitting: Chernozhukov et al., Double/debiased machine learning, 2018, section 3.
"""

import dataclasses
from typing import Self

import numpy as np

from keras_dmp._warnings import warn
from keras_dmp.trainer.shards import bundles_of, missing_classes, partition
from keras_dmp.trainer.votes import TooFewVotesError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Folds:
    """Disjoint folds of the labelled samples of a pool, one for each student.

    Attributes:
        of_sample: Fold of each sample of the pool that has a label or equals one that has,
            (samples,); -1 for the others.
        rows: Positions of the samples with a label, ascending int64.
        count: Number of folds.
    """

    of_sample: np.ndarray
    rows: np.ndarray
    count: int

    @classmethod
    def draw(cls, digests: np.ndarray, rows: np.ndarray, count: int, seed: int) -> Self:
        """Draw folds of nearly equal size.

        Equal samples are in one fold: a student would have seen the label of the other one.

        Args:
            digests: Hash of each sample of the pool as the model sees it, (samples,).
            rows: Positions of the samples with a label, ascending.
            count: Number of folds.
            seed: Seed of the draw.

        Raises:
            TooFewVotesError: If there are fewer different samples with a label than folds.
        """
        known, first = np.unique(digests[rows], return_index=True)
        require_enough(len(known), count)
        of_row = partition(bundles_of(digests[rows]), count, seed)
        # A selector may have left out samples that equal one with a label.
        place = np.minimum(np.searchsorted(known, digests), len(known) - 1)
        of_sample = np.where(known[place] == digests, of_row[first[place]], -1)
        return cls(of_sample=of_sample, rows=rows, count=count)

    def seen(self, fold: int) -> np.ndarray:
        """Positions of the samples that the student of a fold learns from, ascending int64."""
        return self.rows[self.of_sample[self.rows] != fold]

    def shares(self, fold: int) -> np.ndarray:
        """What the prediction of this fold's student counts for each sample, (samples,) float64.

        Everything for the samples of its fold, which it alone has not seen, and as much as that of
        any other student for samples without a fold.
        """
        return np.where(self.of_sample < 0, 1 / self.count, self.of_sample == fold)

    def warn_of_missing_classes(self, labels: np.ndarray) -> None:
        """Warn of classes of which some student sees no sample, and so finds none in its fold.

        Args:
            labels: Class of each sample of the pool, (samples,); of those without a label any.
        """
        parts = [self.seen(fold) for fold in range(self.count)]
        present = np.unique(labels[self.rows])
        lacking = missing_classes(parts, labels, present, "student")
        if lacking:
            warn(
                "Some of the cross-fitted students learn from no sample of a class, and find none "
                f"among the samples that they label: {lacking}. Use a larger reference, or one "
                "student"
            )


def require_enough(different: int, num_students: int) -> None:
    """Raise `TooFewVotesError` if some of several students would have no sample to label.

    Args:
        different: Number of different samples with a label, or of those that may get one.
        num_students: Number of students, more than one.
    """
    if different < num_students:
        raise TooFewVotesError(
            "Expected at least as many different reference samples with a label as there are "
            "students: a label needs enough votes, and the choice of the selector if there is one. "
            "Use fewer students, or a selector that chooses more samples. Received: "
            f"num_students={num_students} with {different} different samples"
        )

"""The paper's reduction, measured: does low entropy mean little change, and that little leakage?

The paper asks for reference samples whose labels change least when a member is left out, and
takes the entropy of the prediction as a stand-in. Here some teachers leave out a group of members
each, which shows the change itself, and a student of each shows what it reveals of the group.
"""

from typing import Any

import keras
import numpy as np
from scipy import special

from benchmarks import paper_plan as plan
from benchmarks.paper_evidence import rank

GROUPS = 4
# Of the members, in each group.
SHARE = 0.05
NEIGHBORS = 10
BINS = 10
_PREDICT_BATCH = 512
# Of the teacher that differs from the first by its training alone.
_OTHER_SEED = 500


class Reduction:
    """Teachers without a group of members, and their students.

    Args:
        lab: The `paper_lab.Lab` of the teacher that saw all members.
        student: Its student with the base settings.
        reference: The `paper_lab.Reference` of this student.
    """

    def __init__(self, lab: Any, student: keras.Model, reference: Any):
        self.lab, self.student, self.reference = lab, student, reference

    def figures(self) -> dict[str, Any]:
        """Correlations by Spearman, and the change along the entropy.

        Returns:
            `entropy_change`: of a sample's entropy with the change of its label when a group is
            left out, mean over the groups. `entropy_noise`: with the change when only the seed of
            the training differs. `change_leakage`: of the change near a member that is left out
            with what the student reveals of the member, mean over the groups. `windows`: mean
            change in each window, by its start. `change_by_entropy`: mean entropy and mean change
            of tenths of the pool.
        """
        lab, groups = self.lab, self._groups()
        pool = lab.split.reference
        own = log_probabilities(lab.teacher, pool)
        changes, leaks = [], []
        for group in groups:
            kept = np.setdiff1d(np.arange(len(lab.split.members[0])), group)
            other = lab.train_teacher(kept)
            changes.append(divergence(own, log_probabilities(other, pool)))
            leaks.append(self._leakage(group, other, changes[-1]))
        noisy = lab.train_teacher(seed=lab.seed + _OTHER_SEED)
        noise = divergence(own, log_probabilities(noisy, pool))
        mean = np.mean(changes, axis=0)
        parts = np.array_split(np.argsort(lab.entropy, kind="stable"), BINS)
        return {
            "entropy_change": float(np.mean([rank(lab.entropy, each) for each in changes])),
            "entropy_noise": rank(lab.entropy, noise),
            "change_leakage": float(np.mean(leaks)),
            "windows": {
                str(window.start): float(mean[lab.reference(window).rows].mean())
                for window in plan.windows(lab.task)
            },
            "change_by_entropy": [
                [float(lab.entropy[part].mean()), float(mean[part].mean())] for part in parts
            ],
            "groups": len(groups),
            "group_size": len(groups[0]),
        }

    def _groups(self) -> np.ndarray:
        """Positions of the members in each group, (groups, members)."""
        members = len(self.lab.split.members[0])
        size = max(2, round(SHARE * members))
        order = np.random.default_rng(self.lab.seed).permutation(members)
        return order[: GROUPS * size].reshape(GROUPS, size)

    def _leakage(self, group: np.ndarray, other: keras.Model, change: np.ndarray) -> float:
        """Correlation, over a group's members, of change nearby and leakage.

        What the student reveals of a member is how much higher the log-probability of its class
        is than with the student of the teacher that has never seen it.
        """
        x, y = (part[group] for part in self.lab.split.members)
        without = self.lab.distill(other, self.reference.x, plan.BASE)
        gains = [
            log_probabilities(model, x)[np.arange(len(y)), y] for model in (self.student, without)
        ]
        near = nearest(x, self.reference.x, NEIGHBORS)
        return rank(change[self.reference.rows][near].mean(axis=1), gains[0] - gains[1])


def log_probabilities(model: keras.Model, x: Any) -> np.ndarray:
    """Log-probabilities of a model that returns logits, (samples, classes), float64."""
    logits = np.asarray(model.predict(x, batch_size=_PREDICT_BATCH, verbose=0), dtype=np.float64)
    return special.log_softmax(logits, axis=1)


def entropy(log_p: np.ndarray) -> np.ndarray:
    """Entropy of each prediction in nats, of log-probabilities."""
    return -np.sum(np.exp(log_p) * log_p, axis=1)


def divergence(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of each sample's prediction from another one, in nats."""
    return np.sum(np.exp(own) * (own - other), axis=1)


def nearest(x: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """Positions of the nearest samples by Euclidean distance, (samples, count)."""
    x, among = (part.reshape(len(part), -1) for part in (x, among))
    squares = np.square(among).sum(axis=1) - 2 * x @ among.T
    count = min(count, len(among))
    return np.argpartition(squares, count - 1, axis=1)[:, :count]

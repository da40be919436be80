"""Unusual members are found less often with a consensus than with hard labels."""

import keras
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import rankdata

from keras_dmp import Consensus, DMPTrainer
from keras_dmp.audit import ShadowAudit, ShadowStatistics, StackedTrainer, plant_canaries
from keras_dmp.trainer.shards import draw_shards
from keras_dmp.trainer.votes import Votes

CLASSES, FEATURES, CANARIES = 20, 20, 200
KINDS = ("mislabelled", "outliers")
CENTRES = 0.8 * np.random.default_rng(1).normal(size=(CLASSES, FEATURES))


def data(samples, seed):
    """Samples around one centre per class, so close that a net has to memorise wrong labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=samples)
    return (CENTRES[y] + rng.normal(size=(samples, FEATURES))).astype("float32"), y


def build():
    hidden = keras.layers.Dense(256, activation="relu")
    return keras.Sequential([keras.Input((FEATURES,)), hidden, keras.layers.Dense(CLASSES)])


# Many trainings at once


class Pipelines:
    """The same pipeline on random halves of records, all models of a phase trained at once.

    One program serves all phases, since a group always has as many models.
    """

    RUNS, SHARDS, POOL = 8, 4, 2_000

    def __init__(self, x, y):
        rng = np.random.default_rng(0)
        halves = [rng.permutation(len(y)) < len(y) // 2 for _ in range(self.RUNS)]
        self.x, self.y, self.is_member = x, y, np.stack(halves)
        self.members = [np.flatnonzero(mine) for mine in halves]
        self.pool, self.test = data(self.POOL, 90)[0], data(2_000, 7)
        optimizer = keras.optimizers.Adam(0.01)
        settings = {"optimizer": optimizer, "epochs": 20, "batch_size": 64}
        self.trainer = StackedTrainer(build, group_size=self.RUNS, **settings)

    def train(self, x, y, rows, first):
        seeds = range(first, first + len(rows))
        return self.trainer.train_many(x, y, rows, list(seeds))

    def classes(self, teachers):
        """What the teachers say of the pool, (teachers, samples)."""
        return np.stack([np.asarray(model(self.pool)).argmax(axis=1) for model in teachers])

    def students(self, labels, kept, first):
        """A student of each run, all of equally many samples: they learn at once."""
        size = min(map(len, kept))
        x = np.tile(self.pool, (self.RUNS, 1))
        rows = [run * self.POOL + mine[:size] for run, mine in enumerate(kept)]
        return self.train(x, np.concatenate(labels), rows, first)

    def of_hard_labels(self):
        teachers = self.train(self.x, self.y, self.members, 100)
        everything = [np.arange(self.POOL)] * self.RUNS
        return self.students(self.classes(teachers), everything, 200)

    def of_votes(self):
        shards = [
            mine[rows]
            for run, mine in enumerate(self.members)
            for rows in draw_shards(mine.astype(np.uint64), None, self.SHARDS, run)
        ]
        teachers = self.train(self.x, self.y, shards, 300)
        classes = self.classes(teachers).reshape(self.RUNS, self.SHARDS, -1)
        needed = Consensus(num_shards=self.SHARDS).votes_needed
        votes = [Votes.count(of_run, CLASSES, needed) for of_run in classes]
        kept = [np.flatnonzero(of_run.kept) for of_run in votes]
        return self.students([of_run.winners for of_run in votes], kept, 200)

    def lira(self, students, records):
        """LiRA's scores of some records under all students."""
        logits = np.stack([np.asarray(model(self.x), np.float64) for model in students])
        true = np.arange(CLASSES) == self.y[:, None]
        others = logsumexp(np.where(true, -np.inf, logits), axis=2)
        statistics = ShadowStatistics(
            scaled_logits=(logits[:, true] - others)[..., None],
            correct=logits.argmax(axis=2) == self.y,
            is_member=self.is_member,
        )
        return statistics.scores("lira_fixed").pooled(records)

    def accuracy(self, students):
        x, y = self.test
        return np.mean([np.asarray(model(x)).argmax(axis=1) == y for model in students])


def test_votes_expose_fewer_canaries_at_no_lower_accuracy():
    """The attacker repeats the whole pipeline, shards and students included."""
    planted = plant_canaries(*data(2_000, 10), count=CANARIES, kind=KINDS, seed=0)
    pipelines = Pipelines(planted.x, planted.y)
    hard, votes = pipelines.of_hard_labels(), pipelines.of_votes()
    for positions in planted.by_kind.values():
        of_hard, of_votes = (pipelines.lira(of, positions) for of in (hard, votes))
        assert of_hard.auc() > 0.7
        assert of_votes.auc() < 0.62
        assert of_votes.tpr_at_fpr(0.01) < of_hard.tpr_at_fpr(0.01) / 2
    assert pipelines.accuracy(votes) >= pipelines.accuracy(hard)


# One training after the other


def student(x, y, seed, consensus):
    trainer = DMPTrainer(build, consensus=consensus, labels="hard", selector=None, seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(keras.optimizers.Adam(0.01), loss)
    fit = {"epochs": 12, "teacher_epochs": 30, "batch_size": 64, "verbose": 0}
    trainer.fit(x, y, reference=data(3_000, 90 + seed)[0], **fit)
    return trainer.student


def mislabelled(side, seed):
    x, y = side
    rng = np.random.default_rng(seed)
    wrong = (y[:CANARIES] + rng.integers(1, CLASSES, CANARIES)) % CLASSES
    return x, np.concatenate([wrong, y[CANARIES:]])


def log_probability(model, x, y):
    logits = np.asarray(model(x), np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logs[np.arange(len(y)), y]


def exposure_and_accuracy(**students):
    """AUC of the loss on canaries, and test accuracy, of the student of each consensus."""
    members, others = mislabelled(data(1_000, 10), 1), mislabelled(data(1_000, 50), 2)
    test = data(2_000, 7)
    found = {}
    for name, consensus in students.items():
        model = student(*members, 0, consensus)
        sides = [log_probability(model, x[:CANARIES], y[:CANARIES]) for x, y in (members, others)]
        ranks = rankdata(np.concatenate(sides))[:CANARIES]
        auc = (ranks.mean() - (CANARIES + 1) / 2) / CANARIES
        found[name] = auc, np.mean(np.asarray(model(test[0])).argmax(axis=1) == test[1])
    return found


def test_cross_fitted_students_expose_fewer_canaries_at_no_lower_accuracy():
    """Students that have not seen the labels near a record pass on less of it."""
    crossed = Consensus.of_one_teacher(num_students=4, labels="hard")
    found = exposure_and_accuracy(labels=None, crossed=crossed)
    assert found["crossed"][0] < found["labels"][0] - 0.03
    assert found["crossed"][1] >= found["labels"][1]


@pytest.mark.slow
def test_votes_expose_fewer_canaries_to_shadow_models(tmp_path):
    planted = plant_canaries(*data(2_000, 10), count=CANARIES, kind=KINDS, seed=0)

    def train(x, y, seed):
        seed %= 1_000
        found = {"hard": None, "votes": Consensus(num_shards=4)}
        return {name: student(x, y, seed, consensus) for name, consensus in found.items()}

    audit = ShadowAudit(train, planted.x, planted.y, num_shadow_models=12, directory=tmp_path)
    audit.run(verbose=0)
    reports = {
        name: audit.report(("lira_fixed",), model=name, canaries=planted.by_kind)
        for name in ("hard", "votes")
    }
    for kind in KINDS:
        hard, votes = (of.slice(f"canaries {kind}")["lira_fixed"] for of in reports.values())
        assert votes.auc < hard.auc - 0.1
        assert votes.tpr_at_fpr[0.01] < hard.tpr_at_fpr[0.01] / 2
    assert reports["votes"].nonmember_accuracy >= reports["hard"].nonmember_accuracy

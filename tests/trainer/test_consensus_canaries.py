"""Mislabelled members are found less often with a consensus than with hard labels."""

import keras
import numpy as np
import pytest
from scipy.stats import rankdata

from keras_dmp import Consensus, DMPTrainer
from keras_dmp.audit import ShadowAudit, plant_canaries
from keras_dmp.audit.statistics.results import ENTIRE

CLASSES, FEATURES, CANARIES = 20, 20, 200
CENTRES = 0.8 * np.random.default_rng(1).normal(size=(CLASSES, FEATURES))
VOTES = Consensus(num_shards=4, rounds=1)


def data(samples, seed):
    """Samples around one centre per class, so close that a net has to memorise wrong labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=samples)
    return (CENTRES[y] + rng.normal(size=(samples, FEATURES))).astype("float32"), y


def build():
    hidden = keras.layers.Dense(256, activation="relu")
    return keras.Sequential([keras.Input((FEATURES,)), hidden, keras.layers.Dense(CLASSES)])


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


def test_votes_expose_fewer_canaries_at_no_lower_accuracy():
    found = exposure_and_accuracy(hard=None, votes=VOTES)
    assert found["hard"][0] > 0.75
    assert found["votes"][0] < 0.70
    assert found["votes"][1] >= found["hard"][1]


def test_cross_fitted_students_expose_fewer_canaries_at_no_lower_accuracy():
    """Students that have not seen the labels near a record pass on less of it."""
    crossed = Consensus.of_one_teacher(num_students=4, labels="hard")
    found = exposure_and_accuracy(labels=None, crossed=crossed)
    assert found["crossed"][0] < found["labels"][0] - 0.03
    assert found["crossed"][1] >= found["labels"][1]


@pytest.mark.slow
def test_votes_expose_fewer_canaries_to_shadow_models(tmp_path):
    planted = plant_canaries(*data(2_000, 10), count=2 * CANARIES, seed=0)

    def train(x, y, seed):
        seed %= 1_000
        return {"hard": student(x, y, seed, None), "votes": student(x, y, seed, VOTES)}

    audit = ShadowAudit(train, planted.x, planted.y, num_shadow_models=12, directory=tmp_path)
    audit.run(verbose=0)
    reports = {
        name: audit.report(("lira_fixed",), model=name, canaries=planted.by_kind)
        for name in ("hard", "votes")
    }
    hard, votes = (
        next(of for of in report.results if of.slice != ENTIRE) for report in reports.values()
    )
    assert votes.auc < hard.auc - 0.1
    assert votes.tpr_at_fpr[0.01] < hard.tpr_at_fpr[0.01] / 2
    assert reports["votes"].nonmember_accuracy >= reports["hard"].nonmember_accuracy

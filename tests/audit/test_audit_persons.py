"""Audits by record and by person: both levels, trained attacks that keep persons together."""

import logging
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dmp import MembershipAudit
from keras_dmp.audit import (
    AttackResult,
    MembershipScores,
    audit_membership,
    black_box_attack,
    blind_baseline,
    loss_scores,
    person_scores,
)


@pytest.fixture(scope="module")
def groups():
    """Three records per member, two per nonmember, in no order."""
    rng = np.random.default_rng(0)
    return rng.permutation(np.arange(300) // 3), rng.permutation(1_000 + np.arange(260) // 2)


def strangers(persons=60, size=12):
    """A model that was trained on nobody, and records that tell whose they are."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(persons), size)
    x = (3 * rng.normal(size=(persons, 8)))[group] + 0.3 * rng.normal(size=(len(group), 8))
    y = rng.integers(6, size=len(group))
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6)])
    is_member = np.isin(group, rng.permutation(persons)[: persons // 2])
    sides = (x[is_member], y[is_member]), (x[~is_member], y[~is_member])
    return model, sides, (group[is_member], group[~is_member])


def test_a_report_has_records_and_persons(victim, samples, groups):
    report = audit_membership(victim, *samples, attacks=("loss", "threshold"), groups=groups)
    assert report.slices == ("all", "persons", "correct", "incorrect")
    assert report.blind_baseline == blind_baseline(*samples, groups=groups)
    scores = MembershipScores(
        *(loss_scores(victim.predict(x, verbose=0), y, from_logits=True) for x, y in samples)
    )
    for attack in ("loss", "threshold"):
        by_record = AttackResult.from_scores(attack, scores, groups=groups)
        assert report[attack].auc == pytest.approx(by_record.auc, abs=1e-9)
        assert report[attack].auc_interval == pytest.approx(by_record.auc_interval, abs=1e-9)
        assert report[attack].epsilon_lower_bound is None
        by_person = report.slice("persons")[attack]
        assert by_person.auc == pytest.approx(person_scores(scores, groups).auc(), abs=1e-9)
        assert (by_person.num_members, by_person.num_nonmembers) == (100, 130)
    assert report.provenance["engine"] == "keras_dmp"
    known = [name for name, _ in report["loss"].most_exposed]
    plain = audit_membership(victim, *samples, attacks="loss")
    assert known == [name for name, _ in plain["loss"].most_exposed]


def test_tf_privacy_gets_the_records(victim, samples, groups):
    pytest.importorskip("keras_dmp.audit._tf_privacy", exc_type=ImportError)
    report = audit_membership(victim, *samples, attacks="threshold", groups=groups)
    found = report.to_tf_privacy().single_attack_results
    assert [result.data_size.ntrain for result in found] == [
        report.slice(name)["threshold"].num_members for name in ("all", "correct", "incorrect")
    ]


def test_slices_draw_their_own_persons(victim, samples, groups):
    report = audit_membership(victim, *samples, attacks="loss", groups=groups)
    scores = [loss_scores(victim.predict(x, verbose=0), y, from_logits=True) for x, y in samples]
    right = [victim.predict(x, verbose=0).argmax(axis=1) == y for x, y in samples]
    expected = AttackResult.from_scores(
        "loss",
        MembershipScores(*(side[rows] for side, rows in zip(scores, right, strict=True))),
        slice="correct",
        groups=tuple(side[rows] for side, rows in zip(groups, right, strict=True)),
    )
    found = report.slice("correct")["loss"]
    assert found.auc_interval == pytest.approx(expected.auc_interval, abs=1e-9)
    assert found.num_members == right[0].sum()


def test_a_trained_attack_does_not_recognise_persons_by_their_other_records():
    """A model that has seen nobody: records of the fitted half would give the others away."""
    model, sides, groups = strangers()
    settings = {"attacks": "logistic_regression", "slices": (), "blind_baseline": False, "seed": 0}
    by_record = audit_membership(model, *sides, **settings)
    assert by_record["logistic_regression"].auc > 0.6
    low, high = audit_membership(model, *sides, groups=groups, **settings)[
        "logistic_regression"
    ].auc_interval
    assert low < 0.5 < high


def test_an_attack_network_scores_other_persons_than_it_is_trained_on():
    model, sides, groups = strangers(persons=90, size=3)
    scores = black_box_attack(model, *sides, epochs=1, seed=0, groups=groups)
    for positions, whose in zip(
        (scores.member_indices, scores.nonmember_indices), groups, strict=True
    ):
        rest = np.setdiff1d(np.arange(len(whose)), positions)
        assert not np.intersect1d(whose[positions], whose[rest]).size
        # Half of the persons, of 45: whole ones.
        assert abs(len(np.unique(whose[positions])) - 22) <= 1
    with pytest.raises(ValueError, match="at least 20 groups on each side"):
        black_box_attack(model, *sides, groups=(groups[0] % 2, 2 + groups[1] % 2))


def test_a_dataset_has_groups_in_its_order(victim, samples, groups):
    ordered = [tf.data.Dataset.from_tensor_slices(side).batch(64) for side in samples]
    whole = audit_membership(victim, *samples, attacks="loss", groups=groups)
    found = audit_membership(victim, *ordered, attacks="loss", groups=groups)
    assert found.slice("persons")["loss"].auc == whole.slice("persons")["loss"].auc
    shuffled = tf.data.Dataset.from_tensor_slices(samples[1]).shuffle(260).batch(64)
    with pytest.raises(ValueError, match="`nonmembers` to be read in one order with `groups`"):
        audit_membership(victim, ordered[0], shuffled, attacks="loss", groups=groups)
    with pytest.raises(ValueError, match="`nonmembers` to be read in one order with `groups`"):
        MembershipAudit(samples[0], shuffled, groups=groups)


class Silent(keras.Model):
    """A model that must not be called."""

    def call(self, x):
        raise AssertionError("the model was called")


@pytest.mark.parametrize("audit", ["membership", "callback"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: a, "`groups` to be a pair"),
        (lambda a, b: (a[1:], b), "for each of the 300 members. Received: 299 groups"),
        (lambda a, b: (a, np.append(b, 5_000)), "for each of the 260 nonmembers. Received: 261"),
        (lambda a, b: (a, b - 1_000), "each group on one side. Received: 100 groups"),
        (lambda a, b: (np.where(a == 7, np.nan, a), b), "`groups[0]` to have a group for every"),
    ],
)
def test_bad_groups_are_refused_before_any_work(samples, groups, audit, change, message):
    run = MembershipAudit
    if audit == "membership":
        model = Silent()
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))

        def run(*sides, groups):
            audit_membership(model, *sides, groups=groups)

    with pytest.raises(ValueError, match=re.escape(message)):
        run(*samples, groups=change(*groups))


def test_trained_attacks_need_persons(victim, samples, groups):
    few = groups[0] // 6, 1_000 + groups[1] // 14
    assert len(np.unique(few[0])) < 20
    with pytest.raises(ValueError, match=r"at least 20 groups on each side .* Received: 10 groups"):
        audit_membership(victim, *samples, groups=few)
    report = audit_membership(victim, *samples, attacks="loss", groups=few)
    assert report.blind_baseline is None
    with pytest.raises(ValueError, match="Received: 'knn', which only TF-Privacy can run"):
        audit_membership(victim, *samples, attacks=("loss", "knn"), groups=groups)


def test_the_callback_logs_persons(victim, samples, groups, caplog):
    audit = MembershipAudit(*samples, groups=groups)
    audit.set_model(victim)
    audit.on_train_begin()
    logs = {}
    audit.on_epoch_end(0, logs)
    report = audit_membership(victim, *samples, attacks="threshold", slices=(), groups=groups)
    for level, prefix in (("all", "mia_"), ("persons", "mia_person_")):
        found = report.slice(level)["threshold"]
        assert logs[f"{prefix}auc"] == pytest.approx(found.auc, abs=1e-9)
        assert logs[f"{prefix}advantage"] == pytest.approx(found.advantage, abs=1e-9)
        assert logs[f"{prefix}tpr_at_fpr_1%"] == found.tpr_at_fpr[0.01]
    assert "groups" not in audit.get_config()
    few = groups[0], 1_000 + groups[1] // 20
    with caplog.at_level(logging.INFO):
        MembershipAudit(*samples, groups=few)
    assert "mia_person_tpr_at_fpr_1% is left out of the logs" in caplog.text

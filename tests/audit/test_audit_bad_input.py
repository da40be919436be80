import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dmp import MembershipAudit
from keras_dmp.audit import (
    adaptive_attack,
    audit_membership,
    audit_reference,
    black_box_attack,
    label_only_attack,
    white_box_attack,
)


@pytest.fixture
def audit(victim, samples):
    """Audit with some arguments exchanged; the model must not be called."""

    def run(members=samples[0], nonmembers=samples[1], model=victim, **settings):
        return audit_membership(model, members, nonmembers, **settings)

    return run


@pytest.fixture
def uncallable(victim):
    """The victim, as a model that fails when it is called."""

    class Uncallable(keras.Model):
        def call(self, inputs, training=False, mask=None):
            raise RuntimeError("the model was called")

    model = keras.models.clone_model(victim)
    model.call = Uncallable().call
    return model


def spoiled(x, value):
    x = x.copy()
    x[3, 2] = value
    return x


# What is wrong, a change of (members, nonmembers), and the message; all before any computation.
WRONG_ARRAYS = {
    "nan": (lambda m, n: ((spoiled(m[0], np.nan), m[1]), n), "`members` to be finite.*1 of 300"),
    "inf": (lambda m, n: (m, (spoiled(n[0], np.inf), n[1])), "`nonmembers` to be finite"),
    "empty": (lambda m, n: ((m[0][:0], m[1][:0]), n), "`members` to have at least 1 sample"),
    "one sample": (
        lambda m, n: ((m[0][:1], m[1][:1]), n),
        "`members` to have at least 2 samples.*Received: 1",
    ),
    "unequal length": (
        lambda m, n: ((m[0], m[1][:-1]), n),
        "`members` and `members labels` to have the same number of samples. Received: 300 and 299",
    ),
    "labels that are not whole": (
        lambda m, n: ((m[0], m[1] + 0.5), n),
        "`members labels` to be whole-number class labels.*300 of 300",
    ),
    "label above": (
        lambda m, n: (m, (n[0], n[1] + 1)),
        "labels `nonmembers labels` to lie in 0..3.*Received: labels from 1 to 4",
    ),
    "label below": (lambda m, n: ((m[0], m[1] - 1), n), "lie in 0..3"),
    "multi-hot": (
        lambda m, n: ((m[0], np.ones((300, 4), int)), n),
        "with a single 1 per row. Received: shape \\(300, 4\\), not one-hot",
    ),
    "labels of several outputs": (
        lambda m, n: ((m[0], {"a": m[1], "b": m[1]}), n),
        "`members labels` to be one array. Received: 2 arrays",
    ),
    "shared records": (
        lambda m, n: (m, (np.concatenate([n[0], m[0][:7]]), np.append(n[1], m[1][:7]))),
        "share no records.*7 of 267 nonmembers that are also members; remove them",
    ),
    "shared records of another dtype": (
        lambda m, n: (m, (m[0].astype("float64"), m[1])),
        "300 of 300 nonmembers",
    ),
    "shape for the model": (
        lambda m, n: ((m[0][:, :9], m[1]), n),
        r"`members` to have shape \(None, 10\)",
    ),
    "shape of one side": (
        lambda m, n: (m, (n[0][:, :9], n[1])),
        r"`nonmembers` to have shape \(None, 10\)",
    ),
    "dtype of one side": (
        lambda m, n: (m, (n[0].astype("int64"), n[1])),
        "`nonmembers` to have the shape and dtype of `members`",
    ),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_wrong_arrays(case, uncallable, samples):
    change, message = WRONG_ARRAYS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        audit_membership(uncallable, *change(*samples), attacks="threshold")


def test_the_model_above_cannot_be_called(uncallable, samples):
    with pytest.raises(RuntimeError, match="the model was called"):
        audit_membership(uncallable, *samples, attacks="threshold")


def test_trained_attacks_need_more_samples(audit, samples):
    few = samples[0][0][:19], samples[0][1][:19]
    with pytest.raises(ValueError, match=r"at least 20 samples for these attacks. Received: 19"):
        audit(members=few)
    assert audit(members=few, attacks="threshold").num_members == 19


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attacks": ("treshold",)}, "`attacks` to be among 'threshold', .*Received: .*treshold"),
        ({"attacks": ()}, "`attacks` to name at least one attack"),
        ({"slices": "percentile"}, "`slices` to be among 'correctness', 'class'"),
        ({"seed": -1}, "`seed` to be a whole number of at least 0"),
        ({"seed": 2**32}, "`seed` to be below 2\\*\\*32"),
        ({"most_exposed": -1}, "`most_exposed` to be a whole number of at least 0"),
        ({"attacks": "lira"}, "`attacks` to be among .*'label_only'. Received: attacks=.'lira'"),
        ({"batch_size": 0}, "`batch_size` to be a whole number of at least 1"),
        ({"verbose": 7}, "`verbose`.*verbose=7"),
        ({"slice_trained_attacks": 1}, "`slice_trained_attacks` to be True or False"),
        ({"from_logits": False}, "`victim|model` .*declares from_logits=True"),
    ],
)
def test_wrong_settings(settings, message, uncallable, victim, samples):
    model = victim if "from_logits" in settings else uncallable
    with pytest.raises(ValueError, match=message):
        audit_membership(model, *samples, **settings)


@pytest.mark.parametrize(
    ("members", "received"),
    [
        (np.zeros((5, 10)), "Received: members of type ndarray"),
        ((np.zeros((5, 10)),), "Received: members of type tuple, length 1"),
        ([np.zeros((5, 10)), np.zeros(5, int)], "Received: members of type list"),
        (None, "Received: members of type NoneType"),
    ],
)
def test_sides_of_another_type(audit, members, received):
    with pytest.raises(TypeError, match=f"tuple \\(x, y\\) of arrays.*{received}"):
        audit(members=members)


def test_a_model_of_another_type(audit):
    with pytest.raises(TypeError, match=r"`model` to be a keras.Model.*model of type function"):
        audit(model=lambda x: x)


def test_softmax_declared_as_logits(audit, softmax_victim):
    with pytest.raises(ValueError, match=r"returns probabilities.*Received: from_logits=True"):
        audit(model=softmax_victim, from_logits=True)


def test_logits_declared_as_probabilities(audit, victim):
    uncompiled = keras.Model(victim.inputs, victim.outputs[0])
    with pytest.raises(ValueError, match=r"returns logits.*Received: from_logits=False"):
        audit(model=uncompiled, from_logits=False)


@pytest.mark.parametrize(
    ("layer", "loss", "message"),
    [
        ({"units": 4, "activation": "sigmoid"}, "binary_crossentropy", "a multi-label head"),
        ({"units": 1}, "mse", "classification head .*mean_squared_error"),
        ({"units": 1, "activation": "softmax"}, None, "a softmax over one unit"),
        ({"units": 4, "activation": "relu"}, None, "classification head .*relu"),
    ],
)
def test_models_that_are_no_classifiers(audit, layer, loss, message):
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(**layer)])
    if loss:
        model.compile(loss=loss)
    with pytest.raises(ValueError, match=message):
        audit(model=model, attacks="threshold")


def test_models_with_several_outputs(audit, samples):
    inputs = keras.Input((10,))
    functional = keras.Model(inputs, [keras.layers.Dense(4)(inputs), keras.layers.Dense(4)(inputs)])
    with pytest.raises(ValueError, match=r"`model` to have one output.*2 outputs"):
        audit(model=functional)

    class TwoOutputs(keras.Model):
        def call(self, inputs, training=False):
            return {"a": inputs[:, :4], "b": inputs[:, 4:8]}

    with pytest.raises(ValueError, match=r"`model` to have one output.*2 outputs"):
        audit(model=TwoOutputs(), attacks="threshold")


def test_a_model_whose_outputs_are_not_finite(audit, victim):
    broken = keras.models.clone_model(victim)
    broken.set_weights([np.full_like(weight, np.nan) for weight in victim.get_weights()])
    with pytest.raises(ValueError, match=r"`model outputs` to be finite.*300 of 300"):
        audit(model=broken)


def test_too_many_classes_for_slices(audit):
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(1_001)])
    with pytest.raises(ValueError, match="at most 1000 classes for slices by class"):
        audit(model=model, slices="class")


class Torn(keras.utils.PyDataset):
    """Batches that have lost a label."""

    num_batches = 2

    def __init__(self):
        super().__init__()

    def __getitem__(self, index):
        return np.full((64, 10), index, dtype="float32"), np.zeros(63, dtype="int64")


def dataset(samples):
    return tf.data.Dataset.from_tensor_slices(samples[0])


WRONG_DATASETS = {
    "dtype of one side": (
        lambda s: tf.data.Dataset.from_tensor_slices((s[0][0].astype("int32"), s[0][1])).batch(64),
        "`nonmembers` to have the shape and dtype of `members`",
    ),
    "unequal length": (
        lambda s: Torn(),
        "`members` and `members labels` to have the same number of samples. Received: 64 and 63",
    ),
    "endless": (lambda s: dataset(s).batch(64).repeat(), "`members` to be a finite dataset"),
    "unbatched": (dataset, "`members` to yield batches of shape .* an unbatched dataset"),
    "empty": (lambda s: dataset(s).batch(64).take(0), "an empty dataset"),
    "one sample": (lambda s: dataset(s).batch(1).take(1), "at least 2 samples"),
    "without labels": (
        lambda s: tf.data.Dataset.from_tensor_slices(s[0][0]).batch(64),
        "`members labels` to be .* Received: no labels",
    ),
    "nan in a late batch": (
        lambda s: (
            tf.data.Dataset.from_tensor_slices((spoiled(s[0][0][::-1], np.nan), s[0][1]))
            .batch(64)
            .concatenate(dataset(s).batch(64))
        ),
        "`members` to be finite",
    ),
    "labels outside": (
        lambda s: tf.data.Dataset.from_tensor_slices((s[0][0], s[0][1] + 3)).batch(64),
        "`members labels` to lie in 0..3",
    ),
    "shared records": (
        lambda s: tf.data.Dataset.from_tensor_slices(s[1]).batch(64),
        "260 of 260 nonmembers that are also members",
    ),
}


@pytest.mark.parametrize("case", WRONG_DATASETS)
def test_wrong_datasets(case, audit, samples):
    make, message = WRONG_DATASETS[case]
    with pytest.raises(ValueError, match=message):
        audit(members=make(samples), attacks="threshold")


def test_tf_privacy_missing(audit, uncallable, monkeypatch):
    monkeypatch.delitem(sys.modules, "keras_dmp.audit._tf_privacy", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorflow_privacy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorflow_privacy", None)
    with pytest.raises(ImportError, match=r"'knn'.*tensorflow-privacy 0.8.10 cannot be imported"):
        audit(model=uncallable, attacks=("loss", "knn"))
    with pytest.raises(RuntimeError, match="the model was called"):
        audit(model=uncallable)
    report = audit(attacks=("loss", "modified_entropy"), slices=("correctness", "class"))
    assert report["loss"].auc > 0.6


def in_percent(samples, one_unit=False):
    """A classifier whose probabilities are percentages, which nothing but values tells."""
    inputs = keras.Input(samples[0][0].shape[1:])
    head = keras.layers.Dense(1 if one_unit else 4, "sigmoid" if one_unit else "softmax")
    return keras.Model(inputs, keras.layers.Rescaling(100.0)(head(inputs)))


def audit_in_training(model, members, nonmembers, seed, **kwargs):
    """One epoch with a loss of the user's own, which does not say what the outputs are."""
    model.compile("sgd", lambda labels, outputs: keras.ops.mean(outputs, axis=1))
    callback = MembershipAudit(members, nonmembers, **kwargs)
    model.fit(*members, verbose=0, callbacks=[callback])


AUDITS = {
    "audit_membership": audit_membership,
    "black_box_attack": lambda *args, **kwargs: black_box_attack(*args, epochs=1, **kwargs),
    "adaptive_attack": lambda model, members, nonmembers, **kwargs: adaptive_attack(
        model, members, nonmembers, members[0][:200] + 1e-3, **kwargs
    ),
    "audit_reference": lambda model, members, nonmembers, seed, **kwargs: audit_reference(
        model, members[0], nonmembers[0], **kwargs
    ),
    "MembershipAudit": audit_in_training,
}


@pytest.mark.parametrize("audit", AUDITS)
def test_probabilities_in_percent_are_refused_rather_than_taken_for_logits(audit, samples):
    model = in_percent(samples)
    with pytest.raises(ValueError, match=r"divide percentages.*from_logits=True.*sum to about 100"):
        AUDITS[audit](model, *samples, seed=0)
    # A declaration is believed.
    AUDITS[audit](model, *samples, from_logits=True, seed=0)


@pytest.mark.parametrize("audit", [audit_membership, label_only_attack, audit_in_training])
def test_percentages_of_one_unit_are_refused(samples, audit):
    sides = [(x, y % 2) for x, y in samples]
    with pytest.raises(ValueError, match=r"divide percentages.*no negative output"):
        audit(in_percent(samples, one_unit=True), *sides, seed=0)


def test_the_white_box_attack_refuses_probabilities_in_percent(samples):
    model = in_percent(samples)
    with pytest.raises(ValueError, match=r"divide percentages.*loss that has from_logits=True"):
        white_box_attack(model, *samples, epochs=1, seed=0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    white_box_attack(model, *samples, epochs=1, seed=0)


def test_the_same_samples_are_recognized_by_the_outputs(samples):
    """Both sides differ in a column that the model ignores, such as a number of the record."""
    (x, y), _ = samples
    ignored = np.zeros(x.shape[1], "float32")
    ignored[0] = 1.0
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, keras.layers.Dense(4)(inputs * (1 - ignored)))
    order = np.random.default_rng(0).permutation(len(x))
    with pytest.raises(ValueError, match="300 of 300 nonmembers with the outputs of a member"):
        audit_membership(model, (x, y), ((x + ignored)[order], y[order]))

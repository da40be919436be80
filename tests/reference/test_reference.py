import re

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from nets import distil

from keras_dmp import EntropyReferenceSelector, ReferenceSummary

# Few samples leave classes empty now and then; the tests of that warning expect it.
pytestmark = pytest.mark.filterwarnings("ignore:No chosen reference sample")


def entropies(teacher, x):
    probabilities = nets.softmax(np.array(teacher(x)))
    return -np.sum(probabilities * np.log(probabilities), axis=1)


def expected_choice(entropy, size, order="lowest"):
    ranked = np.argsort(entropy if order == "lowest" else -entropy, kind="stable")
    return np.sort(ranked[:size])


def outputs_with_entropy_order(ranks):
    """Logits of two classes whose entropy grows with the rank given."""
    logits = np.zeros((len(ranks), 2), dtype="float32")
    logits[:, 0] = 5 - np.asarray(ranks)
    return logits


def as_given(units):
    """A teacher whose logits are its inputs."""
    return keras.Sequential([keras.Input((units,)), layers.Activation("linear")])


# What is chosen.


@pytest.mark.parametrize("order", ["lowest", "highest"])
@pytest.mark.parametrize("form", ["array", "dataset", "dataset of pairs", "PyDataset"])
def test_chooses_by_entropy(reference, teacher, order, form):
    dataset = tf.data.Dataset.from_tensor_slices(reference).batch(10)
    pool = {
        "array": reference,
        "dataset": dataset,
        "dataset of pairs": dataset.map(lambda x: (x, x[:, 0])),
        "PyDataset": nets.Pairs(reference, batch_size=10),
    }[form]
    selector = EntropyReferenceSelector(size=30, order=order)
    chosen = selector.select(teacher, pool)

    entropy = entropies(teacher, reference)
    expected = expected_choice(entropy, 30, order)
    np.testing.assert_array_equal(selector.indices_, expected)
    np.testing.assert_array_equal(chosen, reference[expected])
    assert chosen is selector.reference
    np.testing.assert_allclose(selector.entropy_, entropy[expected], atol=1e-6)
    np.testing.assert_allclose(selector.pool_entropy_, entropy, atol=1e-6)
    classes = np.array(teacher(reference)).argmax(axis=1)[expected]
    assert selector.summary == ReferenceSummary(
        size=30,
        pool_size=len(reference),
        mean_entropy=float(selector.entropy_.mean()),
        pool_mean_entropy=float(selector.pool_entropy_.mean()),
        class_counts=tuple(np.bincount(classes, minlength=nets.CLASSES).tolist()),
    )
    assert re.match(r"30 of 96 reference samples, mean entropy 0\.\d+ nats", str(selector.summary))


def test_random_is_seeded_and_looks_at_no_entropy(reference, teacher):
    def indices(seed):
        selector = EntropyReferenceSelector(size=30, order="random", seed=seed)
        selector.select(teacher, reference)
        return selector.indices_.tolist()

    assert indices(1) == indices(1)
    assert indices(1) != indices(2)
    assert indices(1) == sorted(set(indices(1)))
    assert indices(1) != expected_choice(entropies(teacher, reference), 30).tolist()


def test_ties_go_to_the_earlier_sample():
    outputs = outputs_with_entropy_order([2, 1, 2, 1, 2, 1])
    for order, expected in [("lowest", [0, 1, 3, 5]), ("highest", [0, 1, 2, 4])]:
        selector = EntropyReferenceSelector(size=4, order=order)
        selector.select(as_given(2), outputs)
        assert selector.indices_.tolist() == expected
        np.testing.assert_array_equal(selector.reference, outputs[expected])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"fraction": 0.25}, 24),
        ({"fraction": 1}, 96),
        ({"fraction": 0.001}, 2),
        ({"size": 96}, 96),
        ({"max_entropy": 100.0}, 96),
        ({"max_entropy": 100.0, "size": 7}, 7),
        ({"max_entropy": 100.0, "fraction": 0.5}, 48),
    ],
    ids=str,
)
def test_size(reference, teacher, arguments, expected):
    selector = EntropyReferenceSelector(**arguments)
    assert len(selector.select(teacher, reference)) == expected
    assert selector.summary.size == expected


@pytest.mark.parametrize("order", ["lowest", "highest", "random"])
def test_max_entropy_limits_the_candidates(reference, teacher, order):
    entropy = entropies(teacher, reference)
    limit = float(np.median(entropy))
    selector = EntropyReferenceSelector(max_entropy=limit, order=order)
    selector.select(teacher, reference)
    np.testing.assert_array_equal(selector.indices_, np.flatnonzero(entropy <= limit))

    selector = EntropyReferenceSelector(max_entropy=limit, size=5, order=order)
    selector.select(teacher, reference)
    assert selector.summary.size == 5
    assert selector.entropy_.max() <= limit
    # `size` is an upper limit beside it.
    selector = EntropyReferenceSelector(max_entropy=limit, size=90, order=order)
    selector.select(teacher, reference)
    assert selector.summary.size == np.count_nonzero(entropy <= limit)


@pytest.mark.parametrize("order", ["lowest", "highest", "random"])
@pytest.mark.parametrize("seed", range(8))
def test_balanced_classes_keep_the_mix(seed, order):
    rng = np.random.default_rng(seed)
    samples, classes = int(rng.integers(50, 300)), int(rng.integers(2, 8))
    outputs = rng.normal(0, 3, (samples, classes)) + rng.normal(0, 2, classes)
    outputs = outputs.astype(np.float32)
    size = int(rng.integers(1, samples + 1))
    selector = EntropyReferenceSelector(size=size, order=order, balance_classes=True, seed=seed)
    selector.select(as_given(classes), outputs)

    predicted = outputs.argmax(axis=1)
    share = np.bincount(predicted, minlength=classes) * size / samples
    assert selector.summary.size == size
    assert len(set(selector.indices_.tolist())) == size
    assert np.all(np.abs(np.array(selector.summary.class_counts) - share) < 1)
    # Entropy ranks within each class.
    chosen = np.isin(np.arange(samples), selector.indices_)
    for label in range(classes if order != "random" else 0):
        taken = selector.pool_entropy_[chosen & (predicted == label)]
        left = selector.pool_entropy_[~chosen & (predicted == label)]
        if len(taken) and len(left):
            if order == "lowest":
                assert taken.max() <= left.min()
            else:
                assert taken.min() >= left.max()


def test_softmax_and_sigmoid_teachers(reference):
    for units, activation in [(nets.CLASSES, "softmax"), (1, "sigmoid"), (1, None)]:
        teacher = nets.classifier(units, activation, seed=11, scale=3.0)
        selector = EntropyReferenceSelector(size=20)
        selector.select(teacher, reference)
        outputs = np.array(teacher(reference), dtype="float64")
        p = outputs if activation else 1 / (1 + np.exp(-outputs))
        p = p if units > 1 else np.concatenate([1 - p, p], axis=1)
        entropy = -np.sum(p * np.log(p), axis=1)
        np.testing.assert_allclose(selector.pool_entropy_, entropy, atol=1e-5)
        assert len(selector.summary.class_counts) == max(units, 2)


def test_structures_of_arrays_are_narrowed_leaf_by_leaf():
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    outputs = layers.Dense(3)(layers.Concatenate()([left, right]))
    teacher = keras.Model({"left": left, "right": right}, outputs)
    rng = np.random.default_rng(0)
    pool = {"left": rng.normal(size=(20, 3)), "right": rng.normal(size=(20, 2))}
    selector = EntropyReferenceSelector(fraction=0.5)
    chosen = selector.select(teacher, pool)
    for name, column in pool.items():
        np.testing.assert_array_equal(chosen[name], column[selector.indices_])


@pytest.mark.filterwarnings("error")
def test_an_empty_class_is_named():
    outputs = np.eye(4)[[0, 0, 2, 2, 1, 3]] * np.array([[9], [9], [8], [8], [3], [2]])
    selector = EntropyReferenceSelector(size=4)
    with pytest.warns(UserWarning, match="is predicted as class 1, 3: the student") as caught:
        selector.select(as_given(4), outputs)
    assert len(caught) == 1
    assert selector.summary.class_counts == (2, 0, 2, 0)
    assert "2 of 4 classes" in str(selector.summary)
    EntropyReferenceSelector(size=6).select(as_given(4), outputs)


@pytest.mark.filterwarnings("error")
def test_the_warning_points_at_the_caller(reference, teacher):
    with pytest.warns(UserWarning, match="predicted as class") as caught:
        EntropyReferenceSelector(size=1).select(teacher, reference)
    assert caught[0].filename == __file__


# In DistillationTrainer.fit.


class Witness(layers.Layer):
    """Keeps the first column of every batch that is trained on; needs eager steps."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def call(self, inputs, training=None):
        if training:
            self.seen |= set(np.array(inputs[:, 0]).tolist())
        return inputs


@pytest.mark.parametrize(("form", "cache"), [("array", True), ("array", False), ("dataset", True)])
def test_unchosen_samples_never_enter_a_step(reference, teacher, student, cache, form):
    witness = Witness()
    student = keras.Sequential([keras.Input((nets.FEATURES,)), witness, student])
    pool = reference
    if form == "dataset":
        pool = tf.data.Dataset.from_tensor_slices(reference).batch(32)
    selector = EntropyReferenceSelector(size=40)
    distil(
        student,
        pool,
        teacher=teacher,
        settings={"cache": cache},
        compile={"run_eagerly": True},
        callbacks=[selector],
        shuffle=True,
    )
    expected = expected_choice(entropies(teacher, reference), 40)
    np.testing.assert_array_equal(selector.indices_, expected)
    assert witness.seen == set(reference[expected, 0].tolist())


def test_narrows_steps_and_equals_a_fit_on_the_choice(reference, teacher):
    selector, steps = EntropyReferenceSelector(size=40), nets.Steps()
    student, alone = nets.classifier(seed=12), nets.classifier(seed=12)
    distil(student, reference, teacher=teacher, callbacks=[selector, steps], epochs=3)
    assert len(steps.losses) == 3 * 2
    distil(alone, reference[selector.indices_], teacher=teacher, epochs=3)
    nets.assert_same_weights(student, nets.snapshot(alone), atol=1e-6)


def test_weights_and_given_outputs_are_narrowed_too(reference, teacher):
    weights = np.linspace(0, 2, len(reference)).astype("float32")
    outputs = np.array(teacher(reference))
    selector = EntropyReferenceSelector(size=40)
    student, alone = nets.classifier(seed=12), nets.classifier(seed=12)
    distil(student, reference, outputs, sample_weight=weights, callbacks=[selector])
    rows = selector.indices_
    distil(alone, reference[rows], outputs[rows], sample_weight=weights[rows])
    nets.assert_same_weights(student, nets.snapshot(alone), atol=1e-6)


def test_its_figures_are_in_the_logs_of_every_epoch(reference, labeled, teacher, student):
    selector = EntropyReferenceSelector(fraction=0.5)
    seen = []

    class Later(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(dict(logs))

    stopping = keras.callbacks.EarlyStopping("reference_entropy", mode="min", patience=1)
    _, history = distil(
        student,
        reference,
        teacher=teacher,
        epochs=5,
        validation_data=labeled,
        callbacks=[selector, Later(), stopping],
    )
    # It never gets better, so that EarlyStopping ends after the second epoch.
    assert history["reference_entropy"] == [selector.summary.mean_entropy] * 2
    assert history["reference_size"] == [48] * 2
    assert [logs["reference_size"] for logs in seen] == [48] * 2


def test_the_distillation_temperature_does_not_matter(reference, teacher):
    chosen = []
    for temperature in (1.0, 8.0):
        selector = EntropyReferenceSelector(size=40)
        settings = {"temperature": temperature}
        distil(
            nets.classifier(),
            reference,
            teacher=teacher,
            settings=settings,
            callbacks=[selector],
            epochs=1,
        )
        chosen.append((selector.indices_.tolist(), selector.entropy_.tolist()))
    assert chosen[0] == chosen[1]


def test_a_selector_serves_again(reference, labeled, teacher):
    selector = EntropyReferenceSelector(size=40)
    for x in (reference, reference[::-1]):
        distil(nets.classifier(), x, teacher=teacher, callbacks=[selector], epochs=1)
        expected = expected_choice(entropies(teacher, x), 40)
        np.testing.assert_array_equal(selector.indices_, expected)
    # After a distillation that broke off it is no narrower than before.
    selector = EntropyReferenceSelector(size=40)
    with pytest.raises(RuntimeError, match="broke off"):
        distil(nets.classifier(), reference, teacher=teacher, callbacks=[selector, Breaking()])
    teacher.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="have a `pool`"):
        teacher.fit(*labeled, callbacks=[selector], verbose=0)


class Breaking(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        raise RuntimeError("broke off")


# In a classifier's own fit.


def fit_classifier(model, labeled, *callbacks):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model.fit(*labeled, epochs=2, verbose=0, callbacks=list(callbacks)).history


@pytest.mark.parametrize("as_dataset", [False, True])
def test_selects_when_a_classifier_has_been_trained(reference, labeled, teacher, as_dataset):
    pool = tf.data.Dataset.from_tensor_slices(reference).batch(40) if as_dataset else reference
    selector = EntropyReferenceSelector(size=30, pool=pool)
    ended = []

    class Later(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            ended.append(dict(logs))

    history = fit_classifier(teacher, labeled, selector, Later())
    expected = expected_choice(entropies(teacher, reference), 30)
    np.testing.assert_array_equal(selector.indices_, expected)
    assert "reference_size" not in history
    assert ended[0]["reference_size"] == 30
    assert ended[0]["reference_entropy"] == selector.summary.mean_entropy


def test_without_a_pool_nothing_is_trained(labeled, teacher):
    before = nets.snapshot(teacher)
    with pytest.raises(ValueError, match=r"have a `pool` .*Received: pool=None"):
        fit_classifier(teacher, labeled, EntropyReferenceSelector(size=30))
    nets.assert_same_weights(teacher, before)


def test_the_teacher_is_left_as_it_was(reference, teacher):
    attributes = set(vars(teacher))
    before = nets.snapshot(teacher)
    EntropyReferenceSelector(size=30).select(teacher, reference)
    assert set(vars(teacher)) == attributes
    assert teacher.predict_function is None
    nets.assert_same_weights(teacher, before)


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of `size`, `fraction` and `max_entropy`. Received: size=None"),
        ({"size": 3, "fraction": 0.5}, "at most one of `size` and `fraction`"),
        ({"size": 0}, "`size` to be a whole number of at least 1"),
        ({"size": -4}, "`size` to be a whole number"),
        ({"size": 2.5}, "`size` to be a whole number"),
        ({"size": True}, "`size` to be a whole number"),
        ({"fraction": 0}, "`fraction` to be a number above 0 and at most 1"),
        ({"fraction": 1.2}, "`fraction` to be a number above 0 and at most 1"),
        ({"fraction": np.nan}, "`fraction` to be a number above 0 and at most 1"),
        ({"max_entropy": -1}, "`max_entropy` to be a finite number of at least 0"),
        ({"max_entropy": np.inf}, "`max_entropy` to be a finite number of at least 0"),
        ({"size": 3, "order": "middle"}, "`order` to be one of 'lowest', 'highest', 'random'"),
        ({"size": 3, "balance_classes": 1}, "`balance_classes` to be True or False"),
        ({"size": 3, "seed": -1}, "`seed` to be a whole number of at least 0"),
        ({"size": 3, "batch_size": 0}, "`batch_size` to be a whole number of at least 1"),
    ],
    ids=str,
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        EntropyReferenceSelector(**arguments)


@pytest.mark.parametrize(
    ("arguments", "pool", "message"),
    [
        ({"size": 97}, lambda x: x, "`size` to be at most 96, .*Received: size=97"),
        ({"size": 9}, lambda x: None, "Expected `pool`.*pool=None"),
        ({"size": 9}, lambda x: x[:0], "at least 1 sample. Received: 0 samples"),
        ({"size": 1}, lambda x: x[:1], "at least 2 samples. Received: 1"),
        ({"size": 9}, lambda x: x * np.nan, "`pool` to be finite"),
        ({"size": 9}, lambda x: x[:, :-1], r"`pool` to have shape \(None, 12\)"),
        ({"max_entropy": 0.0}, lambda x: x, "`max_entropy` to admit at least one sample"),
        ({"size": 9, "from_logits": False}, lambda x: x, "returns logits"),
    ],
)
def test_refuses_pools(reference, teacher, arguments, pool, message):
    with pytest.raises(ValueError, match=message):
        EntropyReferenceSelector(**arguments).select(teacher, pool(reference))


def test_a_failed_selection_leaves_nothing_of_the_last(reference, teacher):
    selector = EntropyReferenceSelector(max_entropy=2.0)
    selector.select(teacher, reference)
    selector.max_entropy = 0.0
    with pytest.raises(ValueError, match="max_entropy"):
        selector.select(teacher, reference)
    assert selector.indices_ is selector.reference is selector.summary is None


@pytest.mark.parametrize(
    ("size", "spoil", "message"),
    [(97, 0.0, "`size` to be at most 96, "), (9, np.nan, "Expected `pool` to be finite")],
)
def test_a_bad_pool_is_found_before_a_classifier_trains(reference, labeled, size, spoil, message):
    pool = reference.copy()
    pool[3, 1] += spoil
    model = nets.classifier()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    weights = nets.snapshot(model)
    with pytest.raises(ValueError, match=message):
        model.fit(*labeled, callbacks=[EntropyReferenceSelector(size=size, pool=pool)], verbose=0)
    nets.assert_same_weights(model, weights)

"""DMPTrainer: the three phases, what it returns and what it releases."""

import subprocess
import sys
import textwrap
import warnings

import keras
import leaks
import nets
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers

from keras_dmp import (
    DMPTrainer,
    EntropyReferenceSelector,
    PrivacyWarning,
    split_private,
)

SOFTMAX_LOSS = "sparse_categorical_crossentropy"
LOGITS_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build(units=nets.CLASSES, activation=None):
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Dense(nets.HIDDEN, activation="tanh"),
            layers.Dense(units, activation=activation),
        ]
    )


@pytest.fixture(scope="module")
def split():
    x, y = nets.prototypes(400)
    return split_private(x, y, members=80, nonmembers=80, validation=40, seed=0)


def train(split, model=build, *, loss=LOGITS_LOSS, compile=None, fit=None, **settings):
    trainer = DMPTrainer(model, **{"seed": 3, "selector": None, **settings})
    trainer.compile(keras.optimizers.SGD(0.2), loss, metrics=["accuracy"], **(compile or {}))
    arguments = {"reference": split.reference, "epochs": 2, "batch_size": 16, "verbose": 0}
    history = trainer.fit(*split.members, **{**arguments, **(fit or {})})
    return trainer, history


# What fit does and returns


def test_history_joins_both_phases(split):
    trainer, history = train(
        split,
        selector=EntropyReferenceSelector(size=48, balance_classes=True),
        fit={"teacher_epochs": 3, "validation_data": split.validation},
    )
    lengths = {key: len(values) for key, values in history.history.items()}
    teacher = dict.fromkeys(
        ["teacher_loss", "teacher_accuracy", "teacher_val_loss", "teacher_val_accuracy"], 3
    )
    student = ["loss", "accuracy", "val_loss", "val_accuracy"]
    selection = ["reference_entropy", "reference_size"]
    assert lengths == teacher | dict.fromkeys([*student, *selection], 2)
    assert history.epoch == [0, 1]
    assert history.model is trainer.student
    assert history.history["reference_size"] == [48, 48]


@pytest.mark.parametrize("form", [pd.DataFrame, dict, "dataset"])
def test_evaluate_and_predict_take_what_fit_takes(form):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.normal(size=90), "work": rng.choice(["shop", "farm"], 90)})
    y = rng.integers(2, size=90)

    def model():
        inputs = {
            "age": keras.Input((1,), name="age"),
            "work": keras.Input((1,), name="work", dtype="string"),
        }
        known = layers.StringLookup(vocabulary=["shop", "farm"], output_mode="one_hot")
        joined = layers.Concatenate()([inputs["age"], known(inputs["work"])])
        return keras.Model(inputs, layers.Dense(2)(joined))

    if form == "dataset":
        x = tf.data.Dataset.from_tensor_slices((dict(table), y)).batch(30)
        arguments = {"x": x, "reference": dict(table + table)}
    else:
        x = form(table)
        arguments = {"x": x, "y": y, "reference": form(table + table)}
    trainer = DMPTrainer(model, selector=None, seed=0)
    trainer.compile("sgd", LOGITS_LOSS, metrics=["accuracy"], run_eagerly=True)
    trainer.fit(**arguments, batch_size=30, verbose=0)
    columns = {name: column.to_numpy() for name, column in table.items()}
    expected = trainer.student.predict(columns, verbose=0)
    np.testing.assert_array_equal(trainer.predict(x, verbose=0), expected)
    accuracy = trainer.evaluate(x, arguments.get("y"), verbose=0)[1]
    assert accuracy == pytest.approx(np.mean(expected.argmax(axis=1) == y))


def test_phases_equal_their_parts_by_hand(split):
    """A ready teacher, the whole reference: the student of a plain soft-label fit."""
    teacher = nets.classifier(seed=5, scale=2.0)
    student = build()
    start = student.get_weights()

    def same_start():
        model = build()
        model.set_weights(start)
        return model

    trainer, _ = train(split, same_start, teacher=teacher, fit={"shuffle": False})
    by_hand = same_start()
    by_hand.compile(keras.optimizers.SGD(0.2), keras.losses.CategoricalCrossentropy(True))
    targets = nets.softmax(teacher.predict(split.reference, verbose=0))
    by_hand.fit(split.reference, targets, epochs=2, batch_size=16, shuffle=False, verbose=0)
    nets.assert_same_weights(trainer.student, by_hand.get_weights(), atol=1e-6)


def test_teacher_is_an_ordinary_fit(split):
    trainer, history = train(split, fit={"shuffle": False, "teacher_epochs": 2})
    keras.utils.set_random_seed(3)
    build()  # the student is built first
    plain = build()
    plain.compile(keras.optimizers.SGD(0.2), LOGITS_LOSS, metrics=["accuracy"])
    by_hand = plain.fit(*split.members, epochs=2, batch_size=16, shuffle=False, verbose=0)
    nets.assert_same_weights(trainer.teacher, plain.get_weights(), atol=1e-6)
    np.testing.assert_allclose(history.history["teacher_loss"], by_hand.history["loss"], rtol=1e-5)


class Orders(keras.layers.Layer):
    """Notes the samples of each training step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _note(self, x):
        self.seen.append(x[:, 0].copy())
        return np.float32(1)

    def call(self, x, training=False):
        if not training:
            return x
        return x * tf.ensure_shape(tf.numpy_function(self._note, [x], tf.float32), [])


def test_teacher_sees_another_order_in_each_epoch(split):
    """Keras' own shuffling of arrays repeats one order once a global seed is set."""

    def with_orders():
        return keras.Sequential([keras.Input((nets.FEATURES,)), Orders(), *build().layers])

    trainer, _ = train(split, with_orders, fit={"teacher_epochs": 3})
    x = split.members[0]
    epochs = np.split(np.concatenate(trainer.teacher.layers[0].seen), 3)
    for order in epochs:
        np.testing.assert_array_equal(np.sort(order), np.sort(x[:, 0]))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])


@keras.saving.register_keras_serializable(package="tests")
class WithStepOfItsOwn(keras.Sequential):
    """A model with a step as a user may write it."""

    def train_step(self, data):
        self.traced = True
        return super().train_step(data)


def test_teacher_with_a_step_of_its_own_keeps_it(split):
    trainer, _ = train(split, lambda: WithStepOfItsOwn(build().layers))
    assert trainer.teacher.traced


def test_same_seed_same_student_and_other_seed_another(split):
    first, again, other = (train(split, seed=seed)[0].student for seed in (1, 1, 2))
    nets.assert_same_weights(first, again.get_weights())
    assert not np.allclose(first.get_weights()[0], other.get_weights()[0])


@pytest.mark.full
def test_without_a_seed_the_global_seed_decides(split):
    students = []
    for _ in range(2):
        keras.utils.set_random_seed(8)
        students.append(train(split, seed=None)[0].student)
    nets.assert_same_weights(students[0], students[1].get_weights())


def test_members_never_reach_the_student(split):
    """Whatever the members are, a student of the same teacher comes out the same."""
    teacher = nets.classifier(seed=5)
    students = []
    for members in (split.members, split.nonmembers, (None, None)):
        trainer = DMPTrainer(build, teacher, selector=None, seed=3)
        trainer.compile("adam", LOGITS_LOSS)
        trainer.fit(*members, reference=split.reference, epochs=1, verbose=0)
        students.append(trainer.student)
    nets.assert_same_weights(students[0], students[1].get_weights())
    nets.assert_same_weights(students[0], students[2].get_weights())


def test_ready_teacher_is_not_retrained(split):
    teacher = nets.classifier(seed=5)
    weights = nets.snapshot(teacher)
    trainer, history = train(split, teacher=teacher)
    assert trainer.teacher is teacher
    assert not teacher.compiled
    nets.assert_same_weights(teacher, weights)
    assert not any(key.startswith("teacher_") for key in history.history)


@pytest.mark.parametrize(
    "argument", [{"teacher_epochs": 3}, {"class_weight": {0: 2.0}}, {"sample_weight": [1.0] * 80}]
)
def test_ready_teacher_refuses_what_would_train_one(split, argument):
    with pytest.raises(ValueError, match=f"`{next(iter(argument))}` to be None with a ready"):
        train(split, teacher=nets.classifier(seed=5), fit=argument)


def test_callbacks_see_their_own_phase(split):
    seen = {}

    class Sees(keras.callbacks.Callback):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def on_epoch_end(self, epoch, logs=None):
            seen.setdefault(self.name, []).append((epoch, type(self.model).__name__))

    train(split, fit={"callbacks": [Sees("student")], "teacher_callbacks": [Sees("teacher")]})
    assert seen == {
        "teacher": [(0, "Sequential"), (1, "Sequential")],
        "student": [(0, "DistillationTrainer"), (1, "DistillationTrainer")],
    }


def test_optimizers_are_copies_with_their_own_configuration(split):
    optimizer, teacher_optimizer = keras.optimizers.SGD(0.3), keras.optimizers.Adam(0.01)
    trainer = DMPTrainer(build, selector=None, seed=0)
    trainer.compile(optimizer, LOGITS_LOSS, teacher_optimizer=teacher_optimizer)
    trainer.fit(*split.members, reference=split.reference, epochs=1, verbose=0)
    assert not optimizer.built
    assert not teacher_optimizer.built
    assert isinstance(trainer.teacher.optimizer, keras.optimizers.Adam)
    assert float(trainer.teacher.optimizer.learning_rate) == pytest.approx(0.01)
    assert isinstance(trainer.student.optimizer, keras.optimizers.SGD)
    assert trainer.student.optimizer is not trainer.teacher.optimizer


def test_class_and_sample_weights_are_the_teachers(split):
    x, y = split.members
    only_first = {label: float(label == 0) for label in range(nets.CLASSES)}
    by_class, _ = train(split, fit={"class_weight": only_first, "shuffle": False})
    by_sample, _ = train(split, fit={"sample_weight": (y == 0).astype(float), "shuffle": False})
    nets.assert_same_weights(by_class.teacher, by_sample.teacher.get_weights(), atol=1e-6)
    unweighted, _ = train(split, fit={"shuffle": False})
    assert not np.allclose(by_class.teacher.get_weights()[0], unweighted.teacher.get_weights()[0])
    assert len(x) == 80


class OfNames(nets.Pairs):
    """A `PyDataset` whose labels are in a dictionary if there are names."""

    def __init__(self, columns, names):
        x, y, *weights = columns
        super().__init__(x, y["out"] if names else y, *weights, batch_size=16)
        self.names = names

    def __getitem__(self, index):
        x, y, *weights = super().__getitem__(index)
        return x, {"out": y} if self.names else y, *weights


FORMS = ("classes", "column", "rows", "booleans", "dictionary")


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("arrays", "classes"),
        ("tf.data", "rows"),
        ("PyDataset", "dictionary"),
        *(
            pytest.param(kind, form, marks=pytest.mark.full)
            for kind in ("arrays", "tf.data", "PyDataset")
            for form in FORMS
        ),
    ],
)
def test_weights_of_some_classes_equal_weights_of_samples(split, kind, form):
    """Keras' own `class_weight` fails in the first step, or refuses sample weights beside it."""
    x, y = split.members
    if form == "booleans":
        y = y > 1
    weights = np.linspace(0.5, 2, len(y)).astype("float32")
    class_weight = {1: 3.0}
    of_samples = np.where(y == 1, 3, 1) * weights
    labels = {
        "classes": y,
        "booleans": y,
        "column": y[:, None].astype("float32"),
        "rows": np.eye(nets.CLASSES, dtype="float32")[y.astype(int)],
        "dictionary": {"out": y},
    }[form]
    loss = LOGITS_LOSS
    if form == "rows":
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)

    def trained(columns, **fit):
        trainer = DMPTrainer(build, selector=None, seed=3)
        trainer.compile(keras.optimizers.SGD(0.2), loss)
        if kind == "tf.data":
            columns = [tf.data.Dataset.from_tensor_slices(tuple(columns)).batch(16)]
        elif kind == "PyDataset":
            names = list(labels) if isinstance(labels, dict) else None
            columns = [OfNames(columns, names)]
        elif len(columns) == 3:
            *columns, fit["sample_weight"] = columns
        fit = {"epochs": 1, "batch_size": 16, "shuffle": False, "verbose": 0, **fit}
        trainer.fit(*columns, reference=split.reference, **fit)
        return trainer.teacher

    expected = trained([x, labels, of_samples.astype("float32")])
    found = trained([x, labels, weights], class_weight=class_weight)
    nets.assert_same_weights(found, expected.get_weights(), atol=1e-6)


@pytest.mark.parametrize("kind", ["tf.data", pytest.param("PyDataset", marks=pytest.mark.full)])
def test_datasets_equal_arrays(split, kind):
    def dataset(*columns):
        if kind == "tf.data":
            return tf.data.Dataset.from_tensor_slices(columns).batch(16)
        return nets.Pairs(*columns, batch_size=16)

    arrays, _ = train(split, fit={"shuffle": False, "validation_data": split.validation})
    trainer = DMPTrainer(build, selector=None, seed=3)
    trainer.compile(keras.optimizers.SGD(0.2), LOGITS_LOSS, metrics=["accuracy"])
    reference = dataset(split.reference, np.zeros(len(split.reference), int))
    trainer.fit(
        dataset(*split.members),
        reference=reference,
        epochs=2,
        batch_size=16,
        shuffle=False,
        verbose=0,
        validation_data=dataset(*split.validation),
    )
    nets.assert_same_weights(trainer.teacher, arrays.teacher.get_weights(), atol=1e-6)
    nets.assert_same_weights(trainer.student, arrays.student.get_weights(), atol=1e-6)


@pytest.mark.parametrize(
    ("units", "activation", "loss"),
    [
        (nets.CLASSES, None, LOGITS_LOSS),
        pytest.param(nets.CLASSES, "softmax", SOFTMAX_LOSS, marks=pytest.mark.full),
        pytest.param(
            nets.CLASSES,
            "softmax",
            keras.losses.SparseCategoricalCrossentropy(),
            marks=pytest.mark.full,
        ),
        pytest.param(1, "sigmoid", "binary_crossentropy", marks=pytest.mark.full),
        pytest.param(
            1, None, keras.losses.BinaryCrossentropy(from_logits=True), marks=pytest.mark.full
        ),
    ],
)
def test_heads_of_tutorials_just_work(split, units, activation, loss):
    labels = {name: getattr(split, name) for name in ("members", "nonmembers", "validation")}
    if units == 1:
        labels = {name: (x, (y > 1).astype(int)) for name, (x, y) in labels.items()}
    trainer = DMPTrainer(lambda: build(units, activation), selector=None, seed=0)
    metric = (
        keras.metrics.BinaryAccuracy(threshold=0.0)
        if (units, activation) == (1, None)
        else ("accuracy")
    )
    trainer.compile(keras.optimizers.Adam(0.02), loss, metrics=[metric])
    trainer.fit(
        *labels["members"],
        reference=split.reference,
        epochs=25,
        verbose=0,
        validation_data=labels["validation"],
    )
    _, accuracy = trainer.evaluate(*labels["nonmembers"], verbose=0)
    x, y = labels["nonmembers"]
    outputs = trainer.predict(x, verbose=0)
    threshold = 0.5 if activation else 0.0
    predicted = outputs[:, 0] > threshold if units == 1 else outputs.argmax(1)
    assert accuracy == pytest.approx(np.mean(predicted == y), abs=1e-6)
    of_teacher = trainer.teacher.predict(x, verbose=0)
    of_teacher = of_teacher[:, 0] > threshold if units == 1 else of_teacher.argmax(1)
    assert np.mean(predicted == of_teacher) > 0.7


@pytest.mark.full
def test_one_hot_labels_and_categorical_loss(split):
    x, y = split.members
    one_hot = np.eye(nets.CLASSES)[y]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    trainer = DMPTrainer(build, selector=None, seed=3)
    trainer.compile(keras.optimizers.SGD(0.2), loss, metrics=["accuracy"])
    validation = (split.validation[0], np.eye(nets.CLASSES)[split.validation[1]])
    fit = {"reference": split.reference, "epochs": 2, "batch_size": 16, "verbose": 0}
    history = trainer.fit(x, one_hot, validation_data=validation, **fit).history
    integers, of_integers = train(split, fit={"validation_data": split.validation})
    nets.assert_same_weights(trainer.student, integers.student.get_weights(), atol=1e-6)
    np.testing.assert_allclose(history["val_accuracy"], of_integers.history["val_accuracy"])


def test_dictionary_inputs():
    def two_inputs():
        inputs = {name: keras.Input((3,), name=name) for name in ("left", "right")}
        joined = layers.Concatenate()([inputs["left"], inputs["right"]])
        return keras.Model(inputs, layers.Dense(3)(joined))

    rng = np.random.default_rng(0)
    parts = [
        {name: rng.normal(size=(40, 3)).astype("float32") for name in ("left", "right")}
        for _ in range(2)
    ]
    trainer = DMPTrainer(
        two_inputs, selector=EntropyReferenceSelector(size=20, order="random"), seed=0
    )
    trainer.compile("adam", LOGITS_LOSS)
    trainer.fit(parts[0], rng.integers(0, 3, 40), reference=parts[1], epochs=1, verbose=0)
    assert trainer.predict(parts[1], verbose=0).shape == (40, 3)
    assert trainer.selector.reference["left"].shape == (20, 3)


def test_dictionaries_go_to_inputs_by_name():
    """The model lists its inputs in another order than a dictionary is flattened in."""

    def two_inputs():
        title, body = keras.Input((3,), name="title"), keras.Input((5,), name="body")
        return keras.Model([title, body], layers.Dense(3)(layers.Concatenate()([title, body])))

    rng = np.random.default_rng(0)
    parts = [{"title": rng.normal(size=(40, 3)), "body": rng.normal(size=(40, 5))} for _ in "ab"]
    trainer = DMPTrainer(two_inputs, selector=None, seed=0)
    trainer.compile("adam", LOGITS_LOSS)
    labels = rng.integers(0, 3, 40)
    trainer.fit(parts[0], labels, reference=parts[1], epochs=1, verbose=0)
    with pytest.raises(ValueError, match="40 of 40 samples of `reference` are members"):
        trainer.fit(parts[0], labels, reference=parts[0], verbose=0)


def test_a_dataset_of_reference_samples_keeps_its_batch_size(split):
    steps = nets.Steps()
    reference = tf.data.Dataset.from_tensor_slices(split.reference).batch(100)
    fit = {"reference": reference, "batch_size": None, "epochs": 1, "callbacks": [steps]}
    train(split, fit=fit)
    assert len(steps.losses) == 2


def test_a_reference_beyond_the_memory_limit_gives_the_same_student(split):
    dataset = tf.data.Dataset.from_tensor_slices(split.reference).batch(16)
    settings = {"label_format": "float32", "selector": EntropyReferenceSelector(size=160)}
    in_memory, _ = train(split, fit={"reference": dataset}, **settings)
    on_disk, _ = train(split, fit={"reference": dataset}, memory_limit=0, **settings)
    assert isinstance(on_disk.selector.reference, np.memmap)
    nets.assert_same_weights(on_disk.student, nets.snapshot(in_memory.student))


@pytest.mark.parametrize(
    "wrap", [lambda c: c, lambda c: [[c]], lambda c: keras.callbacks.CallbackList([c])]
)
def test_callbacks_in_all_forms_of_keras(split, wrap):
    steps = nets.Steps()
    train(split, fit={"callbacks": wrap(steps), "epochs": 1})
    assert len(steps.losses) == -(-len(split.reference) // 16)


def test_members_of_a_py_dataset_are_shuffled(split):
    order = []

    class Recorded(nets.Pairs):
        def __getitem__(self, index):
            order.append(index)
            return super().__getitem__(index)

    trainer = DMPTrainer(build, selector=None, seed=3)
    trainer.compile("sgd", LOGITS_LOSS)
    members = Recorded(*split.members, batch_size=8)
    trainer.fit(members, reference=split.reference, epochs=3, verbose=0)
    assert order[-10:] != sorted(order[-10:])


def test_a_fit_that_breaks_off_leaves_no_older_student(split):
    class Breaks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    trainer, _ = train(split)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(*split.members, reference=split.reference, callbacks=[Breaks()], verbose=0)
    with pytest.raises(ValueError, match="Expected `fit` to have finished"):
        _ = trainer.student


@pytest.mark.parametrize(
    "metrics",
    [
        [keras.metrics.sparse_categorical_accuracy],
        {"output": ["sparse_categorical_accuracy"]},
        [keras.metrics.SparseCategoricalAccuracy(name="sparse_categorical_accuracy")],
        [keras.metrics.SparseCategoricalAccuracy],
    ],
    ids=["function", "dictionary", "instance", "class"],
)
def test_sparse_metrics_in_all_forms_of_keras(split, metrics):
    def named():
        entry = keras.Input((nets.FEATURES,))
        return keras.Model(entry, layers.Dense(nets.CLASSES, name="output")(entry))

    trainer = DMPTrainer(named, selector=None, seed=3)
    trainer.compile("sgd", LOGITS_LOSS, metrics=metrics)
    history = trainer.fit(
        *split.members,
        reference=split.reference,
        epochs=1,
        verbose=0,
        validation_data=split.validation,
    ).history
    predicted = trainer.predict(split.validation[0], verbose=0).argmax(1)
    # By the name that it has in the teacher's logs too, which callbacks look for.
    assert history["val_sparse_categorical_accuracy"][0] == pytest.approx(
        np.mean(predicted == split.validation[1]), abs=1e-6
    )
    assert "teacher_val_sparse_categorical_accuracy" in history


def test_metrics_of_integer_labels_without_a_counterpart(split):
    """Keras' own, like those of a user, get labels in the form of `fit`."""
    iou = keras.metrics.MeanIoU(nets.CLASSES, sparse_y_pred=False, name="iou")
    trainer = DMPTrainer(build, selector=None, seed=3)
    trainer.compile("sgd", LOGITS_LOSS, metrics=[iou])
    history = trainer.fit(
        *split.members, reference=split.reference, validation_data=split.validation, verbose=0
    )
    found = trainer.student.evaluate(*split.validation, verbose=0, return_dict=True)
    assert history.history["val_iou"] == pytest.approx([found["iou"]], rel=1e-6)


@pytest.mark.parametrize("name", ["ce", "crossentropy"])
def test_names_that_keras_refuses_in_the_first_step(name):
    with pytest.raises(ValueError, match=rf"Expected `metrics` .* Received: metrics=\['{name}'\]"):
        DMPTrainer(build).compile("sgd", LOGITS_LOSS, metrics=[name])


# Initial weights


def seeded_builder():
    keras.utils.set_random_seed(0)
    return build()


def seeded_initializers():
    initializer = keras.initializers.GlorotUniform(seed=1)
    return keras.Sequential(
        [keras.Input((nets.FEATURES,)), layers.Dense(nets.CLASSES, kernel_initializer=initializer)]
    )


@pytest.mark.filterwarnings("ignore:`model` gave teacher and student the same")
@pytest.mark.parametrize(
    "model",
    [build, seeded_builder, seeded_initializers, seeded_builder(), seeded_initializers()],
    ids=["callable", "callable sets seed", "callable with seeds", "model", "model with seeds"],
)
def test_initial_weights_differ(split, model, monkeypatch):
    starts = {}
    fit = keras.Model.fit

    def recording_fit(self, *args, **kwargs):
        student = getattr(self, "student", None)
        starts["teacher" if student is None else "student"] = nets.snapshot(student or self)
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "fit", recording_fit)
    monkeypatch.setattr(keras.Sequential, "fit", recording_fit)
    keras.utils.set_random_seed(0)
    train(split, model)
    kernels = [
        (mine, theirs)
        for mine, theirs in zip(starts["student"], starts["teacher"], strict=True)
        if mine.ndim == 2
    ]
    assert kernels
    for mine, theirs in kernels:
        assert not np.isclose(mine, theirs).any()


def test_redrawn_initial_weights_warn(split):
    with pytest.warns(PrivacyWarning, match="The student's weights were redrawn"):
        train(split, seeded_builder)


@pytest.mark.parametrize("trainable", [True, False])
def test_partly_shared_initial_weights_warn(split, trainable):
    public = np.random.default_rng(0).normal(size=(nets.FEATURES, nets.HIDDEN))

    def pretrained():
        model = build()
        model.layers[0].set_weights([public, np.zeros(nets.HIDDEN)])
        model.layers[0].trainable = trainable
        return model

    with pytest.warns(PrivacyWarning, match=r"share \d+% of their initial weights"):
        train(split, pretrained)


def test_a_callable_that_returns_one_model_is_refused(split):
    model = build()
    with pytest.raises(ValueError, match=r"build a new model.*on every call"):
        train(split, lambda: model)


def test_a_model_is_cloned_and_left_alone(split):
    model = build()
    weights = nets.snapshot(model)
    trainer, _ = train(split, model)
    nets.assert_same_weights(model, weights)
    assert not model.compiled
    assert trainer.student is not model
    assert trainer.teacher is not model


def test_adapted_normalization_is_kept_with_a_warning(split):
    normalization = layers.Normalization()
    normalization.adapt(split.reference * 3 + 2)
    model = keras.Sequential(
        [keras.Input((nets.FEATURES,)), normalization, layers.Dense(nets.CLASSES)]
    )
    with pytest.warns(PrivacyWarning, match="adapted layers normalization"):
        trainer, _ = train(split, model)
    for trained in (trainer.student, trainer.teacher):
        np.testing.assert_allclose(
            trained.layers[0](split.reference), normalization(split.reference), rtol=1e-6
        )


def test_adapted_layers_inside_other_layers_are_kept_too(split):
    @keras.saving.register_keras_serializable(package="test_trainer")
    class Wrapped(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = layers.Normalization()

        def build(self, shape):
            if not self.inner.built:
                self.inner.build(shape)

        def call(self, inputs):
            return self.inner(inputs)

    wrapped = Wrapped()
    wrapped.inner.adapt(split.reference * 3 + 2)
    model = keras.Sequential([keras.Input((nets.FEATURES,)), wrapped, layers.Dense(nets.CLASSES)])
    with pytest.warns(PrivacyWarning, match="statistics of the adapted layers"):
        trainer, _ = train(split, model)
    np.testing.assert_allclose(
        trainer.student.layers[0](split.reference), wrapped(split.reference), rtol=1e-6
    )


# What is released


@pytest.mark.full
def test_student_loads_where_the_library_is_not_installed(split, tmp_path):
    trainer, _ = train(split)
    trainer.save(tmp_path / "student.keras")
    trainer.student.export(str(tmp_path / "exported"), verbose=False)
    x, y = split.nonmembers
    np.savez(tmp_path / "data.npz", x=x, y=y, outputs=trainer.predict(x, verbose=0))
    program = f"""
        import sys
        sys.modules["keras_dmp"] = None  # importing it raises ImportError
        import keras, numpy as np, tensorflow as tf
        data = np.load({str(tmp_path / "data.npz")!r})
        model = keras.models.load_model({str(tmp_path / "student.keras")!r})
        assert np.allclose(model.predict(data["x"], verbose=0), data["outputs"], atol=1e-6)
        model.evaluate(data["x"], data["y"], verbose=0)
        model.fit(data["x"], data["y"], verbose=0)
        exported = tf.saved_model.load({str(tmp_path / "exported")!r})
        assert np.allclose(exported.serve(data["x"]), data["outputs"], atol=1e-6)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_student_is_a_plain_model_compiled_as_asked(split):
    trainer, _ = train(split)
    assert type(trainer.student) is keras.Sequential
    assert trainer.student.loss is LOGITS_LOSS
    x, y = split.nonmembers
    assert trainer.evaluate(x, y, verbose=0) == trainer.student.evaluate(x, y, verbose=0)
    np.testing.assert_array_equal(
        trainer.predict(x, verbose=0), trainer.student.predict(x, verbose=0)
    )


def test_save_refuses_before_fit_and_paths_that_cannot_be_written(split, tmp_path):
    trainer = DMPTrainer(build, selector=None)
    for read in (lambda: trainer.save(tmp_path / "a.keras"), lambda: trainer.student):
        with pytest.raises(ValueError, match="Expected `fit` to have finished"):
            read()
    with pytest.raises(ValueError, match="Expected `fit` to have trained a teacher"):
        _ = trainer.teacher
    trainer, _ = train(split)
    with pytest.raises(OSError, match="Expected `path` to be a path that can be written"):
        trainer.save(tmp_path / "missing" / "a.keras")
    assert list(tmp_path.iterdir()) == []


# Overlap


def with_members(part, members, dtype="float64"):
    return np.concatenate([part, members[:5]]).astype(dtype)


def test_members_in_the_reference_are_refused_with_their_count(split):
    reference = with_members(split.reference, split.members[0])
    with pytest.raises(ValueError, match=r"5 of 205 samples of `reference` are members"):
        train(split, fit={"reference": reference})


def test_members_in_validation_data_are_refused(split):
    x = with_members(split.validation[0], split.members[0], "float32")
    y = np.concatenate([split.validation[1], split.members[1][:5]])
    for data in ((x, y), tf.data.Dataset.from_tensor_slices((x, y)).batch(7)):
        with pytest.raises(ValueError, match=r"5 of 45 samples of `validation` are members"):
            train(split, fit={"validation_data": data})


def test_overlap_is_found_with_a_ready_teacher_too(split):
    reference = with_members(split.reference, split.members[0])
    with pytest.raises(ValueError, match="5 of 205 samples"):
        train(split, teacher=nets.classifier(seed=5), fit={"reference": reference})


def test_overlap_can_be_allowed_with_a_warning(split):
    reference = with_members(split.reference, split.members[0])
    with pytest.warns(PrivacyWarning, match="5 of 205 samples of `reference` are members") as found:
        train(split, fit={"reference": reference, "allow_overlap": True})
    assert [warning.filename for warning in found] == [__file__]


def test_groups_of_members_are_refused_elsewhere():
    x, y = nets.prototypes(400)
    households = np.arange(400) // 4
    split = split_private(x, y, members=80, nonmembers=80, validation=40, groups=households, seed=0)
    train(split, fit={"groups": split.groups, "validation_data": split.validation})
    groups = {**split.groups, "reference": split.groups["reference"].copy()}
    groups["reference"][:3] = split.groups["members"][0]
    with pytest.raises(ValueError, match=r"3 of \d+ samples of `reference` belong to a group"):
        train(split, fit={"groups": groups})
    with pytest.raises(ValueError, match="Expected `groups` to map 'members'"):
        train(split, fit={"groups": households})
    with pytest.raises(ValueError, match=r"Expected `groups\['members'\]` to have shape \(80,\)"):
        train(split, fit={"groups": {**split.groups, "members": [1, 2]}})


# Bad input: refused before any step, nothing trained


def spoiled(x, value):
    x = x.copy()
    x[3, 1] = value
    return x


BAD_DATA = {
    "NaN member": (lambda s: {"x": spoiled(s.members[0], np.nan)}, "Expected `x` to be finite"),
    "infinite reference": (
        lambda s: {"reference": spoiled(s.reference, np.inf)},
        "Expected `reference` to be finite",
    ),
    "no members": (lambda s: {"x": s.members[0][:0], "y": s.members[1][:0]}, "at least 1 sample"),
    "one member": (lambda s: {"x": s.members[0][:1], "y": s.members[1][:1]}, "2 samples"),
    "one reference sample": (lambda s: {"reference": s.reference[:1]}, "at least 2 samples"),
    "no reference": (lambda s: {"reference": None}, "Expected `reference` .*reference=None"),
    "x without labels": (lambda s: {"y": None}, "Expected `y` to be class labels"),
    "unequal lengths": (lambda s: {"y": s.members[1][:-1]}, "`x` and `y` to have the same"),
    "label outside": (lambda s: {"y": s.members[1] + 1}, r"labels `y` to lie in 0\.\.3"),
    "half labels": (lambda s: {"y": s.members[1] + 0.5}, "`y` to be whole-number class labels"),
    "reference shape": (
        lambda s: {"reference": s.reference[:, :-1]},
        r"`reference` to have shape \(None, 12\)",
    ),
    "reference dtype": (
        lambda s: {"reference": (s.reference * 255).astype("uint8")},
        "Expected `reference` to have the shape and dtype of `x`",
    ),
    "weights too few": (
        lambda s: {"sample_weight": np.ones(7)},
        "`x` and `sample_weight` to have the same",
    ),
    "NaN weight": (
        lambda s: {"sample_weight": np.full(80, np.nan)},
        "Expected `sample_weight` to be finite",
    ),
    "unbatched members": (
        lambda s: {"x": tf.data.Dataset.from_tensor_slices(s.members), "y": None},
        "an unbatched dataset",
    ),
    "endless members": (
        lambda s: {"x": tf.data.Dataset.from_tensor_slices(s.members).batch(8).repeat(), "y": None},
        "an infinite dataset",
    ),
    "empty dataset": (
        lambda s: {
            "x": tf.data.Dataset.from_tensor_slices(s.members).batch(8).take(0),
            "y": None,
        },
        "an empty dataset",
    ),
    "validation labels outside": (
        lambda s: {"validation_data": (s.validation[0], s.validation[1] + 3)},
        "labels `validation_data labels` to lie in",
    ),
    "validation without labels": (
        lambda s: {"validation_data": (s.validation[0],)},
        "Expected `validation_data labels` to be class labels",
    ),
    "epochs": (lambda s: {"epochs": 0}, "Expected `epochs` to be a whole number of at least 1"),
    "batch size": (lambda s: {"batch_size": -2}, "Expected `batch_size` to be a whole number"),
    "no members and no teacher": (lambda s: {"x": None, "y": None}, "or a ready `teacher`"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_before_any_step(split, case, monkeypatch):
    monkeypatch.setattr(keras.Sequential, "fit", lambda *_, **__: pytest.fail("trained"))
    change, message = BAD_DATA[case]
    trainer = DMPTrainer(build, selector=None)
    trainer.compile("adam", LOGITS_LOSS)
    x, y = split.members
    arguments = {"x": x, "y": y, "reference": split.reference, "verbose": 0}
    with pytest.raises(ValueError, match=message):
        trainer.fit(**{**arguments, **change(split)})
    with pytest.raises(ValueError, match="Expected `fit` to have finished"):
        _ = trainer.student


BAD_MODELS = {
    "softmax head, logits loss": (
        lambda: build(activation="softmax"),
        LOGITS_LOSS,
        "returns probabilities",
    ),
    "linear head, probability loss": (build, SOFTMAX_LOSS, "returns logits"),
    "regression": (lambda: build(1), "mse", "to end in a classification head"),
    "multi-label": (lambda: build(4, "sigmoid"), "binary_crossentropy", "a multi-label head"),
    "multi-output": (
        lambda: keras.Model(
            entry := keras.Input((nets.FEATURES,)), [layers.Dense(2)(entry), layers.Dense(2)(entry)]
        ),
        LOGITS_LOSS,
        "to have one output",
    ),
    "no classes": (
        lambda: keras.Sequential([keras.Input((nets.FEATURES,)), layers.Reshape((3, 4))]),
        LOGITS_LOSS,
        "to end in a classification head",
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models_are_refused_before_any_step(split, case, monkeypatch):
    monkeypatch.setattr(keras.Sequential, "fit", lambda *_, **__: pytest.fail("trained"))
    model, loss, message = BAD_MODELS[case]
    with pytest.raises(ValueError, match=message):
        train(split, model, loss=loss)


def test_bad_settings_and_teachers(split, monkeypatch):
    monkeypatch.setattr(keras.Sequential, "fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(TypeError, match=r"Expected `model` to be a keras\.Model or a callable"):
        DMPTrainer("resnet")
    with pytest.raises(TypeError, match=r"Expected `teacher` to be a keras\.Model"):
        DMPTrainer(build, teacher="teacher.keras")
    with pytest.raises(TypeError, match="Expected `selector` to be"):
        DMPTrainer(build, selector=10_000)
    with pytest.raises(ValueError, match="Expected `temperature` to be a finite number above 0"):
        DMPTrainer(build, temperature=0)
    with pytest.raises(ValueError, match="Expected `labels` to be one of 'soft', 'hard'"):
        DMPTrainer(build, labels="firm")
    with pytest.raises(ValueError, match="Expected `temperature` to be 1 with labels='hard'"):
        DMPTrainer(build, labels="hard", temperature=2.0)
    with pytest.raises(TypeError, match=r"Expected the callable `model` to return a keras\.Model"):
        train(split, lambda: None)
    with pytest.raises(ValueError, match="Expected `size` to be at most 200, "):
        train(split, selector=EntropyReferenceSelector(size=201))
    with pytest.raises(ValueError, match="to have no `pool` of its own"):
        train(split, selector=EntropyReferenceSelector(size=9, pool=split.reference))
    with pytest.raises(ValueError, match="Expected `size` to be at most 200, "):
        train(split, fit={"callbacks": [EntropyReferenceSelector(size=201)]})
    two = [EntropyReferenceSelector(size=9) for _ in range(2)]
    with pytest.raises(ValueError, match=r"at most one .* as the `selector` of the trainer"):
        train(split, selector=two[0], fit={"callbacks": two[1:]})
    with pytest.raises(ValueError, match=r"among the callbacks\. Received: 2 selectors"):
        train(split, fit={"callbacks": two})
    with pytest.raises(TypeError, match="Expected `callbacks` to be Keras callbacks"):
        train(split, fit={"callbacks": ["early_stopping"]})
    trainer = DMPTrainer(build, teacher=nets.classifier(), selector=None)
    trainer.compile("sgd", LOGITS_LOSS)
    with pytest.raises(ValueError, match=r"Expected `x` to be the members, since `groups`.*x=None"):
        trainer.fit(reference=split.reference, groups={"members": [1]})
    with pytest.raises(ValueError, match=r"Received: a teacher with .* and a student with"):
        train(split, teacher=nets.classifier(7))
    with pytest.raises(ValueError, match=r"Received: a teacher with .* and a student with"):
        train(split, teacher=nets.classifier(activation="softmax"))


def test_uncompiled_trainer_and_missing_loss(split):
    trainer = DMPTrainer(build, selector=None)
    with pytest.raises(ValueError, match="Expected `compile` to be called before `fit`"):
        trainer.fit(*split.members, reference=split.reference)
    with pytest.raises(ValueError, match="Expected `loss` to be the teacher's loss"):
        trainer.compile("adam")
    with pytest.raises(TypeError, match="Expected keyword arguments among"):
        trainer.compile("adam", LOGITS_LOSS, loss_weights=[1.0])


def test_a_clean_run_warns_of_nothing(split):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(split, fit={"validation_data": split.validation})


@pytest.mark.full
def test_lists_of_inputs_are_tuples_of_inputs(split):
    def two_inputs():
        inputs = [keras.Input((nets.FEATURES,)), keras.Input((nets.FEATURES,))]
        joined = keras.layers.Concatenate()(inputs)
        return keras.Model(inputs, keras.layers.Dense(nets.CLASSES)(joined))

    def trained(kind):
        def both(x):
            return kind([x, np.flip(x, axis=1).copy()])

        trainer = DMPTrainer(two_inputs, selector=None, seed=3)
        trainer.compile("adam", LOGITS_LOSS, metrics=["accuracy"])
        (x, y), validation = split.members, split.validation
        trainer.fit(
            both(x),
            y,
            reference=both(split.reference),
            validation_data=(both(validation[0]), validation[1]),
            epochs=2,
            verbose=0,
        )
        return trainer.student

    nets.assert_same_weights(trained(list), trained(tuple).get_weights())


def test_export_writes_the_student_alone(split, tmp_path):
    trainer, _ = train(split)
    trainer.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    x = split.nonmembers[0]
    np.testing.assert_allclose(served.serve(x), trainer.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    assert leaks.occurrences(trainer.student, tmp_path / "served") > 0
    assert leaks.occurrences(trainer.teacher, tmp_path / "served") == 0

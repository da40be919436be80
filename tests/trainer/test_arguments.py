"""Every argument is checked for type and range before any training, by name and value."""

import re

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf

from keras_dmp import DistillationTrainer, DMPTrainer, EntropyReferenceSelector, split_private
from keras_dmp.losses import SoftTargetKLDivergence

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
NOT_COUNTS = (0, -1, 2.5, "3", True)
NOT_BOOLEANS = ("no", 0, 1, None)
NOT_TEMPERATURES = (0, -1.0, np.inf, np.nan, 1e-30, 1e30, "2", None)


def rows(argument, values):
    return [(argument, value) for value in values]


def ids(value):
    return value if isinstance(value, str) else repr(value)[:24]


def build():
    return keras.Sequential([keras.Input((nets.FEATURES,)), keras.layers.Dense(nets.CLASSES)])


@pytest.fixture(scope="module")
def split():
    x, y = nets.prototypes(120)
    return split_private(x, y, members=40, nonmembers=20, validation=20, seed=0)


@pytest.fixture
def nothing_trained(monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(keras.Model, "train_step", lambda *_, **__: pytest.fail("trained"))


def refused(argument, value):
    """Expect an error of a built-in type that names the argument and shows the value."""
    pattern = rf"(?s)`{argument}`.*Received: .*{re.escape(f'{argument}={value!r}')}"
    return pytest.raises((TypeError, ValueError), match=pattern)


SETTINGS = [
    *rows("temperature", NOT_TEMPERATURES),
    *rows("label_temperature", NOT_TEMPERATURES),
    *rows("labels", ("firm", 1)),
    *rows("compensate_temperature", NOT_BOOLEANS),
    *rows("from_logits", ("yes", 0, 1)),
    *rows("label_format", (0, -1, 1.5, "float64", True)),
    *rows("memory_limit", (-1, 0.5, "1GB", True)),
]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *SETTINGS,
        *rows("model", ("resnet", None)),
        *rows("consensus", (4, "votes")),
        *rows("selector", (10_000, "lowest", True)),
        *rows("seed", (-1, 0.5, "1", True, 2**32)),
        *rows("directory", (5, b"run")),
    ],
    ids=ids,
)
def test_dmp_trainer(argument, value):
    with refused(argument, value):
        DMPTrainer(**{"model": build, "seed": 1, argument: value})


COMPILE = [
    *rows("steps_per_execution", NOT_COUNTS),
    *rows("run_eagerly", NOT_BOOLEANS),
    *rows("auto_scale_loss", NOT_BOOLEANS),
    *rows("fast_loop", NOT_BOOLEANS),
    *rows("jit_compile", ("yes", 1, 0)),
    *rows("metrics", ("no_such_metric", ["accuracy", "no_such_metric"], [3])),
    *rows("weighted_metrics", ("no_such_metric", [3])),
]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *COMPILE,
        *rows("optimizer", ("no_such_optimizer", 3)),
        *rows("student_optimizer", ("no_such_optimizer", 3)),
        *rows("teacher_optimizer", ("no_such_optimizer", 3)),
        *rows("loss", (None, "no_such_loss", 3)),
        *rows("loss_weights", ([1.0],)),
    ],
    ids=ids,
)
def test_compile_of_dmp_trainer(argument, value):
    arguments = {"optimizer": "sgd", "loss": LOSS, argument: value}
    trainer = DMPTrainer(build)
    if argument == "loss_weights":  # not an argument of it
        with pytest.raises(TypeError, match=r"Received: loss_weights=\[1\.0\]"):
            trainer.compile(**arguments)
        return
    with refused(argument, value):
        trainer.compile(**arguments)


FIT = [
    *rows("batch_size", NOT_COUNTS),
    *rows("validation_batch_size", NOT_COUNTS),
    *rows("validation_freq", (*NOT_COUNTS, [1, 0], None)),
    *rows("shuffle", (*NOT_BOOLEANS, "batch")),
    *rows("verbose", ("loud", 3, None)),
    *rows("callbacks", ("early_stopping", [3])),
]
FIT_OF_DMP = [
    *FIT,
    *rows("epochs", NOT_COUNTS),
    *rows("teacher_epochs", NOT_COUNTS),
    *rows("teacher_callbacks", ("early_stopping", [3])),
    *rows("allow_overlap", NOT_BOOLEANS),
    *rows(
        "class_weight",
        (
            [1.0, 2.0],
            {},
            {"0": 1.0},
            {0: -1.0},
            {0: np.nan},
            {nets.CLASSES: 1.0},
            "balanced",
            dict.fromkeys(range(nets.CLASSES), 0.0),
        ),
    ),
]


@pytest.mark.parametrize(("argument", "value"), FIT_OF_DMP, ids=ids)
def test_fit_of_dmp_trainer(split, nothing_trained, argument, value):
    trainer = DMPTrainer(build)
    trainer.compile("sgd", LOSS)
    with refused(argument, value):
        trainer.fit(*split.members, reference=split.reference, **{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *FIT_OF_DMP[::4],
        *rows("temperatures", (2.0, "2", ())),
        *rows("label_temperatures", (0.5, ())),
        *rows("sizes", (4, ())),
        *rows("orders", ("lowest", ())),
        *rows("labels", ("soft", ())),
    ],
    ids=ids,
)
def test_sweep(split, nothing_trained, argument, value):
    trainer = DMPTrainer(build)
    trainer.compile("sgd", LOSS)
    data = {"reference": split.reference, "nonmembers": split.nonmembers}
    with refused(argument, value):
        trainer.sweep(*split.members, **data, **{argument: value})


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("temperature", (1e-30,)),
        ("label_temperature", (1e-30,)),
        ("size", ("all",)),
        ("order", ("best",)),
        ("label", ("firm",)),
    ],
)
@pytest.mark.parametrize("others", [{"sizes": (10,)}, {"sizes": (None,), "labels": ("hard",)}])
def test_values_in_a_sweep(split, nothing_trained, setting, values, others):
    """Also of settings that no point uses: an order of the whole pool, and hard labels' one."""
    trainer = DMPTrainer(build)
    trainer.compile("sgd", LOSS)
    lists = {**others, f"{setting}s": values}
    data = {"reference": split.reference, "nonmembers": split.nonmembers}
    with pytest.raises(ValueError, match=re.escape(f"={values[0]!r}")):
        trainer.sweep(*split.members, **data, **lists)


@pytest.mark.parametrize("part", ["x", "reference", "validation_data", "nonmembers"])
def test_data_in_a_form_that_the_model_does_not_take(split, nothing_trained, part):
    trainer = DMPTrainer(build)
    trainer.compile("sgd", LOSS)
    data = {
        "x": split.members[0],
        "y": split.members[1],
        "reference": split.reference,
        "validation_data": split.validation,
        "nonmembers": split.nonmembers,
    }
    given = data[part]
    data[part] = ({"a": given[0]}, given[1]) if isinstance(given, tuple) else {"a": given}
    with pytest.raises(ValueError, match=f"`{part}`.*Received: "):
        trainer.sweep(**data)


def test_callable_that_builds_other_outputs_each_time(split, nothing_trained):
    units = iter([nets.CLASSES, nets.CLASSES + 1])
    trainer = DMPTrainer(
        lambda: keras.Sequential([keras.Input((nets.FEATURES,)), keras.layers.Dense(next(units))])
    )
    trainer.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="Received: a teacher with 5 logits and a student"):
        trainer.fit(*split.members, reference=split.reference)


def test_more_label_classes_than_the_model_has(split, nothing_trained):
    trainer = DMPTrainer(build, label_format=nets.CLASSES)
    trainer.compile("sgd", LOSS)
    with refused("label_format", nets.CLASSES):
        trainer.fit(*split.members, reference=split.reference)


ROWS_LOSS = keras.losses.CategoricalCrossentropy(from_logits=True)


def own_loss(y_true, y_pred):
    del y_true
    return keras.ops.sum(y_pred, axis=-1)


@pytest.mark.parametrize(
    ("loss", "labels", "of_validation", "named"),
    [
        (LOSS, "rows", "classes", "`y`.*class numbers"),
        (LOSS, "classes", "rows", "`validation_data labels`.*class numbers"),
        (ROWS_LOSS, "classes", "rows", "`y`.*one-hot rows"),
        (ROWS_LOSS, "rows", "column", "`validation_data labels`.*one-hot rows"),
        ([ROWS_LOSS], "column", "rows", "`y`.*one-hot rows"),
        ({"out": "categorical_hinge"}, "classes", "rows", "`y`.*one-hot rows"),
        (own_loss, "classes", "rows", "`validation_data labels`.*class numbers"),
        (own_loss, "rows", "classes", "`validation_data labels`.*one-hot rows"),
    ],
)
@pytest.mark.parametrize("as_dataset", [False, True])
def test_labels_that_the_loss_does_not_take(
    split, nothing_trained, loss, labels, of_validation, named, as_dataset
):
    def formed(y, form):
        if form == "rows":
            return np.eye(nets.CLASSES)[y]
        return y[:, None] if form == "column" else y

    def dataset(x, y):
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)

    softmax = keras.Sequential([build(), keras.layers.Softmax()])
    trainer = DMPTrainer(softmax if isinstance(loss, dict) else build, from_logits=None)
    trainer.compile("sgd", loss)
    (x, y), (other_x, other_y) = split.members, split.validation
    members, validation = (x, formed(y, labels)), (other_x, formed(other_y, of_validation))
    if as_dataset:
        members, validation = (dataset(*members),), dataset(*validation)
    with pytest.raises(ValueError, match=f"{named}.*Received: shape"):
        trainer.fit(*members, reference=split.reference, validation_data=validation)


@pytest.mark.parametrize(
    "loss", [keras.losses.SparseCategoricalCrossentropy, [keras.losses.BinaryCrossentropy]]
)
def test_class_of_losses_is_checked_as_the_loss_that_keras_makes_of_it(
    split, nothing_trained, loss
):
    trainer = DMPTrainer(build)
    trainer.compile("sgd", loss)
    with pytest.raises(ValueError, match=r"from_logits|multi-label"):
        trainer.fit(*split.members, reference=split.reference)


class NeedsArgument(keras.losses.Loss):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale


class MetricThatNeedsArgument(keras.metrics.Mean):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale


@pytest.mark.parametrize(
    ("argument", "value"), [("loss", NeedsArgument), ("metrics", [MetricThatNeedsArgument])]
)
def test_class_that_keras_cannot_make_an_object_of(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}`.*NeedsArgument"):
        DMPTrainer(build).compile("sgd", **{"loss": LOSS, argument: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *SETTINGS,
        *rows("cache", NOT_BOOLEANS),
        *rows("drop_labels", NOT_BOOLEANS),
    ],
    ids=ids,
)
def test_distillation_trainer(argument, value):
    with refused(argument, value):
        DistillationTrainer(build(), **{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"), [*COMPILE, *rows("loss", ("categorical_crossentropy",))], ids=ids
)
def test_compile_of_distillation_trainer(argument, value):
    if (argument, value) == ("steps_per_execution", None):
        return
    with refused(argument, value):
        DistillationTrainer(build()).compile("sgd", **{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *FIT,
        *rows("epochs", (-1, 2.5, "3", True)),
        *rows("initial_epoch", (-1, 2.5, "3", True)),
        *rows("steps_per_epoch", (*NOT_COUNTS, 3)),
        *rows("validation_steps", NOT_COUNTS),
    ],
    ids=ids,
)
def test_fit_of_distillation_trainer(split, nothing_trained, argument, value):
    trainer = DistillationTrainer(build(), build())
    trainer.compile("sgd")
    with refused(argument, value):
        trainer.fit(split.reference, **{argument: value})


def test_validation_data_in_a_form_that_the_student_does_not_take(split, nothing_trained):
    trainer = DistillationTrainer(build(), build())
    trainer.compile("sgd")
    x, y = split.validation
    with pytest.raises(ValueError, match=r"`validation_data`.*Received: "):
        trainer.fit(split.reference, validation_data=({"a": x}, y))
    with pytest.raises(ValueError, match=r"`x`.*Received: "):
        trainer.fit({"a": split.reference})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *rows("size", NOT_COUNTS),
        *rows("fraction", (0, -0.5, 1.5, np.nan, "half", True)),
        *rows("max_entropy", (-1, np.inf, np.nan, "low", True)),
        *rows("order", ("best", None, 1)),
        *rows("balance_classes", NOT_BOOLEANS),
        *rows("seed", (-1, 0.5, None, True)),
        *rows("from_logits", ("yes", 0, 1)),
        *rows("batch_size", NOT_COUNTS),
    ],
    ids=ids,
)
def test_selector(argument, value):
    criterion = {} if argument in ("size", "fraction") else {"size": 4}
    with refused(argument, value):
        EntropyReferenceSelector(**{**criterion, argument: value})


@pytest.mark.parametrize("name", ["temperature", "label_temperature"])
@pytest.mark.parametrize("value", NOT_TEMPERATURES, ids=ids)
def test_loss(name, value):
    with refused(name, value):
        SoftTargetKLDivergence(**{name: value})


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
@pytest.mark.parametrize("label_temperature", [1e-6, 1e6])
@pytest.mark.parametrize("compensate_temperature", [False, True])
def test_temperatures_at_the_limits_train_finite_students(
    split, temperature, label_temperature, compensate_temperature
):
    student = build()
    trainer = DistillationTrainer(
        student,
        build(),
        temperature=temperature,
        label_temperature=label_temperature,
        compensate_temperature=compensate_temperature,
    )
    trainer.compile("sgd", run_eagerly=True)
    history = trainer.fit(split.reference, batch_size=40, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(np.isfinite(weight).all() for weight in student.get_weights())

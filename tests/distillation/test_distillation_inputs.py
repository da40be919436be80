"""Bad input to `DistillationTrainer`: a clear error, before any step."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from nets import distil

from keras_dmp import DistillationTrainer, EntropyReferenceSelector


def spoil(x, value):
    x = x.copy()
    x[[3, 5], [1, 2]] = value
    return x


def batched(*columns):
    return tf.data.Dataset.from_tensor_slices(columns if len(columns) > 1 else columns[0]).batch(32)


def assert_refused(message, student, x, y=None, *, error=ValueError, **options):
    """The error comes, no step is taken and no weight changes."""
    before = nets.snapshot(student)
    steps = nets.Steps()
    options["callbacks"] = [*options.get("callbacks", []), steps]
    with pytest.raises(error, match=message):
        distil(student, x, y, **options)
    assert not steps.losses
    nets.assert_same_weights(student, before)


BOTH = pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])

REFERENCES = {
    "nothing": (lambda x: None, "`x` to be reference samples. Received: x=None"),
    "NaN": (lambda x: spoil(x, np.nan), "`x` to be finite. .* in 2 of 96 samples"),
    "infinity": (lambda x: spoil(x, -np.inf), "`x` to be finite. .* in 2 of 96 samples"),
    "empty": (lambda x: x[:0], "`x` to have at least 1 sample. Received: 0 samples"),
    "one sample": (lambda x: x[:1], "`x` to have at least 2 samples. Received: 1"),
    "narrow": (lambda x: x[:, :-1], r"`x` to have shape \(None, 12\) .*shape \(96, 11\)"),
    "one axis": (lambda x: x[:, 0], r"`x` to have shape \(None, 12\)"),
    "strings": (lambda x: x.astype(str), "dtype float32, .*dtype string"),
    "objects": (lambda x: np.array([object()] * 4), r"objects of types \['object'\]"),
    "two arrays": (lambda x: [x, x], "`x` to be 1 arrays, .*Received: 2"),
    "unequal": (lambda x: [x, x[1:]], r"the same number of rows. Received: lengths \[95, 96\]"),
}


@BOTH
@pytest.mark.parametrize("name", REFERENCES)
def test_refuses_reference_arrays(reference, teacher, student, name, cache):
    make, message = REFERENCES[name]
    error = TypeError if name == "objects" else ValueError
    settings = {"cache": cache}
    assert_refused(
        message, student, make(reference), teacher=teacher, settings=settings, error=error
    )


@BOTH
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: tf.data.Dataset.from_tensor_slices(x), "an unbatched dataset .*; add"),
        (lambda x: nets.Pairs(x[:0]), "an empty dataset"),
        (lambda x: batched(x).take(0), "an empty dataset"),
        (lambda x: batched(x, x[:, 0]), r"labels. .* drop_labels=True .*a dataset of \(x, y\)"),
        (lambda x: nets.Pairs(x, x[:, 0]), "drop_labels=True"),
        (lambda x: batched(x[:, :-1]), r"`x` to have shape \(None, 12\)"),
        (lambda x: batched(spoil(x, np.nan)), "`x` to be finite"),
    ],
)
def test_refuses_datasets(reference, teacher, student, make, message, cache):
    settings = {"cache": cache}
    assert_refused(message, student, make(reference), teacher=teacher, settings=settings)


@pytest.mark.parametrize(
    "make", [lambda x: batched(x).repeat(), lambda x: nets.Pairs(x, endless=True)]
)
def test_refuses_endless_datasets(reference, teacher, student, make):
    assert_refused("an infinite dataset; remove", student, make(reference), teacher=teacher)


def test_an_endless_dataset_with_steps_streams(reference, teacher, student):
    _, history = distil(
        student,
        batched(reference).repeat(),
        teacher=teacher,
        settings={"cache": False},
        steps_per_epoch=3,
        epochs=2,
    )
    assert len(history["loss"]) == 2


def test_refuses_an_endless_dataset_without_steps(reference, teacher, student):
    endless, settings = batched(reference).repeat(), {"cache": False}
    assert_refused("infinite", student, endless, teacher=teacher, settings=settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda z: None, r"Expected a teacher, .* Received: teacher=None, y=None"),
        (lambda z: z.argmax(axis=1), "the teacher's outputs, floats .*dtype int64"),
        (lambda z: np.eye(4, dtype=int)[z.argmax(axis=1)], "never trained on labels"),
        (lambda z: spoil(z, np.nan), "`y` to be finite. .* for 2 of 96 samples"),
        (lambda z: spoil(z, np.inf), "`y` to be finite. .* for 2 of 96 samples"),
        (lambda z: z[:-1], "`x` and `y` to have the same number of samples. Received: 96 and 95"),
        (lambda z: z[:, :-1], r"`y` to have shape \(samples, 4\). Received: shape \(96, 3\)"),
        (lambda z: z[:, 0], r"`y` to have shape \(samples, 4\). Received: shape \(96,\)"),
        (nets.softmax, "`y` to be logits, .* Received: probabilities"),
        (lambda z: 100 * nets.softmax(z), "`y` to be logits, .* sum to about 100"),
    ],
)
def test_refuses_outputs(reference, teacher, student, make, message):
    outputs = make(np.array(teacher(reference)))
    assert_refused(message, student, reference, outputs)


def test_refuses_logits_for_a_softmax_student(reference, teacher):
    student = nets.classifier(activation="softmax", seed=12)
    outputs = np.array(teacher(reference))
    assert_refused("`y` to be probabilities, .* are not probabilities", student, reference, outputs)


@pytest.mark.parametrize(
    ("units", "activation", "settings", "message"),
    [
        (5, None, {}, "a teacher with 5 logits and a student with 4 logits"),
        (4, "softmax", {}, "a teacher with 4 probabilities and a student with 4 logits"),
        (1, None, {}, "a teacher with 1 logits and a student with 4 logits"),
        (4, "sigmoid", {}, "`teacher` to be a single-label classifier"),
        (4, None, {"from_logits": False}, "`student` returns logits"),
        (4, "softmax", {"from_logits": True}, "`teacher` returns probabilities"),
    ],
)
def test_refuses_models_that_do_not_match(reference, student, units, activation, settings, message):
    teacher = nets.classifier(units, activation, seed=11)
    assert_refused(message, student, reference, teacher=teacher, settings=settings)


def test_refuses_a_teacher_that_answers_in_per_cent(reference, student):
    core = nets.classifier(activation="softmax", seed=11)
    teacher = keras.Model(core.inputs, layers.Rescaling(100.0)(core.outputs[0]))
    message = "`teacher outputs` to be logits, .* divide percentages .* sum to about 100"
    assert_refused(message, student, reference, teacher=teacher)


def headless(kind):
    inputs = keras.Input((nets.FEATURES,))
    hidden = layers.Dense(4)(inputs)
    outputs = {
        "two outputs": [hidden, layers.Dense(4)(inputs)],
        "multi-label": layers.Activation("sigmoid")(hidden),
        "softmax of one": layers.Dense(1, activation="softmax")(inputs),
        "no head": layers.Reshape((2, 2))(hidden),
        "relu": layers.ReLU()(layers.Dense(4, activation="relu")(inputs)),
    }[kind]
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("two outputs", "to have one output, class scores .* 2 outputs"),
        ("multi-label", "a multi-label head"),
        ("softmax of one", "a softmax over one unit"),
        ("no head", r"classification head.*output shape \(None, 2, 2\)"),
    ],
)
def test_refuses_models_that_are_no_classifiers(reference, teacher, student, kind, message):
    model = headless(kind)
    assert_refused(f"`teacher` .*{message}", student, reference, teacher=model)
    assert_refused(f"`student` .*{message}", model, reference, teacher=teacher)


def test_refuses_a_teacher_of_nan(reference, teacher, student):
    teacher.set_weights([weight * np.nan for weight in teacher.get_weights()])
    message = "`teacher outputs` to be finite. .* for 96 of 96"
    assert_refused(message, student, reference, teacher=teacher)


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf, "hot", True])
def test_refuses_a_temperature(student, temperature):
    with pytest.raises(ValueError, match="`temperature` to be a finite number above 0"):
        DistillationTrainer(student, temperature=temperature)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"labels": "crisp"}, ValueError, "`labels` to be one of 'soft', 'hard'"),
        ({"labels": "hard", "temperature": 2.0}, ValueError, "to be 1 with labels='hard'"),
        ({"labels": "hard", "label_temperature": 0.5}, ValueError, "label_temperature=0.5"),
        ({"compensate_temperature": 1}, ValueError, "`compensate_temperature` to be True or"),
        ({"cache": "yes"}, ValueError, "`cache` to be True or False"),
        ({"drop_labels": None}, ValueError, "`drop_labels` to be True or False"),
        ({"teacher": "teacher.keras"}, TypeError, "`teacher` to be a keras.Model. .* type str"),
    ],
)
def test_refuses_settings(student, settings, error, message):
    with pytest.raises(error, match=message):
        DistillationTrainer(student, **settings)


def test_refuses_what_is_no_student():
    with pytest.raises(TypeError, match=r"`student` to be a keras.Model. .* type NoneType"):
        DistillationTrainer(None)


def test_refuses_a_teacher_that_shares_with_the_student(student):
    shared = keras.Sequential([student.layers[0], layers.Dense(4)])
    for teacher in (student, shared):
        with pytest.raises(ValueError, match="teacher and student to be separate models"):
            DistillationTrainer(student, teacher=teacher)


def test_refuses_a_loss(student):
    with pytest.raises(ValueError, match=r"`loss` to be None.*Received: loss='mse'"):
        DistillationTrainer(student).compile("sgd", loss="mse")


def test_refuses_to_run_uncompiled(reference, labeled, teacher, student):
    trainer = DistillationTrainer(student, teacher=teacher)
    with pytest.raises(ValueError, match="call `compile"):
        trainer.fit(reference)
    with pytest.raises(ValueError, match="call `compile"):
        trainer.evaluate(*labeled)


@BOTH
def test_refuses_labels_beside_a_teacher(reference, labeled, teacher, student, cache):
    settings = {"cache": cache}
    message = r"reference samples without labels.*Received: y"
    assert_refused(message, student, *labeled, teacher=teacher, settings=settings)
    outputs = np.array(teacher(reference))
    assert_refused(message, student, reference, outputs, teacher=teacher, settings=settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sample_weight": np.ones(95)},
            "`x` and `sample_weight` to have the same",
        ),
        ({"sample_weight": np.full(96, np.nan)}, "`sample_weight` to be finite"),
        ({"sample_weight": np.ones((96, 2))}, r"one number per sample.*shape \(96, 2\)"),
        ({"sample_weight": ["a"] * 96}, "one number per sample"),
        ({"batch_size": 0}, "`batch_size` to be a whole number of at least 1"),
        ({"batch_size": 1.5}, "`batch_size` to be a whole number"),
        ({"epochs": -1}, "`epochs` to be a whole number of at least 0"),
        ({"steps_per_epoch": 2}, "`steps_per_epoch` to be None"),
    ],
)
def test_refuses_options_of_fit(reference, teacher, student, options, message):
    assert_refused(message, student, reference, teacher=teacher, **options)


@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_refuses_columns_beside_a_dataset(reference, student, name):
    options = {name: np.ones((96, 4), "float32")}
    assert_refused(f"Received: {name} of type ndarray", student, batched(reference), **options)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"cache": False}, {}, "Expected a teacher with cache=False.*Received: teacher=None"),
        (
            {"cache": False},
            {"teacher": 1, "selector": 1},
            "Received: cache=False, callbacks with En",
        ),
        (
            {"cache": False},
            {"teacher": 1, "sample_weight": np.ones(96)},
            "Received: sample_weight of type ndarray",
        ),
    ],
)
def test_refuses_streams(reference, teacher, student, settings, options, message):
    options = dict(options)
    options["teacher"] = teacher if options.get("teacher") else None
    if options.pop("selector", None):
        options["callbacks"] = [EntropyReferenceSelector(size=9)]
    assert_refused(message, student, batched(reference), settings=settings, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: [EntropyReferenceSelector(size=9)] * 2, "at most one Entropy.* Received: 2"),
        (lambda x: [EntropyReferenceSelector(size=9, pool=x)], "no `pool` of its own"),
        (lambda x: [EntropyReferenceSelector(size=97)], r"`size` to be at most 96, .*size=97"),
        (lambda x: [EntropyReferenceSelector(max_entropy=0.0)], "at least one sample"),
    ],
)
@BOTH
def test_refuses_selectors(reference, teacher, student, make, message, cache):
    assert_refused(
        message,
        student,
        reference,
        teacher=teacher,
        callbacks=make(reference),
        settings={"cache": cache},
    )


VALIDATION = {
    "outside": (lambda x, y: (x, y + 1), "lie in 0..3, the 4 classes of the model"),
    "negative": (lambda x, y: (x, y - 1), "labels from -1"),
    "halves": (lambda x, y: (x, y + 0.5), "`validation_data labels` to be whole.* 48 of 48"),
    "length": (lambda x, y: (x, y[:-1]), "the same number of samples. Received: 48 and 47"),
    "too wide": (lambda x, y: (x, np.eye(5)[y]), r"one-hot \(n, 4\).*shape \(48, 5\)"),
    "not one-hot": (lambda x, y: (x, np.full((48, 4), 0.25)), "not one-hot"),
    "no labels": (lambda x, y: x, "validation_data labels.* no labels"),
    "NaN": (lambda x, y: (spoil(x, np.nan), y), "`validation_data` to be finite"),
    "shape": (lambda x, y: (x[:, 1:], y), r"`validation_data` to have shape \(None, 12\)"),
    "empty": (lambda x, y: (x[:0], y[:0]), "at least 1 sample"),
    "dataset outside": (lambda x, y: batched(x, y + 1), "lie in 0..3"),
    "dataset without labels": (
        lambda x, y: batched(x),
        "validation_data labels.* no labels",
    ),
    "dataset of nothing": (lambda x, y: batched(x, y).take(0), "an empty dataset"),
    "dataset unbatched": (
        lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)),
        "an unbatched dataset",
    ),
}


@BOTH
@pytest.mark.parametrize("name", VALIDATION)
def test_refuses_validation_data(reference, labeled, teacher, student, name, cache):
    make, message = VALIDATION[name]
    x = reference if cache else batched(reference)
    assert_refused(
        message,
        student,
        x,
        teacher=teacher,
        settings={"cache": cache},
        validation_data=make(*labeled),
    )


@pytest.mark.parametrize("name", VALIDATION)
def test_evaluate_refuses_the_same(labeled, student, name):
    make, message = VALIDATION[name]
    data = make(*labeled)
    trainer = DistillationTrainer(student)
    trainer.compile("sgd")
    arguments = data if isinstance(data, tuple) else (data,)
    with pytest.raises(ValueError, match=message.replace("`validation_data`", ".*")):
        trainer.evaluate(*arguments, verbose=0)


def test_a_later_bad_batch_of_validation_data_is_refused(reference, labeled, teacher, student):
    x, y = labeled
    y = np.where(np.arange(48) > 40, 9, y)
    assert_refused(
        "lie in 0..3", student, reference, teacher=teacher, validation_data=batched(x, y)
    )


def test_nothing_tells_what_one_unit_means(reference):
    teacher, student = (nets.Subclassed(1, "sigmoid") for _ in range(2))
    for model in (teacher, student):
        model(reference[:1])
    assert_refused("Cannot tell whether .* `teacher`", student, reference, teacher=teacher)
    outputs = np.array(teacher(reference))
    assert_refused("Cannot tell whether `y`", student, reference, outputs)
    _, history = distil(student, reference, outputs, settings={"from_logits": False})
    assert len(history["loss"]) == 2

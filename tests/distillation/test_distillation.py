import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from nets import distil

from keras_dmp import DistillationTrainer
from keras_dmp._classifier import forward
from keras_dmp._data.batches import with_pending_outputs


@keras.saving.register_keras_serializable(package="keras_dmp_tests")
class Counter(layers.Layer):
    """Passes its input on and counts the samples that go through."""

    def build(self, input_shape):
        self.count = self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False)

    def call(self, inputs):
        self.count.assign_add(keras.ops.cast(keras.ops.shape(inputs)[0], "int64"))
        return inputs


def targets(teacher, x):
    return np.array(teacher(x))


def divergence(teacher_logits, student_logits):
    p, q = nets.softmax(teacher_logits), nets.softmax(student_logits)
    return np.sum(p * (np.log(p) - np.log(q)), axis=1)


def cross_entropy(y, logits):
    return -np.log(nets.softmax(logits)[np.arange(len(y)), y])


# What the student phase is.


def test_equals_a_plain_fit_on_soft_labels(reference, teacher):
    logits = targets(teacher, reference)
    plain = nets.classifier(seed=12)
    plain.compile(keras.optimizers.SGD(0.5), keras.losses.CategoricalCrossentropy(from_logits=True))
    soft = nets.softmax(logits).astype("float32")
    expected = plain.fit(reference, soft, epochs=3, shuffle=False, verbose=0).history

    student = nets.classifier(seed=12)
    _, history = distil(student, reference, teacher=teacher, epochs=3)
    nets.assert_same_weights(student, nets.snapshot(plain), atol=1e-5)
    entropy = -np.sum(soft * np.log(soft), axis=1).mean()
    np.testing.assert_allclose(history["loss"], np.array(expected["loss"]) - entropy, atol=1e-5)


def test_the_loss_is_the_mean_divergence(reference, teacher, student):
    optimizer = {"optimizer": keras.optimizers.SGD(0.0)}
    _, history = distil(student, reference, teacher=teacher, compile=optimizer, epochs=1)
    expected = divergence(targets(teacher, reference), targets(student, reference)).mean()
    assert history["loss"] == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize(
    "settings", [{"temperature": 4.0}, {"temperature": 4.0, "compensate_temperature": True}]
)
def test_temperature_divides_both_sides(reference, teacher, student, settings):
    optimizer = {"optimizer": keras.optimizers.SGD(0.0)}
    logits = [targets(model, reference) / 4 for model in (teacher, student)]
    _, history = distil(
        student, reference, teacher=teacher, settings=settings, compile=optimizer, epochs=1
    )
    factor = 16 if "compensate_temperature" in settings else 1
    assert history["loss"] == pytest.approx([factor * divergence(*logits).mean()], rel=1e-5)


def test_hard_labels_equal_training_on_the_argmax(reference, teacher):
    one_hot = np.eye(nets.CLASSES, dtype="float32")[targets(teacher, reference).argmax(axis=1)]
    plain = nets.classifier(seed=12)
    plain.compile(keras.optimizers.SGD(0.5), keras.losses.CategoricalCrossentropy(from_logits=True))
    expected = plain.fit(reference, one_hot, epochs=2, shuffle=False, verbose=0).history
    student = nets.classifier(seed=12)
    _, history = distil(student, reference, teacher=teacher, settings={"labels": "hard"})
    nets.assert_same_weights(student, nets.snapshot(plain), atol=1e-5)
    # A one-hot label has no entropy: the divergence is the cross-entropy.
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("units", "activation"), [(1, None), (1, "sigmoid"), (nets.CLASSES, "softmax")]
)
def test_other_heads_learn_from_a_teacher_of_their_kind(reference, units, activation):
    teacher = nets.classifier(units, activation, seed=11, scale=3.0)
    for labels in ("soft", "hard"):
        student = nets.classifier(units, activation, seed=12)
        _, history = distil(
            student,
            reference,
            teacher=teacher,
            settings={"labels": labels},
            compile={"metrics": ["accuracy"]},
            epochs=20,
        )
        assert history["loss"][-1] < 0.7 * history["loss"][0]
        predicted, expected = targets(student, reference), targets(teacher, reference)
        if units == 1:
            border = 0.0 if activation is None else 0.5
            agreement = np.mean((predicted > border) == (expected > border))
        else:
            agreement = np.mean(predicted.argmax(axis=1) == expected.argmax(axis=1))
        assert history["accuracy"][-1] == pytest.approx(agreement, abs=0.05)


def test_one_unit_equals_two_classes(reference):
    losses = []
    for widen in (lambda z: z, lambda z: np.concatenate([0 * z, z], axis=1)):
        logits = widen(targets(nets.classifier(1, seed=11), reference))
        student = nets.classifier(logits.shape[1], seed=12)
        kernel, bias = nets.classifier(1, seed=12).get_weights()[2:]
        student.set_weights([*student.get_weights()[:2], widen(kernel), widen(bias[None])[0]])
        still = {"optimizer": keras.optimizers.SGD(0.0)}
        losses.append(distil(student, reference, logits, compile=still, epochs=1)[1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# The teacher is asked once and left alone.


@pytest.fixture
def counted():
    model = keras.Sequential([keras.Input((nets.FEATURES,)), Counter(), layers.Dense(nets.CLASSES)])
    return model, model.layers[0]


def test_the_teacher_sees_every_sample_once(reference, counted, student):
    teacher, counter = counted
    distil(student, reference, teacher=teacher, epochs=3)
    assert int(counter.count) == len(reference)


def test_without_cache_the_teacher_sees_every_batch(reference, counted):
    teacher, counter = counted
    counts = [0]
    for epochs in (1, 3):
        settings = {"cache": False}
        distil(nets.classifier(), reference, teacher=teacher, settings=settings, epochs=epochs)
        counts.append(int(counter.count) - sum(counts))
    assert counts[2] - counts[1] == 2 * len(reference)


def test_without_cache_labels_follow_samples_that_change(reference, teacher, student):
    dataset = tf.data.Dataset.from_tensor_slices(reference).batch(32)
    noisy = dataset.map(lambda x: x + tf.random.normal(tf.shape(x)))
    # A teacher with the student's weights agrees with it on whatever comes.
    teacher.set_weights(student.get_weights())
    _, history = distil(
        student, noisy, teacher=teacher, settings={"cache": False}, compile={"run_eagerly": True}
    )
    np.testing.assert_allclose(history["loss"], 0, atol=1e-8)


def test_without_cache_batches_of_forked_workers_need_no_tensorflow(reference):
    weights = np.ones(len(reference), "float32")
    for batches, columns in [
        (nets.Pairs(reference, batch_size=32), 2),
        (nets.Pairs(reference, reference[:, 0], weights, batch_size=32), 3),
    ]:
        batch = with_pending_outputs(batches)[0]
        assert [type(column) for column in batch] == [np.ndarray] * columns
        assert batch[1].shape == (32, 0)


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_cache_changes_nothing_but_the_time(reference, teacher, labels):
    trained = []
    for cache in (True, False):
        student = nets.classifier(seed=12)
        settings = {"cache": cache, "labels": labels}
        distil(student, reference, teacher=teacher, settings=settings)
        trained.append(student)
    nets.assert_same_weights(trained[0], nets.snapshot(trained[1]), atol=1e-6)


def test_precomputed_outputs_equal_the_teacher(reference, teacher):
    students = [nets.classifier(seed=12) for _ in range(2)]
    distil(students[0], reference, teacher=teacher)
    distil(students[1], reference, targets(teacher, reference))
    nets.assert_same_weights(students[0], nets.snapshot(students[1]), atol=1e-6)


def test_the_teacher_is_left_as_it_was(reference, labeled, teacher, student):
    teacher.layers[0].trainable = False
    teacher.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    teacher.fit(*labeled, epochs=1, verbose=0)

    def state():
        simple = {
            name: value
            for name, value in vars(teacher).items()
            if isinstance(value, bool | str | int | float | None)
        }
        functions = [teacher.train_function, teacher.test_function, teacher.predict_function]
        flags = [layer.trainable for layer in teacher.layers]
        return set(vars(teacher)), simple, functions, flags, teacher.optimizer, teacher.loss

    weights, optimizer = nets.snapshot(teacher), [np.array(v) for v in teacher.optimizer.variables]
    before = state()
    distil(student, reference, teacher=teacher, validation_data=labeled)
    distil(student, reference, teacher=teacher, settings={"cache": False})
    assert state() == before
    nets.assert_same_weights(teacher, weights)
    for now, then in zip(teacher.optimizer.variables, optimizer, strict=True):
        np.testing.assert_array_equal(now, then)


def test_the_teacher_is_no_part_of_the_trainer(reference, teacher, student):
    trainer, _ = distil(student, reference, teacher=teacher, settings={"cache": False})
    hidden = {id(variable) for variable in teacher.variables}
    assert not hidden & {id(variable) for variable in trainer.variables}
    assert len(trainer.variables) == len(student.variables)
    assert trainer.layers == [student]
    assert "teacher" not in trainer.get_config()
    assert teacher.name not in str(trainer.get_config())
    checkpointed = tf.train.Checkpoint(model=trainer)
    tracked = tf.train.TrackableView(checkpointed).descendants()
    parts = {id(part) for part in (teacher, *teacher.layers, *teacher.variables)}
    assert not [node for node in tracked if id(node) in parts]


# What may be given.


def forms(x, y):
    columns = (x,) if y is None else (x, y)
    dataset = tf.data.Dataset.from_tensor_slices(columns if len(columns) > 1 else x)
    return {
        "arrays": (x, y),
        "tensor": (tf.constant(x), y),
        "dataset": (dataset.batch(32), None),
        "PyDataset": (nets.Pairs(*columns, batch_size=32), None),
    }


@pytest.mark.parametrize("cache", [True, False])
def test_arrays_and_datasets_are_equal(reference, teacher, cache):
    expected = None
    for name, (x, _) in forms(reference, None).items():
        student = nets.classifier(seed=12)
        _, history = distil(student, x, teacher=teacher, settings={"cache": cache})
        expected = expected or (nets.snapshot(student), history)
        nets.assert_same_weights(student, expected[0], atol=1e-6)
        assert history["loss"] == pytest.approx(expected[1]["loss"], rel=1e-5), name


def test_datasets_may_carry_the_outputs_of_a_teacher(reference, teacher):
    expected = None
    for x, y in forms(reference, targets(teacher, reference)).values():
        student = nets.classifier(seed=12)
        distil(student, x, y)
        expected = expected or nets.snapshot(student)
        nets.assert_same_weights(student, expected)


@pytest.mark.parametrize("cache", [True, False])
def test_labels_are_dropped_when_asked(reference, teacher, cache):
    labels = np.zeros(len(reference), int)
    expected = None
    for name, (x, _) in forms(reference, labels).items():
        if name in ("arrays", "tensor"):
            continue
        student, plain = nets.classifier(seed=12), nets.classifier(seed=12)
        settings = {"drop_labels": True, "cache": cache}
        distil(student, x, teacher=teacher, settings=settings)
        distil(plain, reference, teacher=teacher, settings={"cache": cache})
        expected = expected or nets.snapshot(plain)
        nets.assert_same_weights(student, expected, atol=1e-6)


def test_several_inputs():
    def net(seed):
        inputs = {name: keras.Input((3,), name=name) for name in ("left", "right")}
        joined = layers.Concatenate()([inputs["left"], inputs["right"]])
        model = keras.Model(inputs, layers.Dense(nets.CLASSES)(joined))
        nets.randomize(model, seed)
        return model

    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(40, 3)).astype("float32") for name in ("right", "left")}
    y = rng.integers(nets.CLASSES, size=40)
    trained = []
    for form in (x, tf.data.Dataset.from_tensor_slices(x).batch(32)):
        student = net(12)
        trainer, history = distil(student, form, teacher=net(11), validation_data=(x, y))
        trained.append(student)
        expected = cross_entropy(y, student.predict(x, verbose=0)).mean()
        assert history["val_loss"][-1] == pytest.approx(expected, rel=1e-4)
    assert trainer.predict(x, verbose=0).shape == (40, nets.CLASSES)
    nets.assert_same_weights(trained[0], nets.snapshot(trained[1]))


def test_models_that_are_built_by_their_first_call(reference, labeled):
    teacher, student = nets.Subclassed(), nets.Subclassed()
    _, history = distil(student, reference, teacher=teacher, validation_data=labeled)
    assert len(student.weights) == 2
    assert history["loss"][1] < history["loss"][0]


# Metrics, validation, weights, penalties.


@pytest.mark.parametrize(
    "shape",
    ["integers", *(pytest.param(one, marks=pytest.mark.full) for one in ("column", "one-hot"))],
)
def test_validation_is_against_the_true_labels(reference, labeled, teacher, student, shape):
    x, y = labeled
    given = {"integers": y, "column": y[:, None], "one-hot": np.eye(nets.CLASSES)[y]}[shape]
    metrics = [
        "accuracy",
        keras.metrics.SparseCategoricalAccuracy(name="sparse"),
        keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top2"),
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy"),
        keras.metrics.AUC(multi_label=True, from_logits=True, name="auc"),
    ]
    trainer, history = distil(
        student,
        reference,
        teacher=teacher,
        compile={"metrics": metrics},
        validation_data=(x, given),
    )
    logits = student.predict(x, verbose=0)
    best_two = np.argsort(-logits, axis=1)[:, :2]
    expected = {
        "loss": cross_entropy(y, logits).mean(),
        "accuracy": np.mean(logits.argmax(axis=1) == y),
        "sparse": np.mean(logits.argmax(axis=1) == y),
        "top2": np.mean((best_two == y[:, None]).any(axis=1)),
        "entropy": cross_entropy(y, logits).mean(),
    }
    for name, value in expected.items():
        assert history[f"val_{name}"][-1] == pytest.approx(value, rel=1e-4), name
    assert 0 < history["val_auc"][-1] < 1
    for form in ((x, given), (tf.data.Dataset.from_tensor_slices((x, given)).batch(20),)):
        evaluated = trainer.evaluate(*form, verbose=0, return_dict=True)
        for name, value in expected.items():
            assert evaluated[name] == pytest.approx(value, rel=1e-4), name


def test_accuracy_in_training_is_agreement_with_the_teacher(reference, teacher, student):
    compile = {"optimizer": keras.optimizers.SGD(0.0), "metrics": ["accuracy"]}
    _, history = distil(student, reference, teacher=teacher, compile=compile, epochs=1)
    agree = targets(teacher, reference).argmax(axis=1) == targets(student, reference).argmax(axis=1)
    assert history["accuracy"] == pytest.approx([agree.mean()])


# Keras takes the name in any case.
@pytest.mark.parametrize(
    ("activation", "name"), [(None, "accuracy"), (None, "Accuracy"), ("sigmoid", "accuracy")]
)
def test_validation_of_one_unit(reference, labeled, activation, name):
    x, y = labeled[0], labeled[1] % 2
    teacher, student = (nets.classifier(1, activation, seed=seed) for seed in (11, 12))
    _, history = distil(
        student,
        reference,
        teacher=teacher,
        compile={"metrics": [name]},
        validation_data=(x, y),
    )
    outputs = student.predict(x, verbose=0)[:, 0].astype("float64")
    p = outputs if activation else 1 / (1 + np.exp(-outputs))
    assert history[f"val_{name}"][-1] == pytest.approx(np.mean((p > 0.5) == y))
    expected = -np.mean(np.where(y == 1, np.log(p), np.log(1 - p)))
    assert history["val_loss"][-1] == pytest.approx(expected, rel=1e-4)


def test_evaluate_without_fit(labeled, student):
    x, y = labeled
    trainer = DistillationTrainer(student)
    trainer.compile("sgd", metrics=["accuracy"])
    loss, accuracy = trainer.evaluate(x, y, verbose=0)
    logits = student.predict(x, verbose=0)
    assert loss == pytest.approx(cross_entropy(y, logits).mean(), rel=1e-4)
    assert accuracy == pytest.approx(np.mean(logits.argmax(axis=1) == y))


def test_penalties_of_the_student_are_part_of_the_loss(reference, labeled, teacher):
    student = nets.classifier(seed=12, kernel_regularizer=keras.regularizers.L2(0.01))
    penalty = 0.01 * sum(np.sum(w**2) for w in nets.snapshot(student) if w.ndim == 2)
    _, history = distil(
        student,
        reference,
        teacher=teacher,
        compile={"optimizer": keras.optimizers.SGD(0.0)},
        validation_data=labeled,
        epochs=1,
    )
    x, y = labeled
    logits = targets(student, reference)
    expected = divergence(targets(teacher, reference), logits).mean() + penalty
    assert history["loss"] == pytest.approx([expected], rel=1e-5)
    expected = cross_entropy(y, targets(student, x)).mean() + penalty
    assert history["val_loss"] == pytest.approx([expected], rel=1e-5)


def test_sample_weights_weigh(reference, teacher):
    weights = np.random.default_rng(0).random(len(reference)).astype("float32")
    student = nets.classifier(seed=12)
    compile = {"optimizer": keras.optimizers.SGD(0.0), "weighted_metrics": ["accuracy"]}
    _, history = distil(
        student, reference, teacher=teacher, compile=compile, sample_weight=weights, epochs=1
    )
    logits = [targets(model, reference) for model in (teacher, student)]
    assert history["loss"] == pytest.approx([np.mean(weights * divergence(*logits))], rel=1e-5)
    agree = logits[0].argmax(axis=1) == logits[1].argmax(axis=1)
    assert history["accuracy"] == pytest.approx([np.average(agree, weights=weights)], rel=1e-5)


def test_samples_of_weight_zero_change_nothing(reference, teacher):
    students = [nets.classifier(seed=12) for _ in range(2)]
    weights = np.repeat(np.float32([1, 0]), [64, 32])
    spoiled = reference.copy()
    spoiled[64:] = 7
    for student, x in zip(students, (reference, spoiled), strict=True):
        distil(student, x, teacher=teacher, sample_weight=weights)
    nets.assert_same_weights(students[0], nets.snapshot(students[1]), atol=1e-7)


@pytest.mark.parametrize("cache", [True, False])
def test_weight_two_equals_a_sample_given_twice(reference, teacher, cache):
    x = reference[:16]
    settings = {"cache": cache}
    twice, weighted = (nets.classifier(seed=12) for _ in range(2))
    # The mean over the batch counts samples: half of it twice is all of it at weight 2.
    distil(twice, np.repeat(x, 2, axis=0), teacher=teacher, batch_size=32, settings=settings)
    weights = np.tile(np.float32([2, 0]), 16)
    distil(
        weighted,
        np.repeat(x, 2, axis=0),
        teacher=teacher,
        batch_size=32,
        sample_weight=weights,
        settings=settings,
    )
    nets.assert_same_weights(weighted, nets.snapshot(twice), atol=1e-6)


# Keras' machinery.


@pytest.mark.parametrize(
    "compile",
    [
        {"run_eagerly": True},
        {"steps_per_execution": 2},
        {"jit_compile": True},
        {"jit_compile": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("cache", [True, pytest.param(False, marks=pytest.mark.full)])
def test_ways_to_run_a_step_agree(reference, labeled, teacher, compile, cache):
    results = []
    for arguments in ({}, compile):
        student = nets.classifier(seed=12)
        _, history = distil(
            student,
            reference,
            teacher=teacher,
            settings={"cache": cache},
            compile={**arguments, "metrics": ["accuracy"]},
            validation_data=labeled,
        )
        results.append((history, nets.snapshot(student)))
    (expected, weights), (history, _) = results
    for name, values in expected.items():
        assert history[name] == pytest.approx(values, rel=1e-4), name
    nets.assert_same_weights(student, weights, atol=1e-5)


def test_mixed_precision(reference, labeled):
    def run(policy):
        teacher, student = (
            nets.classifier(seed=seed, dtype=keras.DTypePolicy(policy)) for seed in (11, 12)
        )
        trainer, history = distil(
            student, reference, teacher=teacher, validation_data=labeled, epochs=3
        )
        return trainer, student, history

    _, _, expected = run("float32")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        trainer, student, history = run("mixed_float16")
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(trainer.optimizer, keras.optimizers.LossScaleOptimizer)
    assert student.layers[-1].compute_dtype == "float16"
    assert history["loss"] == pytest.approx(expected["loss"], rel=0.02)
    assert history["val_loss"] == pytest.approx(expected["val_loss"], rel=0.02)


def test_callbacks(tmp_path, reference, labeled, teacher, student):
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    _, history = distil(
        student,
        reference,
        teacher=teacher,
        compile={"optimizer": keras.optimizers.SGD(0.5), "metrics": ["accuracy"]},
        epochs=4,
        validation_data=labeled,
        callbacks=[
            stopping,
            keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
            keras.callbacks.ModelCheckpoint(tmp_path / "w.weights.h5", save_weights_only=True),
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        ],
    )
    assert 2 <= len(history["loss"]) <= 4
    assert (tmp_path / "1.keras").is_file()
    assert (tmp_path / "w.weights.h5").is_file()
    best = min(history["val_loss"])
    x, y = labeled
    restored = cross_entropy(y, student.predict(x, verbose=0)).mean()
    assert stopping.stopped_epoch
    assert restored == pytest.approx(best, rel=1e-4)


def test_tensorboard(tmp_path, reference, teacher, student):
    pytest.importorskip("tensorboard")
    board = keras.callbacks.TensorBoard(tmp_path)
    distil(student, reference, teacher=teacher, callbacks=[board])
    assert list(tmp_path.rglob("events*"))


def test_early_stopping_stops(reference, labeled, teacher, student):
    stopping = keras.callbacks.EarlyStopping("val_accuracy", patience=1, mode="min")
    trainer, history = distil(
        student,
        reference,
        teacher=teacher,
        compile={"optimizer": keras.optimizers.SGD(0.0), "metrics": ["accuracy"]},
        epochs=5,
        validation_data=labeled,
        callbacks=[stopping],
    )
    assert len(history["loss"]) == 2
    assert trainer.stop_training


def test_initial_epoch_continues(reference, teacher):
    """The order of an epoch is a function of seed and epoch alone."""
    straight, parted = (nets.classifier(seed=12) for _ in range(2))
    keras.utils.set_random_seed(5)
    distil(straight, reference, teacher=teacher, epochs=3, shuffle=True)
    keras.utils.set_random_seed(5)
    trainer, _ = distil(parted, reference, teacher=teacher, epochs=1, shuffle=True)
    keras.utils.set_random_seed(5)
    history = trainer.fit(reference, initial_epoch=1, epochs=3, verbose=0)
    assert history.epoch == [1, 2]
    nets.assert_same_weights(parted, nets.snapshot(straight), atol=1e-6)


def test_the_seed_decides(reference):
    def run(seed):
        keras.utils.set_random_seed(seed)
        teacher, student = nets.classifier(seed=11), nets.classifier(seed=12)
        distil(student, reference, teacher=teacher, shuffle=True)
        return student

    first = run(1)
    nets.assert_same_weights(run(1), nets.snapshot(first))
    with pytest.raises(AssertionError):
        nets.assert_same_weights(run(2), nets.snapshot(first))


def test_every_epoch_has_an_order_of_its_own(reference, teacher, student):
    seen = []

    class Recorder(layers.Layer):
        def call(self, inputs, training=None):
            if training:
                seen.append(np.array(inputs))
            return inputs

    recording = keras.Sequential([keras.Input((nets.FEATURES,)), Recorder(), student])
    distil(recording, reference, teacher=teacher, compile={"run_eagerly": True}, shuffle=True)
    epochs = np.concatenate(seen).reshape(2, *reference.shape)
    assert not np.array_equal(epochs[0], epochs[1])
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(reference, axis=0))


def test_batch_size_is_the_caller_s_or_the_dataset_s(reference, teacher):
    dataset = tf.data.Dataset.from_tensor_slices(reference).batch(24)
    for x, batch_size, expected in [
        (reference, None, 3),
        (reference, 40, 3),
        (reference, 96, 1),
        (dataset, None, 4),
        (dataset, 48, 2),
    ]:
        steps = nets.Steps()
        distil(
            nets.classifier(seed=12),
            x,
            teacher=teacher,
            batch_size=batch_size,
            epochs=1,
            callbacks=[steps],
        )
        assert len(steps.losses) == expected


class Validated(keras.callbacks.Callback):
    """Counts the batches of validation data."""

    batches = 0

    def on_test_batch_end(self, batch, logs=None):
        self.batches += 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 2), ({"batch_size": 16}, 3), ({"batch_size": 16, "validation_batch_size": 48}, 1)],
    ids=["neither", "batch_size", "both"],
)
def test_validation_data_has_the_batch_size_of_the_training(
    reference, labeled, teacher, student, given, expected
):
    seen = Validated()
    data = {"validation_data": labeled, "epochs": 1, "callbacks": [seen]}
    distil(student, reference, teacher=teacher, **data, **given)
    assert seen.batches == expected


def test_nothing_is_printed(capsys, reference, labeled, teacher, student):
    distil(student, reference, teacher=teacher, validation_data=labeled)
    assert not capsys.readouterr().out


def test_progress_is_shown_when_asked(capsys, reference, teacher, student):
    distil(student, reference, teacher=teacher, verbose=1)
    shown = capsys.readouterr().out
    assert "1/1" in shown
    assert "Epoch 2/2" in shown


def test_asking_many_teachers_warns_of_no_retracing(caplog, reference):
    for seed in range(8):
        teacher = nets.classifier(seed=seed)
        outputs = forward.predict(teacher, reference, batch_size=10)
        np.testing.assert_allclose(outputs, teacher(reference), atol=1e-6)
    assert not caplog.records


# Saving and loading.


def test_save_load_attach_and_go_on(tmp_path, reference, labeled, teacher):
    def run(epochs):
        trainer, _ = distil(
            nets.classifier(seed=12),
            reference,
            teacher=teacher,
            settings={"temperature": 2.0},
            compile={"optimizer": keras.optimizers.Adam(0.01), "metrics": ["accuracy"]},
            epochs=epochs,
        )
        return trainer

    run(2).save(tmp_path / "trainer.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert isinstance(loaded, DistillationTrainer)
    assert loaded.temperature == 2.0
    evaluated = loaded.evaluate(*labeled, verbose=0, return_dict=True)
    assert set(evaluated) == {"loss", "accuracy"}
    with pytest.raises(ValueError, match="attach_teacher"):
        loaded.fit(reference, verbose=0)
    loaded.attach_teacher(teacher)
    loaded.fit(reference, epochs=2, shuffle=False, verbose=0)
    nets.assert_same_weights(loaded.student, nets.snapshot(run(4).student), atol=1e-5)


def test_weights_alone_can_be_saved(tmp_path, reference, teacher):
    trainer, _ = distil(nets.classifier(seed=12), reference, teacher=teacher)
    trainer.save_weights(tmp_path / "trainer.weights.h5")
    other = DistillationTrainer(nets.classifier(seed=13))
    other.load_weights(tmp_path / "trainer.weights.h5")
    nets.assert_same_weights(other.student, nets.snapshot(trainer.student))


def test_config_round_trip(student):
    trainer = DistillationTrainer(
        student, labels="hard", cache=False, drop_labels=True, from_logits=True, name="mine"
    )
    twin = DistillationTrainer.from_config(trainer.get_config())
    assert twin.get_config().keys() == trainer.get_config().keys()
    for name in ("temperature", "labels", "cache", "drop_labels", "from_logits", "name"):
        assert getattr(twin, name) == getattr(trainer, name)


def test_predict_and_call_are_the_student_s(reference, student):
    trainer = DistillationTrainer(student)
    expected = student.predict(reference, verbose=0)
    np.testing.assert_array_equal(trainer.predict(reference, verbose=0), expected)
    np.testing.assert_allclose(trainer(reference), expected, atol=1e-6)

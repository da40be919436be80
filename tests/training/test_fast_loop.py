"""Trainings with `fast_loop` equal those in Keras' own loop, whatever is trained and how."""

import contextlib

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from trainings import STEPS, assert_equal_trainings, layered, train

from keras_dmp import DistillationTrainer, DMPTrainer
from keras_dmp._training.resident import ResidentBatches


def slow(*values):
    """Parameters for the slow tests alone."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def assert_same_in_both(x, teacher, optimizer, *, student=None, callbacks=list, **arguments):
    """Train in both loops, all parts made anew by callables; both trainers."""
    both = []
    for fast in (True, False):
        keras.utils.set_random_seed(0)
        parts = {"student": student and student(), "callbacks": callbacks(), "fast_loop": fast}
        both.append(train(x, teacher, optimizer(), **parts, **arguments))
    assert_equal_trainings(*both)
    return [trainer for trainer, _ in both]


OPTIMIZERS = {
    "average": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=5),
    "sgd": lambda: keras.optimizers.SGD(0.2, momentum=0.9),
    "clipped": lambda: keras.optimizers.AdamW(0.01, clipnorm=0.5),
    "schedule": lambda: keras.optimizers.RMSprop(
        keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)
    ),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=4),
}


@pytest.mark.parametrize("name", ["average", *slow(*list(OPTIMIZERS)[1:])])
def test_optimizers(reference, teacher, name):
    assert_same_in_both(reference, teacher, OPTIMIZERS[name])


@pytest.mark.full
@pytest.mark.parametrize("samples", [7 * 40 + 3, *slow(7 * 39 + 3, 7 * 39, 5)])
def test_weights_validation_and_executions_of_several_steps(teacher, samples):
    x, y = nets.prototypes(samples, seed=1)
    weights = np.random.default_rng(0).random(samples).astype("float32")
    for count in (1, 4):
        fit = {"sample_weight": weights, "validation_data": (x, y), "shuffle": True}
        assert_same_in_both(
            x,
            teacher,
            OPTIMIZERS["sgd"],
            student=lambda: layered(layers.BatchNormalization(), layers.Dropout(0.3, seed=1)),
            steps_per_execution=count,
            weighted_metrics=["accuracy"],
            fit=fit,
        )


class Late(nets.Subclassed):
    """Has a layer that only training builds."""

    def __init__(self):
        super().__init__()
        self.aside = layers.Dense(nets.CLASSES, kernel_initializer="ones")

    def call(self, inputs, training=False):
        outputs = super().call(inputs)
        return outputs + 0.1 * self.aside(inputs) if training else outputs


def late():
    keras.utils.set_random_seed(4)
    return Late()


class Draws(layers.Layer):
    """Draws from TensorFlow's own generator, which traces do not share."""

    def call(self, x, training=False):
        return x + 0.1 * tf.random.uniform(tf.shape(x), seed=3) if training else x


class ByText(layers.Layer):
    """Rounds through text, an operation that is on no list."""

    def call(self, x):
        text = tf.strings.as_string(tf.stop_gradient(x))
        return x + 0.0 * tf.strings.to_number(text)


STUDENTS = {
    "draws": lambda: layered(Draws()),
    "convolution": lambda: layered(
        layers.Reshape((9, 1)), layers.Conv1D(2, 3), layers.MaxPooling1D(2), layers.Flatten()
    ),
    "recurrent": lambda: layered(layers.Reshape((9, 1)), layers.GRU(3)),
    "text": lambda: layered(ByText()),
    "regularized": lambda: layered(layers.Dense(4, kernel_regularizer="l2")),
}


@pytest.mark.parametrize("name", ["draws", *slow(*list(STUDENTS)[1:])])
def test_students(reference, teacher, name):
    assert_same_in_both(reference, teacher, lambda: "adam", student=STUDENTS[name])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`build..` was called")
def test_layers_that_only_training_builds(reference, teacher):
    fit = {"settings": {"from_logits": True}}
    assert_same_in_both(reference, teacher, lambda: "adam", student=late, fit=fit)


class Counts(layers.Layer):
    """Counts its calls in Python."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def _count(self, value):
        self.calls += 1
        return value

    def call(self, x, training=False):
        if not training:
            return x
        one = tf.numpy_function(self._count, [np.float32(1)], tf.float32)
        return x * tf.ensure_shape(one, [])


def test_python_in_a_model_is_called_once_per_step(reference, teacher):
    trainer, _ = train(reference, teacher, "adam", student=layered(Counts()))
    assert trainer.student.layers[1].calls == STEPS


class Checked(layers.Layer):
    """Refuses numbers that are not finite."""

    def call(self, x):
        return tf.debugging.check_numerics(x, "Not finite")


@pytest.mark.slow
def test_checks_of_a_model_stay(reference, teacher):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Not finite"):
        train(reference, teacher, keras.optimizers.SGD(1e30), student=layered(Checked()))


@keras.saving.register_keras_serializable(package="tests")
class OfUnknownSize(keras.metrics.CategoricalAccuracy):
    """A metric whose shape no graph knows."""

    def result(self):
        return tf.reshape(super().result(), tf.boolean_mask(tf.zeros(1, tf.int32), [False]))


@pytest.mark.slow
def test_metrics_of_unknown_shape(reference, teacher):
    metrics = {"metrics": [OfUnknownSize(name="odd")], "steps_per_execution": 3}
    for fast in (True, False):
        trainer, history = train(reference, teacher, "sgd", fast_loop=fast, **metrics)
        assert int(trainer.optimizer.iterations) == STEPS
        assert len(history["odd"]) == 3


def test_mixed_precision_scales_the_loss(reference, teacher):
    """Its scale grows every 2,000 steps, and is halved by a gradient that overflows."""

    def trained(fast):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            student = nets.classifier(seed=12)
        finally:
            keras.config.set_dtype_policy("float32")
        inner = keras.optimizers.SGD(0.1)
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**30)
        return train(reference, teacher, optimizer, student=student, fast_loop=fast)

    (fast, history), (own, own_history) = trained(True), trained(False)
    nets.assert_same_weights(fast.student, own.student.get_weights(), atol=1e-2)
    np.testing.assert_allclose(history["loss"], own_history["loss"], rtol=1e-2)
    scales = [float(trainer.optimizer.dynamic_scale) for trainer in (fast, own)]
    assert scales[0] == scales[1] < 2.0**30


def test_callbacks_see_the_same_executions(teacher):
    x = nets.prototypes(7 * 14 + 3, seed=1)[0]

    def calls(count, fast):
        seen = []
        keep = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: seen.append((batch, 0.0)),
            on_train_batch_end=lambda batch, logs: seen.append((batch, logs["loss"])),
        )
        arguments = {"steps_per_execution": count, "fast_loop": fast, "fit": {"epochs": 2}}
        train(x, teacher, "sgd", callbacks=[keep], **arguments)
        return np.array(seen)

    for count in (1, 4):
        fast, own = calls(count, True), calls(count, False)
        np.testing.assert_array_equal(fast[:, 0], own[:, 0])
        np.testing.assert_allclose(fast[:, 1], own[:, 1], rtol=1e-5)


class StopInTheMiddle(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            self.model.stop_training = True


def test_a_training_that_is_stopped_and_continued(reference, teacher):
    trainer, _ = train(reference, teacher, "sgd", callbacks=[StopInTheMiddle()])
    assert int(trainer.optimizer.iterations) == 4
    trainer.fit(reference, batch_size=7, epochs=2, initial_epoch=1, verbose=0)
    assert int(trainer.optimizer.iterations) == 4 + STEPS // 3


class TrainsBesides(keras.callbacks.Callback):
    """Trains on data of its own."""

    def __init__(self, data, way, hook):
        super().__init__()
        self.data, self.way = data, way
        if hook != "on_epoch_begin":
            # Keras passes the start of a training logs alone, and no number.
            starts = hook == "on_train_begin"
            setattr(self, hook, (lambda logs=None: self._train()) if starts else self._train)

    def on_epoch_begin(self, epoch, logs=None):
        if not set(vars(self)) & {"on_train_begin", "on_train_batch_begin", "on_epoch_end"}:
            self._train(epoch)

    def _train(self, number=0, logs=None):
        model = self.model
        if number > 1:
            return
        if self.way == "batch":
            model.train_on_batch(*self.data)
        elif self.way == "dataset":
            data = tf.data.Dataset.from_tensor_slices(self.data).batch(16)
            keras.Model.fit(model, data, shuffle=False, verbose=0)
        else:
            model.fit(self.data[0], batch_size=11, shuffle=False, verbose=0)


@pytest.mark.parametrize("way", ["fit", *slow("batch", "dataset")])
@pytest.mark.parametrize(
    "hook", ["on_epoch_begin", *slow("on_train_begin", "on_train_batch_begin", "on_epoch_end")]
)
def test_callbacks_that_train_on_their_own_data(reference, teacher, way, hook):
    x = nets.prototypes(33, seed=5)[0]
    data = x, teacher.predict(x, verbose=0)
    fast, _ = assert_same_in_both(
        reference, teacher, lambda: "adam", callbacks=lambda: [TrainsBesides(data, way, hook)]
    )
    assert int(fast.optimizer.iterations) > STEPS


class FromSecondEpoch(keras.callbacks.Callback):
    """Changes what is trained, and has Keras make the train function anew."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def on_epoch_begin(self, epoch, logs=None):
        if epoch != 1:
            return
        if self.way == "frozen":
            self.model.student.layers[0].trainable = False
        if self.way == "compiled":
            self.model.compile("sgd", metrics=["accuracy"], fast_loop=self.model.fast_loop)
        if self.way == "afresh":
            self.model.train_function = None
        self.model.make_train_function(force=self.way != "afresh")


@pytest.mark.parametrize("way", ["frozen", *slow("compiled", "afresh")])
def test_callbacks_that_make_the_function_anew(reference, teacher, way):
    fast, _ = assert_same_in_both(
        reference, teacher, lambda: "adam", callbacks=lambda: [FromSecondEpoch(way)]
    )
    plain, _ = train(reference, teacher, "adam")
    same = np.allclose(plain.student.get_weights()[0], fast.student.get_weights()[0], atol=2e-6)
    assert same == (way == "afresh")


class AtTheBeginning(keras.callbacks.Callback):
    """Thaws the first layer and sets a learning rate when the training begins."""

    def on_train_begin(self, logs=None):
        self.model.student.layers[0].trainable = True
        rates = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
        self.model.optimizer.learning_rate = rates


@pytest.mark.slow
def test_what_callbacks_set_when_the_training_begins(reference, teacher):
    def frozen():
        student = nets.classifier(seed=12)
        student.layers[0].trainable = False
        return student

    assert_same_in_both(
        reference, teacher, lambda: "adam", student=frozen, callbacks=lambda: [AtTheBeginning()]
    )


class WithStep(DistillationTrainer):
    def train_step(self, data):
        x, outputs = data
        return super().train_step((x, -outputs))


class WithLoss(DistillationTrainer):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 2.0 * super().compute_loss(x, y, y_pred, sample_weight, training)


class WithFunction(DistillationTrainer):
    """Makes a train function of its own that takes data from the iterator."""

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            self.train_function = lambda iterator: self.train_step(next(iterator))
        return self.train_function


@pytest.mark.parametrize("kind", [WithFunction, *slow(WithStep, WithLoss)])
def test_subclasses(reference, teacher, kind):
    both = []
    for fast in (True, False):
        trainer = kind(nets.classifier(seed=12), teacher=teacher)
        trainer.compile("sgd", fast_loop=fast)
        both.append(
            (trainer, trainer.fit(reference, batch_size=7, shuffle=False, verbose=0).history)
        )
    assert_equal_trainings(*both)


def test_error_of_a_callback_leaves_a_trainer_that_trains(reference, teacher):
    def fail(epoch, logs):
        raise RuntimeError("from a callback")

    trainer = DistillationTrainer(nets.classifier(seed=12), teacher=teacher)
    trainer.compile("sgd")
    with pytest.raises(RuntimeError, match="from a callback"):
        trainer.fit(
            reference, callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=fail)], verbose=0
        )
    x = tf.data.Dataset.from_tensors((reference[:5], teacher(reference[:5])))
    # Its own data, and nothing that was left over.
    keras.Model.fit(trainer, x.repeat(3), shuffle=False, verbose=0)
    assert int(trainer.optimizer.iterations) == 3


class Traces(layers.Layer):
    """Counts how often it is traced."""

    traces = 0

    def call(self, x, training=False):
        self.traces += int(training)
        return x


@pytest.mark.parametrize("label_format", [None, *slow(2)])
@pytest.mark.parametrize("strategy", [None, *slow("one device")])
def test_a_second_fit_traces_nothing(teacher, strategy, label_format):
    x, y = nets.prototypes(7 * 40 + 3, seed=1)
    scope = contextlib.nullcontext()
    if strategy is not None:
        scope = tf.distribute.OneDeviceStrategy("CPU:0").scope()
    with scope:
        student = layered(Traces())
        trainer = DistillationTrainer(student, teacher=teacher, label_format=label_format)
    trainer.compile("sgd")
    traces = []
    for _ in range(3):
        trainer.fit(x, batch_size=7, validation_data=(x, y), verbose=0)
        traces.append(student.layers[1].traces)
    assert traces[0] > 0
    assert traces[0] == traces[1] == traces[2]


def test_batches_before_any_fit(reference, teacher):
    outputs = teacher.predict(reference, verbose=0)
    trainer = DistillationTrainer(nets.classifier(seed=12), from_logits=True)
    trainer.compile("sgd")
    trainer.train_on_batch(reference, outputs)
    fitted, _ = train(
        reference,
        teacher,
        "sgd",
        student=nets.classifier(seed=12),
        fit={"batch_size": 96, "epochs": 1},
    )
    nets.assert_same_weights(trainer.student, fitted.student.get_weights(), atol=1e-6)
    unknown = DistillationTrainer(nets.Subclassed())
    unknown.compile("sgd")
    with pytest.raises(ValueError, match="Expected `from_logits` to be True or False"):
        unknown.train_on_batch(reference, outputs)


@pytest.mark.parametrize("setting", ["run_eagerly", *slow("jit_compile")])
def test_what_compile_says_is_obeyed(reference, teacher, setting):
    own, _ = train(reference, teacher, "sgd", fast_loop=False)
    trainer, _ = train(reference, teacher, "sgd", **{setting: True})
    nets.assert_same_weights(trainer.student, own.student.get_weights(), atol=2e-6)


def test_the_switch_is_saved_and_checked(reference, teacher, tmp_path):
    trainer, _ = train(reference[:14], teacher, "adam", fast_loop=False, fit={"epochs": 1})
    trainer.save(tmp_path / "trainer.keras")
    assert keras.models.load_model(tmp_path / "trainer.keras").fast_loop is False
    with pytest.raises(ValueError, match=r"fast_loop.*'no'"):
        trainer.compile("adam", fast_loop="no")
    with pytest.raises(ValueError, match=r"fast_loop.*'no'"):
        DMPTrainer(nets.classifier).compile("adam", "mse", fast_loop="no")


@pytest.mark.parametrize("count", [1, 4])
def test_pipelines_have_the_order_of_the_epoch(count):
    """One pipeline for all epochs, or one for each where executions do not divide them."""
    x, y = nets.prototypes(7 * 6 + 3, seed=1)
    batches = ResidentBatches((x, y), batch_size=7, shuffle=True, seed=4)
    assert not np.array_equal(batches.indices(0)[0], batches.indices(1)[0])

    def compiled():
        model = nets.classifier(seed=3)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, steps_per_execution=count)
        return model

    model, by_hand = compiled(), compiled()
    # A run that is resumed at its second epoch, too.
    for first, last in ((0, 1), (1, 3)):
        arguments = {"initial_epoch": first, "epochs": last, "callbacks": [batches], "verbose": 0}
        model.fit(**batches.for_fit(model), **arguments)
    for epoch in range(3):
        full, rest = batches.indices(epoch)
        for rows in (*full, rest):
            by_hand.train_on_batch(x[rows], y[rows])
    nets.assert_same_weights(model, by_hand.get_weights(), atol=1e-6)

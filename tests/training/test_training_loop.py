"""A loop of our own under Keras' `fit` trains as Keras' own does, and leaves the rest to it."""

import contextlib
import gc
import weakref

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from trainings import STEPS, assert_equal_trainings, layered, train

from keras_dmp import DistillationTrainer
from keras_dmp._training import loop
from keras_dmp._training.resident import ResidentBatches


def slow(*values):
    """Parameters for the slow tests alone."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("samples", [7 * 40 + 3, *slow(7 * 39 + 3, 7 * 39), 5])
def test_loop_trains_as_keras_own(teacher, samples, in_keras_loop):
    x = nets.prototypes(samples, seed=1)[0]
    weights = np.random.default_rng(0).random(samples).astype("float32")
    for count in (None, 1, 4):
        arguments = {"fit": {"sample_weight": weights}, "steps_per_execution": count}
        own = train(x, teacher, "adam", **arguments)
        assert own[0]._speed.traced is not None
        assert_equal_trainings(own, in_keras_loop(x, teacher, "adam", **arguments))


def test_callbacks_see_the_same_executions(teacher, in_keras_loop):
    x = nets.prototypes(7 * 40 + 3, seed=1)[0]
    for count in (1, 5, 50):
        seen, own_seen = (
            [
                (batch, logs["loss"])
                for batch, logs in steps_of(way, x, teacher, steps_per_execution=count)
            ]
            for way in (train, in_keras_loop)
        )
        assert [batch for batch, _ in seen] == [batch for batch, _ in own_seen]
        np.testing.assert_allclose(
            [loss for _, loss in seen], [loss for _, loss in own_seen], rtol=1e-5
        )


def steps_of(way, *args, **kwargs):
    """What `on_train_batch_end` was called with."""
    calls = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: calls.append((batch, dict(logs)))
    )
    way(*args, "sgd", callbacks=[keep], **kwargs)
    return calls


class StopInTheMiddle(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            self.model.stop_training = True


def test_a_training_can_be_stopped_and_gone_on_with(reference, teacher):
    trainer, _ = train(reference, teacher, "sgd", callbacks=[StopInTheMiddle()])
    assert int(trainer.optimizer.iterations) == 4
    trainer.fit(reference, batch_size=7, epochs=2, initial_epoch=1, verbose=0)
    assert int(trainer.optimizer.iterations) == 4 + STEPS // 3


class BrokenOff(Exception):
    """Raised by a callback."""


class FailAtEpoch(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise BrokenOff


def test_keras_own_function_is_back_after_an_error(reference, teacher):
    trainer = DistillationTrainer(nets.classifier(seed=12), teacher=teacher)
    trainer.compile("sgd")
    with pytest.raises(BrokenOff):
        trainer.fit(reference, epochs=2, callbacks=[FailAtEpoch()], verbose=0)
    assert trainer.steps_per_execution == 1
    assert not isinstance(getattr(trainer.train_function, "__self__", None), loop._Loop)
    before = nets.snapshot(trainer.student)
    x = tf.data.Dataset.from_tensors((reference[:5], teacher(reference[:5])))
    # What is meant by its own data is trained on that alone.
    keras.Model.fit(trainer, x.repeat(3), shuffle=False, verbose=0)
    by_hand = DistillationTrainer(nets.classifier(seed=12))
    by_hand.student.set_weights(before)
    by_hand.compile("sgd")
    outputs = teacher.predict(reference[:5], verbose=0)
    by_hand.fit(reference[:5], outputs, epochs=3, verbose=0)
    nets.assert_same_weights(trainer.student, nets.snapshot(by_hand.student), atol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
class OfUnknownSize(keras.metrics.CategoricalAccuracy):
    """A metric whose shape no graph knows."""

    def result(self):
        return tf.numpy_function(lambda value: value, [super().result()], tf.float32)


def test_metrics_of_unknown_shape(reference, teacher, in_keras_loop):
    arguments = {"metrics": [OfUnknownSize(name="odd")], "steps_per_execution": 3}
    own = train(reference, teacher, "sgd", **arguments)
    assert own[0]._speed.traced is not None
    assert_equal_trainings(own, in_keras_loop(reference, teacher, "sgd", **arguments))


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_mixed_precision_scales_the_loss_in_the_loop_too(reference, teacher, name, in_keras_loop):
    """Its scale grows every 2,000 steps, and is halved by a gradient that overflows."""

    def student():
        keras.config.set_dtype_policy("mixed_float16")
        try:
            return nets.classifier(seed=12)
        finally:
            keras.config.set_dtype_policy("float32")

    def optimizer():
        inner = keras.optimizers.get({"class_name": name, "config": {"learning_rate": 0.1}})
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**30)

    own = train(reference, teacher, optimizer(), student=student())
    kept = in_keras_loop(reference, teacher, optimizer(), student=student())
    nets.assert_same_weights(own[0].student, kept[0].student.get_weights(), atol=1e-2)
    np.testing.assert_allclose(own[1]["loss"], kept[1]["loss"], rtol=1e-2)
    scales = [float(trainer.optimizer.dynamic_scale) for trainer, _ in (own, kept)]
    assert scales[0] == scales[1] < 2.0**30
    variables = len(own[0].optimizer.variables)
    assert variables == len(kept[0].optimizer.variables)
    own[0].fit(reference, batch_size=5, verbose=0)
    assert len(own[0].optimizer.variables) == variables


class TrainsBesides(keras.callbacks.Callback):
    """Trains on data of its own where hooks are called."""

    def __init__(self, data, way, hooks):
        super().__init__()
        self.data, self.way, self.hooks = data, way, hooks

    def set_model(self, model):
        super().set_model(model)
        self.ours = model

    def _train(self, hook):
        if hook not in self.hooks:
            return
        if self.way == "batch":
            self.ours.train_on_batch(*self.data)
        elif self.way == "dataset":
            data = tf.data.Dataset.from_tensor_slices(self.data).batch(16)
            keras.Model.fit(self.ours, data, shuffle=False, verbose=0)
        else:
            self.ours.fit(self.data[0], batch_size=11, shuffle=False, verbose=0)

    def on_train_begin(self, logs=None):
        self._train("train_begin")

    def on_epoch_begin(self, epoch, logs=None):
        self._train("epoch_begin")

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            self._train("first_batch")

    def on_epoch_end(self, epoch, logs=None):
        self._train("epoch_end")


@pytest.mark.parametrize("way", ["batch", "dataset", "fit"])
@pytest.mark.parametrize("hook", [*slow("train_begin", "first_batch", "epoch_end"), "epoch_begin"])
def test_callbacks_train_on_their_own_data(reference, teacher, way, hook, in_keras_loop):
    x = nets.prototypes(33, seed=5)[0]
    data = x, teacher.predict(x, verbose=0)
    own, kept = (
        of(reference, teacher, "adam", callbacks=[TrainsBesides(data, way, {hook})])
        for of in (train, in_keras_loop)
    )
    assert int(own[0].optimizer.iterations) > STEPS
    nets.assert_same_weights(own[0].student, kept[0].student.get_weights(), atol=2e-6)


class FirstLayer(keras.callbacks.Callback):
    """Freezes the first layer, or thaws it, when the training begins."""

    def __init__(self, *, trainable):
        super().__init__()
        self.trainable = trainable

    def on_train_begin(self, logs=None):
        self.model.student.layers[0].trainable = self.trainable


class Schedule(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        rates = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
        self.model.optimizer.learning_rate = rates


@pytest.mark.parametrize("frozen", [*slow(False), True])
@pytest.mark.parametrize(
    "make",
    [lambda: FirstLayer(trainable=False), lambda: FirstLayer(trainable=True), lambda: Schedule()],
    ids=["freeze", "thaw", "schedule"],
)
def test_what_callbacks_set_when_the_training_begins(
    reference, teacher, make, frozen, in_keras_loop
):
    own, kept = (
        of(reference, teacher, "adam", student=with_first_layer(frozen), callbacks=[make()])
        for of in (train, in_keras_loop)
    )
    assert own[0]._speed.traced is not None
    assert_equal_trainings(own, kept)
    assert not np.allclose(
        own[0].student.get_weights()[2], with_first_layer(frozen).get_weights()[2]
    )


def with_first_layer(frozen):
    student = nets.classifier(seed=12)
    student.layers[0].trainable = not frozen
    return student


class MakesFunction(keras.callbacks.Callback):
    """Has Keras make a train function of the model as it is then."""

    def __init__(self, hook, way):
        super().__init__()
        self.hook, self.way = hook, way

    def _make(self, hook, epoch):
        if (hook, epoch) != (self.hook, 1):
            return
        if self.way == "frozen":
            self.model.student.layers[0].trainable = False
        if self.way == "compiled":
            self.model.compile("sgd", metrics=["accuracy"])
        if self.way == "afresh":
            self.model.train_function = None
        self.model.make_train_function(force=self.way != "afresh")

    def on_epoch_begin(self, epoch, logs=None):
        self._make("epoch_begin", epoch)

    def on_epoch_end(self, epoch, logs=None):
        self._make("epoch_end", epoch)


@pytest.mark.parametrize("way", ["frozen", "compiled", "afresh"])
@pytest.mark.parametrize("hook", ["epoch_begin", *slow("epoch_end")])
def test_callbacks_make_the_function_anew(reference, teacher, hook, way, in_keras_loop):
    """Gradual unfreezing does."""
    own, kept = (
        of(reference, teacher, "adam", callbacks=[MakesFunction(hook, way)])
        for of in (train, in_keras_loop)
    )
    assert_equal_trainings(own, kept)
    plain, _ = train(reference, teacher, "adam")
    assert (way == "afresh") == np.allclose(
        plain.student.get_weights()[0], own[0].student.get_weights()[0], atol=2e-6
    )


def test_a_function_made_anew_between_fits(reference, teacher, in_keras_loop):
    def trained(way):
        trainer, _ = way(reference, teacher, "adam")
        trainer.student.layers[0].trainable = False
        trainer.make_train_function(force=True)
        frozen = trainer.student.get_weights()[0]
        trainer.fit(reference, batch_size=7, shuffle=False, verbose=0)
        np.testing.assert_array_equal(trainer.student.get_weights()[0], frozen)
        return trainer.student

    nets.assert_same_weights(trained(train), trained(in_keras_loop).get_weights(), atol=2e-6)


class CompilesAtTheEnd(keras.callbacks.Callback):
    def on_train_end(self, logs=None):
        self.model.compile("adam", metrics=["top_k_categorical_accuracy"], steps_per_execution=4)


def test_what_a_callback_compiles_stays(teacher):
    x, y = nets.prototypes(7 * 40 + 3, seed=1)
    trainer = DistillationTrainer(nets.classifier(seed=12), teacher=teacher)
    trainer.compile("sgd", metrics=["accuracy"])
    trainer.evaluate(x, y, verbose=0)
    trainer.fit(x, batch_size=7, callbacks=[CompilesAtTheEnd()], verbose=0)
    assert trainer.steps_per_execution == 4
    results = trainer.evaluate(x, y, verbose=0, return_dict=True)
    assert set(results) == {"loss", "top_k_categorical_accuracy"}


def test_functions_are_left_as_they_were(teacher):
    x, y = nets.prototypes(7 * 40 + 3, seed=1)
    trainer = DistillationTrainer(nets.classifier(seed=12), teacher=teacher)
    trainer.compile("sgd")
    trainer.evaluate(x, y, verbose=0)
    evaluates, seen = trainer.test_function, Executions()
    trainer.fit(x, batch_size=7, validation_data=(x, y), callbacks=[seen], verbose=0)
    assert seen.steps == 3
    assert trainer.test_function is evaluates
    assert trainer.train_function is None


class Late(nets.Subclassed):
    """Has a layer that only training builds."""

    def __init__(self):
        super().__init__()
        self.aside = layers.Dense(nets.CLASSES, kernel_initializer="ones")

    def call(self, inputs, training=False):
        outputs = super().call(inputs)
        return outputs + 0.1 * self.aside(inputs) if training else outputs


@pytest.mark.filterwarnings("ignore:`build..` was called")
def test_layers_that_only_training_builds(reference, teacher, in_keras_loop):
    def student():
        keras.utils.set_random_seed(4)
        return Late()

    arguments = {"fit": {"settings": {"from_logits": True}}}
    own = train(reference, teacher, "adam", student=student(), **arguments)
    kept = in_keras_loop(reference, teacher, "adam", student=student(), **arguments)
    assert own[0]._speed.traced is not None
    assert_equal_trainings(own, kept)


def test_student_without_trainable_weights(reference, teacher):
    student = nets.classifier(seed=12)
    student.trainable = False
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        trainer, history = train(reference, teacher, "sgd", student=student)
    assert trainer._speed.traced is None
    assert len(set(history["loss"])) == 1


class StopsIteration(DistillationTrainer):
    """Has a bug that Keras takes for the end of the data."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return next(iter(()))


def test_step_that_raises_stop_iteration_does_not_pass_for_trained(reference, teacher):
    trainer = StopsIteration(nets.classifier(seed=12), teacher=teacher)
    trainer.compile("sgd")
    with pytest.raises(RuntimeError, match="Expected no StopIteration"):
        trainer.fit(reference, verbose=0)


class WithStep(DistillationTrainer):
    def train_step(self, data):
        x, outputs = data
        return super().train_step((x, -outputs))


class WithLoss(DistillationTrainer):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 2.0 * super().compute_loss(x, y, y_pred, sample_weight, training)


class WithFunction(DistillationTrainer):
    def make_train_function(self, force=False):
        super().make_train_function(force)
        self.made = self.train_function

    def check(self):
        assert self.made is not None


@pytest.mark.parametrize("kind", [WithStep, WithLoss, WithFunction])
def test_what_a_subclass_overrides_is_called(reference, teacher, kind, in_keras_loop):
    trainer = kind(nets.classifier(seed=12, kernel_regularizer="l2"), teacher=teacher)
    trainer.compile("sgd")
    arguments = {"batch_size": 7, "epochs": 3, "shuffle": False, "verbose": 0}
    history = trainer.fit(reference, **arguments).history
    assert trainer._speed.traced is None
    own, own_history = in_keras_loop(reference, teacher, "sgd")
    if kind is WithFunction:
        trainer.check()
        nets.assert_same_weights(trainer.student, own.student.get_weights())
    else:
        assert not np.allclose(history["loss"], own_history["loss"])


def test_step_of_the_model_itself_is_called(reference, teacher):
    trainer = DistillationTrainer(nets.classifier(seed=12), teacher=teacher)
    trainer.compile("sgd")
    calls, own = [], trainer.train_step
    trainer.train_step = lambda data: calls.append(data) or own(data)
    trainer.fit(reference, verbose=0)
    assert calls
    assert trainer._speed.traced is None


class OwnMetrics(keras.Sequential):
    """Tracks its loss as Keras' guide to custom losses has it."""

    @property
    def metrics(self):
        return [self.own]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight)
        self.own.update_state(loss)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {"own": self.own.result()}


def test_model_with_metrics_of_its_own():
    x, y = nets.prototypes(80, seed=1)
    own, plain = (kind(nets.classifier(seed=3).layers) for kind in (OwnMetrics, keras.Sequential))
    own.own = keras.metrics.Mean()
    histories = []
    for model in (own, plain):
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        batches = ResidentBatches((x, y), batch_size=16, shuffle=True, seed=4)
        histories.append(loop.fit(model, batches, epochs=3, verbose=0).history)
    nets.assert_same_weights(own, plain.get_weights(), atol=1e-6)
    np.testing.assert_allclose(histories[0]["own"], histories[1]["loss"], rtol=1e-5)


class TwoInputs(keras.Model):
    """A net of two inputs in whatever structure they come."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def call(self, inputs):
        one, two = inputs.values() if isinstance(inputs, dict) else inputs
        return self.first(one) + self.second(two)


@pytest.mark.parametrize("structure", ["list", "tuple", "dict", "mapped"])
def test_structures_of_inputs(structure, keras_loops, tmp_path):
    x, y = nets.prototypes(50, seed=1)
    parts = x, np.flip(x, axis=1).copy()
    if structure == "mapped":
        np.save(tmp_path / "x.npy", parts[0])
        parts = np.load(tmp_path / "x.npy", mmap_mode="r"), parts[1]
    x = {"list": list, "dict": lambda of: dict(zip("ab", of, strict=True))}.get(structure, tuple)(
        parts
    )

    def trained():
        model = TwoInputs(nets.classifier(seed=3), nets.classifier(seed=4))
        model(x if structure != "list" else parts)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        batches = ResidentBatches((x, y), batch_size=7, shuffle=True, seed=4)
        speed = loop.ChosenSpeed()
        history = loop.fit(model, batches, epochs=3, speed=speed, verbose=0).history
        return model, history, speed

    model, history, speed = trained()
    # Steps that read from a file would keep it.
    assert (speed.traced is None) == (structure == "mapped")
    keras_loops()
    other, other_history, _ = trained()
    nets.assert_same_weights(model, other.get_weights(), atol=1e-6)
    np.testing.assert_allclose(history["loss"], other_history["loss"], rtol=1e-5)


def test_samples_go_with_their_owner(reference, teacher):
    """The steps that are kept for a next `fit` keep nothing of what they were trained on."""
    model = nets.classifier(seed=3)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    speed = loop.ChosenSpeed()
    traced, columns = [], []
    for samples in (40, 50):
        batches = ResidentBatches(nets.prototypes(samples), batch_size=7, shuffle=True, seed=4)
        columns += [weakref.ref(column) for column in batches.columns]
        loop.fit(model, batches, epochs=2, speed=speed, verbose=0)
        traced.append(speed.traced)
    assert traced[0] is traced[1] is not None
    del batches
    gc.collect()
    assert [column() for column in columns] == [None] * 4


class Traces(layers.Layer):
    """Counts how often it is traced."""

    traces = 0

    def call(self, x, training=False):
        self.traces += int(training)
        return x


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [(None, {}), (None, {"label_format": 2}), ("one device", {})],
)
def test_a_second_fit_traces_nothing(teacher, strategy, settings):
    x, y = nets.prototypes(7 * 40 + 3, seed=1)
    scope = contextlib.nullcontext()
    if strategy is not None:
        scope = tf.distribute.OneDeviceStrategy("CPU:0").scope()
    with scope:
        student = layered(Traces())
        trainer = DistillationTrainer(student, teacher=teacher, **settings)
    trainer.compile("sgd")
    traces = []
    for _ in range(3):
        trainer.fit(x, batch_size=7, validation_data=(x, y), verbose=0)
        assert trainer.steps_per_execution == 1
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


class Executions(keras.callbacks.Callback):
    """Notes the steps of an execution."""

    def on_epoch_end(self, epoch, logs=None):
        self.steps = self.model.steps_per_execution


def test_several_steps_an_execution_equal_single_ones(teacher):
    x = nets.prototypes(7 * 40 + 3, seed=1)[0]
    seen = Executions()
    trainer, history = train(x, teacher, "adam", callbacks=[seen])
    assert seen.steps == 3
    single, single_history = train(x, teacher, "adam", steps_per_execution=1, callbacks=[seen])
    assert seen.steps == 1
    nets.assert_same_weights(trainer.student, single.student.get_weights(), atol=1e-6)
    np.testing.assert_allclose(history["loss"], single_history["loss"], rtol=1e-5)


class SeesTestBatches(keras.callbacks.Callback):
    def on_test_batch_end(self, batch, logs=None):
        pass


@pytest.mark.parametrize(
    ("callback", "steps"),
    [
        (keras.callbacks.EarlyStopping("loss"), 3),
        (nets.Steps(), 1),
        (keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: None), 3),
        (keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None), 1),
        (SeesTestBatches(), 1),
    ],
)
def test_callbacks_that_look_at_batches_see_each(teacher, callback, steps):
    x = nets.prototypes(7 * 40, seed=1)[0]
    seen = Executions()
    trainer, _ = train(x, teacher, "adam", callbacks=[callback, seen])
    assert seen.steps == steps
    assert trainer.steps_per_execution == 1

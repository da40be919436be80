"""Copies of optimizers and metrics keep every setting, or are refused."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from keras_dmp import DMPTrainer
from keras_dmp._training.copies import copied, copied_optimizer


class Boosted(optimizers.SGD):
    """Has an argument that its configuration does not tell."""

    def __init__(self, learning_rate=0.01, boost=1.0, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.boost = boost
        self.table = {"steps": [1, 2]}

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient * self.boost, variable, learning_rate)


class NeedsArgument(optimizers.SGD):
    def __init__(self, boost):
        super().__init__(0.1)
        self.boost = boost


class Warmup(optimizers.schedules.LearningRateSchedule):
    """Not registered, as in tutorials."""

    def __init__(self, steps=10):
        self.steps = steps

    def __call__(self, step):
        return 0.01 * keras.ops.minimum(1.0, (keras.ops.cast(step, "float32") + 1) / self.steps)

    def get_config(self):
        return {"steps": self.steps}


class Scaled(Warmup):
    """Has an argument that its configuration does not tell."""

    def __init__(self, steps=10, scale=1.0):
        super().__init__(steps)
        self.scale = scale

    def __call__(self, step):
        return self.scale * super().__call__(step)


class Weighted(optimizers.SGD):
    """Its factor is a tensor or a variable that is no state, and its configuration omits it."""

    def __init__(self, learning_rate=0.01, factor=1.0, make=tf.constant, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.make, self.factor = make, make(factor)

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient * self.factor, variable, learning_rate)


class OfNet(keras.metrics.Mean):
    """Holds a model of its own."""

    def __init__(self, net=None, **kwargs):
        super().__init__(**kwargs)
        self.net = net or keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


class WithoutConfig(Warmup):
    get_config = optimizers.schedules.LearningRateSchedule.get_config


def excluding():
    optimizer = optimizers.AdamW(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def set_later():
    optimizer = Boosted(0.1)
    optimizer.boost = 3.0
    optimizer.table["steps"] = [5]
    return optimizer


OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.2, momentum=0.9, nesterov=True, clipvalue=0.1),
    "adam": lambda: optimizers.Adam(0.05, amsgrad=True, use_ema=True, ema_overwrite_frequency=2),
    "accumulation": lambda: optimizers.Adam(0.05, gradient_accumulation_steps=2),
    "lion": lambda: optimizers.Lion(0.05, weight_decay=0.1),
    "excluding": excluding,
    "own argument": lambda: Boosted(0.1, boost=7.0),
    "set later": set_later,
    "schedule": lambda: optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
    "own schedule": lambda: optimizers.SGD(Warmup(3)),
    "own schedule with an argument": lambda: optimizers.SGD(Scaled(3, scale=7.0)),
    "scaled with a schedule": lambda: optimizers.LossScaleOptimizer(
        optimizers.SGD(Scaled(3, scale=7.0)), initial_scale=8.0
    ),
    "tensor": lambda: Weighted(0.1),
    "scaled": lambda: optimizers.LossScaleOptimizer(Boosted(0.1, boost=2.0), initial_scale=8.0),
}


def updated(optimizer):
    """Weights after three updates."""
    weights = [keras.Variable(np.ones(3, "float32"), name=name) for name in ("kernel", "bias")]
    for step in range(3):
        gradients = [np.full(3, 0.1 * (step + 1) * scale, "float32") for scale in (1, 2)]
        optimizer.apply(list(map(keras.ops.convert_to_tensor, gradients)), weights)
    return np.stack([np.array(weight) for weight in weights])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_copied_optimizer_updates_the_same(name):
    original = OPTIMIZERS[name]()
    copy = copied_optimizer(original)
    again = copied_optimizer(copy)
    expected = updated(original)
    for one in (copy, again):
        assert type(one) is type(original)
        assert int(one.iterations) == 0
        np.testing.assert_allclose(updated(one), expected, rtol=1e-6)


def test_copy_of_a_used_optimizer_is_fresh():
    original = OPTIMIZERS["adam"]()
    expected = updated(original)
    copy = copied_optimizer(original)
    assert not copy.built
    np.testing.assert_allclose(updated(copy), expected, rtol=1e-6)


def test_copies_share_nothing_that_changes():
    original = set_later()
    copy = copied_optimizer(original)
    copy.table["steps"].append(9)
    assert list(original.table["steps"]) == [5]


def excluding_variables():
    optimizer = optimizers.AdamW(0.01)
    optimizer.exclude_from_weight_decay(var_list=[keras.Variable(1.0)])
    return optimizer


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (excluding_variables, "var_names"),
        (lambda: NeedsArgument(2.0), "NeedsArgument"),
        (lambda: optimizers.SGD(WithoutConfig()), "get_config"),
        (lambda: Weighted(0.1, 5.0), "factor"),
        (lambda: Weighted(0.1, 5.0, keras.Variable), "factor"),
        (lambda: Weighted(0.1, 5.0, tf.Variable), "factor"),
    ],
)
def test_what_cannot_be_copied_is_refused_in_compile(make, named):
    for arguments in ({"optimizer": make()}, {"teacher_optimizer": make()}):
        trainer = DMPTrainer(nets.classifier, selector=None)
        with pytest.raises(ValueError, match=next(iter(arguments))) as refused:
            trainer.compile(loss="sparse_categorical_crossentropy", **arguments)
        assert named in str(refused.value)


class Above(keras.metrics.Metric):
    """Share of outputs above a threshold, without a configuration."""

    def __init__(self, threshold=0.5, name="above", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold
        self.share = keras.metrics.Mean()

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.share.update_state(keras.ops.cast(y_pred > self.threshold, "float32"))

    def result(self):
        return self.share.result()


def distance(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


METRICS = {
    "keras": lambda: keras.metrics.BinaryAccuracy(threshold=0.25),
    "own": lambda: Above(0.7),
    "function": lambda: keras.metrics.MeanMetricWrapper(distance, name="distance"),
    # The name of its function is its own name too.
    "lambda": lambda: keras.metrics.MeanMetricWrapper(lambda y, p: distance(y, p), name="odd"),
}


@pytest.mark.parametrize("name", METRICS)
def test_copied_metric_gives_the_same(name):
    original = METRICS[name]()
    copy = copied([original], "metrics")[0]
    y, p = np.eye(3, dtype="float32"), np.full((3, 3), 0.3, "float32") + 0.5 * np.eye(3)
    assert copy.name == original.name
    assert float(copy(y, p)) == float(original(y, p))
    copy.reset_state()
    original.update_state(y, 1 - p)
    assert float(copy(y, p)) == float(METRICS[name]()(y, p))


def test_metric_that_would_get_another_model_is_refused():
    with pytest.raises(ValueError, match="net would be lost"):
        copied([OfNet()], "metrics")


def test_names_functions_and_structures_of_metrics_stay():
    assert copied(None, "metrics") is None
    assert copied(["accuracy", distance], "metrics") == ["accuracy", distance]
    assert copied({"a": ["mse"]}, "metrics") == {"a": ["mse"]}


class Hits(keras.metrics.Mean):
    """Accuracy of labels that are numbers, in a class."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(hits(y_true, y_pred), sample_weight=sample_weight)


def hits(y_true, y_pred):
    assert len(y_true.shape) == 1
    found = keras.ops.argmax(y_pred, axis=-1)
    return keras.ops.equal(keras.ops.cast(y_true, "int64"), keras.ops.cast(found, "int64"))


def column_hits(y_true, y_pred):
    assert y_true.shape[1] == 1
    return hits(y_true[:, 0], y_pred)


def one_hot_hits(y_true, y_pred):
    assert y_true.shape[1] == nets.CLASSES
    return hits(keras.ops.argmax(y_true, axis=-1), y_pred)


def new_classifier():
    return keras.Sequential([keras.Input((nets.FEATURES,)), keras.layers.Dense(nets.CLASSES)])


@pytest.mark.parametrize(
    ("form", "metric", "loss"),
    [
        (lambda y: y, hits, keras.losses.SparseCategoricalCrossentropy),
        pytest.param(
            *(lambda y: y, Hits, keras.losses.SparseCategoricalCrossentropy),
            marks=pytest.mark.full,
        ),
        pytest.param(
            *(lambda y: y[:, None], column_hits, keras.losses.SparseCategoricalCrossentropy),
            marks=pytest.mark.full,
        ),
        (lambda y: np.eye(nets.CLASSES)[y], one_hot_hits, keras.losses.CategoricalCrossentropy),
    ],
    ids=["numbers", "class", "column", "one-hot"],
)
def test_own_metrics_get_labels_as_the_loss_does(form, metric, loss):
    x, y = nets.prototypes(60, seed=1)
    trainer = DMPTrainer(new_classifier, selector=None, seed=0)
    own = metric(name="hits") if isinstance(metric, type) else metric
    trainer.compile("sgd", loss(from_logits=True), metrics=[own, "accuracy"])
    history = trainer.fit(
        x[:20],
        form(y[:20]),
        reference=x[20:40],
        validation_data=(x[40:], form(y[40:])),
        verbose=0,
    ).history
    name = "hits" if isinstance(metric, type) else metric.__name__
    assert history[f"val_{name}"] == history["val_accuracy"]
    assert history[name] == history["accuracy"]
    assert history[f"teacher_{name}"] == history["teacher_accuracy"]

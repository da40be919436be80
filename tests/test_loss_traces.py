import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dmp.callbacks.loss_traces import LossTraces

CLASSES = 3


def data(samples=60, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(samples, 8)).astype("float32"), np.arange(samples) % CLASSES
    x[:, 0] += 4 * y
    return x, y


def compiled(seed=0, rate=0.01):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(CLASSES)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    return model


def train(traces, model=None, epochs=4, **settings):
    model = model or compiled()
    callbacks = [*settings.pop("callbacks", ()), *([traces] if traces else [])]
    model.fit(*data(), epochs=epochs, callbacks=callbacks, shuffle=False, verbose=0, **settings)
    return model


def test_losses_are_those_of_the_model_after_each_epoch():
    x, y = data()
    model, expected = compiled(), []

    def look(epoch, logs):
        logits = model.predict(x, verbose=0).astype(np.float64)
        log_p = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
        expected.append(-log_p[np.arange(len(y)), y])

    traces = LossTraces((x, y), batch_size=7)
    train(traces, model, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=look)])
    assert traces.losses.shape == (4, 60)
    np.testing.assert_allclose(traces.losses, expected, rtol=1e-4, atol=1e-6)


def test_training_is_the_same_with_and_without():
    plain, traced = train(None), train(LossTraces(data()))
    for one, other in zip(plain.get_weights(), traced.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_second_epoch():
    every, some = LossTraces(data()), LossTraces(data(), every=2)
    train(every, epochs=5)
    train(some, epochs=5)
    np.testing.assert_array_equal(some.losses, every.losses[::2])


def test_ranges_by_hand():
    traces = LossTraces(data(samples=3))
    losses = np.array([[4.0, 1, 9], [3, 1, 0], [2, 1, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    traces.set_state({"losses": losses})
    assert traces.interquantile_range().tolist() == [2.0, 0.0, 0.0]
    assert traces.interquantile_range(0, 1).tolist() == [4.0, 0.0, 9.0]
    assert traces.most_exposed(2) == ((0, 2.0), (1, 0.0))
    np.testing.assert_array_equal(traces.get_state()["losses"], losses)


def test_epochs_that_are_not_finite_do_not_count():
    traces = LossTraces(data(samples=1))
    traces.set_state({"losses": np.array([[3.0], [np.nan], [2.0], [1.0], [0.0]], np.float32)})
    assert traces.interquantile_range().tolist() == [1.5]


def test_a_model_that_diverges_is_recorded_as_nan():
    traces, model = LossTraces(data()), compiled()

    def diverge(epoch, logs):
        if epoch == 1:
            model.set_weights([np.full_like(weights, np.nan) for weights in model.get_weights()])

    train(traces, model, 2, callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=diverge)])
    assert np.isfinite(traces.losses[0]).all()
    assert np.isnan(traces.losses[1]).all()


@pytest.mark.full
def test_wrong_labels_range_most():
    x, y = data()
    wrong = [23, 41]
    y[wrong] = (y[wrong] + 1) % CLASSES
    traces, model = LossTraces((x, y)), compiled(rate=0.02)
    model.fit(x, y, epochs=60, callbacks=[traces], verbose=0)
    assert {row for row, _ in traces.most_exposed(2)} == set(wrong)


def test_a_second_fit_begins_anew():
    traces = LossTraces(data())
    model = train(traces, epochs=3)
    train(traces, model, epochs=2)
    assert len(traces.losses) == 2


@pytest.mark.parametrize("epochs", [0, 3])
def test_too_few_epochs(epochs):
    traces = LossTraces(data(samples=2))
    traces.set_state({"losses": np.zeros((epochs, 2), np.float32)})
    with pytest.raises(ValueError, match=rf"at least 4 epochs.*smaller `every`.* {epochs} epochs"):
        traces.most_exposed()


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (0.9, 0.1), (-0.1, 0.5), (0.5, 1.1)])
def test_quantiles_out_of_order(low, high):
    with pytest.raises(ValueError, match=f"`low` and `high` .*low={low}, high={high}"):
        LossTraces(data()).interquantile_range(low, high)


def test_members_that_are_no_arrays():
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(10)
    with pytest.raises(TypeError, match=r"`members` to be a tuple .*Received: .*Dataset"):
        LossTraces(dataset)
    with pytest.raises(ValueError, match=r"`every`.*every=0"):
        LossTraces(data(), every=0)


def test_labels_that_the_model_does_not_have():
    x, y = data()
    with pytest.raises(ValueError, match="members labels"):
        train(LossTraces((x, y + 1)))

"""What a callback is made of, as plain values and back."""

import math
import pathlib

import keras
import numpy as np
import pytest

from keras_dmp._storage import plain_values
from keras_dmp._training import callback_state

PLAIN = {
    "numbers": [1, -2.5, math.inf, True, None],
    "nested": {"tuple": (1, ("a",)), 3: {"deep": []}, "set": {1, 2}},
    "array": np.arange(4.0).reshape(2, 2),
    "scalar": np.float32(0.1),
    "path": pathlib.Path("logs") / "a.csv",
}


class Plain(keras.callbacks.Callback):
    def __init__(self, **attributes):
        super().__init__()
        vars(self).update(attributes)


class Own(keras.callbacks.Callback):
    """A callback that knows how to save what its attributes do not show."""

    def __init__(self):
        super().__init__()
        self.lock = object()
        self.seen = 3

    def get_state(self):
        return {"seen": self.seen}

    def set_state(self, state):
        self.seen = state["seen"]


def round_trip(value):
    arrays = []
    return plain_values.decode(plain_values.encode(value, arrays), arrays)


def test_plain_values_come_back_with_their_types():
    found = round_trip(PLAIN)
    assert found.keys() == PLAIN.keys()
    for name in ("numbers", "nested", "path"):
        assert found[name] == PLAIN[name]
    assert type(found["nested"]["tuple"]) is tuple
    np.testing.assert_array_equal(found["array"], PLAIN["array"])
    assert found["array"].flags.writeable
    assert type(found["scalar"]) is np.float32
    assert found["scalar"] == np.float32(0.1)


@pytest.mark.parametrize(
    "value",
    [object(), np.array([object()]), np.zeros(2, "i4,f4"), [1, {2: object()}], 1j],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_refused(value):
    with pytest.raises(plain_values.UnsavableError):
        plain_values.encode(value, [])


def test_attributes_are_the_state_and_functions_are_code():
    callback = Plain(seen=[1, 2], best=0.5, compare=np.less, schedule=lambda epoch: epoch)
    callback.set_model(keras.Sequential())
    callback.set_params({"epochs": 3})
    state = callback_state.state_of(callback)
    assert state == {"seen": [1, 2], "best": 0.5}
    other = Plain(seen=[], best=None)
    callback_state.set_state(other, state)
    assert other.seen == [1, 2]
    assert other.best == 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.callbacks.ReduceLROnPlateau(patience=2, min_delta=0.05, cooldown=1),
        lambda: keras.callbacks.EarlyStopping(patience=3, min_delta=0.05),
        lambda: keras.callbacks.ModelCheckpoint("never.keras", save_freq=10_000),
    ],
    ids=["ReduceLROnPlateau", "EarlyStopping", "ModelCheckpoint"],
)
@pytest.mark.parametrize("broken_off", [1, 2, 5, 8])
def test_callbacks_of_keras_go_on_as_if_nothing_had_happened(make, broken_off):
    losses = [1.0, 0.9, 0.88, 0.87, 0.7, 0.69, 0.68, 0.67, 0.66, 0.65, 0.64, 0.64]

    def run(callback, epochs, rate, state=None):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(rate), "mse")
        model.stop_training = False
        callback.set_model(model)
        callback.on_train_begin()
        if state is not None:
            callback_state.set_state(callback, round_trip(state))
        seen = []
        for epoch in epochs:
            callback.on_epoch_end(epoch, {"loss": losses[epoch], "val_loss": losses[epoch]})
            rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
            seen.append((rate, model.stop_training))
        return seen, rate

    whole, _ = run(make(), range(len(losses)), 1.0)
    callback = make()
    before, rate = run(callback, range(broken_off), 1.0)
    state = callback_state.state_of(callback)
    after, _ = run(make(), range(broken_off, len(losses)), rate, state)
    assert before + after == whole


def test_what_keras_callbacks_are_made_with_is_not_their_state(tmp_path):
    old = keras.callbacks.ModelCheckpoint("old.keras", monitor="loss", save_best_only=True)
    old.best = 0.25
    new = keras.callbacks.ModelCheckpoint("new.keras", monitor="loss", save_best_only=True)
    callback_state.set_state(new, round_trip(callback_state.state_of(old)))
    assert (new.filepath, new.best) == ("new.keras", 0.25)


def test_a_log_that_goes_on_has_one_header(tmp_path):
    state = None
    for epoch in range(3):
        logger = keras.callbacks.CSVLogger(tmp_path / "log.csv", append=True)
        logger.on_train_begin()
        if state is not None:
            callback_state.set_state(logger, round_trip(state))
        logger.on_epoch_end(epoch, {"loss": 0.5})
        state = callback_state.state_of(logger)
        logger.on_train_end()
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert rows == ["epoch,loss,val_loss", "0,0.5,NA", "1,0.5,NA", "2,0.5,NA"]


def test_settings_are_those_that_steer():
    stop = keras.callbacks.EarlyStopping("loss", patience=3, min_delta=0.5, mode="min", verbose=1)
    expected = callback_state.settings_of(stop)
    assert {"patience", "min_delta", "monitor"} <= expected.keys()
    assert "verbose" not in expected
    stop.set_model(keras.Sequential())
    stop.on_train_begin()
    stop.on_epoch_end(0, {"loss": 1.0})
    assert stop.min_delta == -0.5
    assert callback_state.settings_of(stop) == expected
    assert callback_state.settings_of(keras.callbacks.ModelCheckpoint("a.keras")) == {}
    assert callback_state.settings_of(Plain(seen=[1])) == {}


def test_own_methods_come_first():
    callback = Own()
    callback.seen = 8
    state = callback_state.state_of(callback)
    assert state == {"seen": 8}
    other = Own()
    callback_state.set_state(other, state)
    assert other.seen == 8


@pytest.mark.parametrize(
    "callback",
    [
        keras.callbacks.EarlyStopping(),
        keras.callbacks.ReduceLROnPlateau(),
        keras.callbacks.ModelCheckpoint("model.keras"),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        keras.callbacks.CSVLogger("log.csv", append=True),
        keras.callbacks.TensorBoard("logs"),
        keras.callbacks.SwapEMAWeights(),
        Own(),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_callbacks_of_keras_can_be_saved(callback):
    callback_state.require_savable([callback], "callbacks")
    state = callback_state.state_of(callback)
    assert round_trip(state) == state


@pytest.mark.parametrize("kind", ["function", "method", "builtin_function_or_method"])
def test_functions_that_remember_are_refused(kind):
    seen = []
    hook = {
        "function": lambda epoch, logs: seen.append(epoch),
        "method": Plain(seen=seen).on_epoch_end,
        "builtin_function_or_method": seen.append,
    }[kind]
    callback = keras.callbacks.LambdaCallback(on_epoch_end=hook)
    with pytest.raises(ValueError, match=f"LambdaCallback, where `on_epoch_end` is of type {kind}"):
        callback_state.require_savable([callback], "callbacks")


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Plain(file=open), None),
        (Plain(new=dict.fromkeys), None),
        (Plain(file=object()), r"callback in `callbacks` to be savable.*Plain, where `file` is of"),
        (keras.callbacks.CSVLogger("log.csv"), "append=True with `directory`.*append=False"),
        (
            keras.callbacks.BackupAndRestore("backup"),
            "Received: a BackupAndRestore",
        ),
    ],
    ids=["code", "class method", "object", "CSVLogger", "BackupAndRestore"],
)
def test_what_cannot_be_saved_is_refused(callback, message):
    if message is None:
        callback_state.require_savable([callback], "callbacks")
        return
    with pytest.raises(ValueError, match=message):
        callback_state.require_savable([callback], "callbacks")


class Chooses(keras.callbacks.Callback):
    """Chooses a function, and makes an attribute, while training."""

    def __init__(self):
        super().__init__()
        self.compare = None
        self.seen = 1

    def on_epoch_end(self, epoch, logs=None):
        self.compare = abs
        self.later = epoch


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (keras.callbacks.EarlyStopping, {"get_monitor_value": 1.0}),
        (keras.callbacks.EarlyStopping, {"_is_improvement": "text"}),
        (keras.callbacks.EarlyStopping, {"monitor_op": 1.0}),
        (keras.callbacks.EarlyStopping, {"__class__": 1.0}),
        (keras.callbacks.EarlyStopping, {"best": "import os"}),
        (keras.callbacks.EarlyStopping, {"wait": [1]}),
        (keras.callbacks.EarlyStopping, {"patience": 1}),
        (keras.callbacks.CSVLogger, {"writer": "text"}),
        (Chooses, {"model": 1}),
        (Chooses, {"on_epoch_end": 1}),
        (Chooses, {"other": 1}),
    ],
)
def test_only_attributes_that_are_state_are_set(make, state):
    callback = make("log.csv", append=True) if make is keras.callbacks.CSVLogger else make()
    callback.on_train_begin() if make is keras.callbacks.EarlyStopping else None
    before = dict(vars(callback))
    (name,) = state
    with pytest.raises(ValueError, match=f"that would set '{name}'"):
        callback_state.set_state(callback, state)
    assert vars(callback) == before


def test_names_of_functions_are_not_looked_up():
    for forged in ({"function": ["os", "system"]}, {"dict": [["a", {"function": ["os", "x"]}]]}):
        with pytest.raises(ValueError, match="values that are not encoded as they should be"):
            plain_values.decode(forged, [])


def test_what_cannot_be_put_back_is_told():
    callback = Chooses()
    attributes = callback_state.attributes_of(callback)
    callback.on_epoch_end(3)
    with pytest.warns(UserWarning, match="`compare` of the callback Chooses .* a function"):
        state = callback_state.state_of(callback, attributes)
    # The class assigns it, so that it is known before it is there.
    assert state == {"seen": 1, "later": 3}
    callback_state.set_state(Chooses(), state)
    callback = Chooses()
    callback.made_up = 5
    with pytest.warns(UserWarning, match="`made_up` of the callback Chooses was created"):
        assert callback_state.state_of(callback, attributes) == {"compare": None, "seen": 1}

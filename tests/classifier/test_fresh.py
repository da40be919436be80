import keras
import nets
import numpy as np
import pytest
from keras import layers

from keras_dmp import PrivacyWarning
from keras_dmp._classifier import fresh


def seeded():
    """Initializers with seeds of their own, which a plain clone would repeat."""
    initializer = keras.initializers.GlorotUniform(seed=1)
    return keras.Sequential(
        [keras.Input((nets.FEATURES,)), layers.Dense(4, kernel_initializer=initializer)]
    )


def functional():
    inputs = keras.Input((nets.FEATURES,))
    hidden = layers.Dense(nets.HIDDEN, activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(4)(layers.BatchNormalization()(hidden)))


def nested():
    return keras.Sequential([keras.Input((nets.FEATURES,)), functional(), layers.Softmax()])


@pytest.mark.parametrize(
    ("build", "as_callable"),
    [
        # What seeds a callable sets itself is its caller's choice.
        (functional, True),
        (functional, False),
        (nets.classifier, False),
        (seeded, False),
        (nested, False),
    ],
)
def test_fresh_weights_even_after_the_same_seed(build, as_callable):
    keras.utils.set_random_seed(7)
    model = build()
    first = fresh.fresh_model(build if as_callable else model)
    second = fresh.fresh_model(build if as_callable else model)
    for one, other in [(model, first), (model, second), (first, second)]:
        assert fresh.shared_share(one, other) == 0
    assert [w.shape for w in first.get_weights()] == [w.shape for w in model.get_weights()]
    x = nets.prototypes(5)[0]
    assert first(x).shape == model(x).shape


def test_the_model_given_is_not_changed():
    model = seeded()
    before, config = nets.snapshot(model), model.get_config()
    fresh.fresh_clone(model)
    nets.assert_same_weights(model, before)
    assert model.get_config() == config
    assert model.layers[0].kernel_initializer.get_config()["seed"] == 1


@pytest.mark.parametrize("nest", [False, True])
def test_adapted_statistics_are_kept(nest):
    x = nets.prototypes(50)[0] * 3 + 5
    normalization = layers.Normalization()
    normalization.adapt(x)
    body = [keras.Input((nets.FEATURES,)), normalization]
    front = [keras.Sequential(body)] if nest else body
    model = keras.Sequential([*front, layers.Dense(4)])
    model(x)
    clone = fresh.fresh_clone(model)
    outputs = [
        np.array((m.layers[0].layers[0] if nest else m.layers[0])(x)) for m in (model, clone)
    ]
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-6)
    assert abs(outputs[1].mean()) < 0.1
    assert fresh.shared_share(model, clone) == 0
    with pytest.warns(PrivacyWarning, match="adapted layers normalization"):
        fresh.warn_of_adapted_layers(clone)


def test_vocabularies_are_kept():
    lookup = layers.StringLookup(output_mode="one_hot")
    lookup.adapt(["milk", "bread", "milk"])
    model = keras.Sequential([keras.Input((1,), dtype="string"), lookup, layers.Dense(3)])
    clone = fresh.fresh_clone(model)
    assert clone.layers[0].get_vocabulary() == lookup.get_vocabulary()


def test_a_model_without_adapted_layers_warns_of_nothing():
    fresh.warn_of_adapted_layers(nets.classifier())


def test_shared_share_counts_parameters():
    one, other = nets.classifier(seed=1), nets.classifier(seed=2)
    assert fresh.shared_share(one, one) == 1
    assert fresh.shared_share(one, other) == 0
    other.layers[1].set_weights(one.layers[1].get_weights())
    last = nets.HIDDEN * nets.CLASSES + nets.CLASSES
    assert fresh.shared_share(one, other) == pytest.approx(last / one.count_params())


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (3, TypeError, "a keras.Model or a callable that builds one. Received: int"),
        (lambda: 3, TypeError, "callable `model` to return a keras.Model. Received: int"),
        (
            type(
                "NoConfig", (keras.Model,), {"__init__": lambda self, a: keras.Model.__init__(self)}
            )(1),
            ValueError,
            "(?s)a model that Keras can clone.* pass a callable",
        ),
    ],
)
def test_refuses(model, error, message):
    with pytest.raises(error, match=message):
        fresh.fresh_model(model)

import keras
import nets
import numpy as np
import pytest
from keras import layers

from keras_dmp import DMPTrainer, PrivacyWarning, audit_membership, split_private
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
        (3, TypeError, "a keras.Model or a callable that builds one. Received: model of type int"),
        (
            lambda: 3,
            TypeError,
            "callable `model` to return a keras.Model.*a return value of type int",
        ),
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


def normalization_with_constants():
    return keras.layers.Normalization(mean=0.5, variance=2.0)


@pytest.mark.parametrize(
    "layer",
    [
        normalization_with_constants,
        keras.layers.Normalization,
        lambda: keras.layers.Discretization(bin_boundaries=[-1.0, 0.0, 1.0]),
    ],
    ids=["constants", "never adapted", "boundaries"],
)
def test_constants_of_preprocessing_layers_are_not_statistics(layer):
    model = keras.Sequential([keras.Input((4,)), layer(), keras.layers.Dense(2)])
    fresh.warn_of_adapted_layers(model)
    fresh.warn_of_adapted_layers(fresh.fresh_clone(model))


def test_adapted_boundaries_are_statistics():
    layer = keras.layers.Discretization(num_bins=3)
    layer.adapt(np.random.default_rng(0).normal(size=(50, 4)))
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2)])
    with pytest.warns(PrivacyWarning, match="adapted layers discretization"):
        fresh.warn_of_adapted_layers(model)


def frozen_base():
    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="pretrained")])
    base.trainable = False
    return keras.Sequential([keras.Input((4,)), base, keras.layers.Dense(2)])


def test_frozen_layers_stay_frozen_and_lose_their_weights_with_a_warning():
    model = frozen_base()
    with pytest.warns(PrivacyWarning, match="frozen layers pretrained were redrawn"):
        clone = fresh.fresh_model(model)
    assert len(clone.trainable_variables) == len(model.trainable_variables) == 2
    assert fresh.shared_share(clone, model) == 0.0


def test_a_callable_keeps_its_frozen_base_without_a_warning():
    model = frozen_base()
    assert fresh.fresh_model(lambda: model) is model


def test_one_frozen_layer_among_trainable_ones_stays_the_only_one():
    model = nets.classifier()
    model.layers[0].trainable = False
    with pytest.warns(PrivacyWarning, match=f"frozen layers {model.layers[0].name} were"):
        clone = fresh.fresh_clone(model)
    assert [layer.trainable for layer in clone.layers] == [False, True]


def test_adapted_layers_in_a_frozen_base_are_kept_without_a_warning():
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(size=(50, 4)))
    base = keras.Sequential([keras.Input((4,)), layer])
    base.trainable = False
    clone = fresh.fresh_clone(keras.Sequential([keras.Input((4,)), base, keras.layers.Dense(2)]))
    np.testing.assert_allclose(clone.layers[0].layers[0].mean, layer.mean)


def adapted(layer, data):
    layer.adapt(data)
    return layer


def on_numbers(layer, *head):
    return [keras.Input((nets.FEATURES,)), layer, *head]


# Layers that a user builds once, outside the callable, and whether both models may use them.
SHARED = {
    "normalization": (lambda: adapted(layers.Normalization(), nets.prototypes(20)[0]), True),
    "weights": (lambda: layers.Dense(8), False),
    "frozen weights": (lambda: layers.Dense(8, trainable=False), False),
    "moving averages": (lambda: layers.BatchNormalization(center=False, scale=False), False),
    "random state": (lambda: layers.GaussianNoise(0.1), False),
}


@pytest.mark.parametrize("name", SHARED)
def test_only_adapted_layers_serve_both_models(name):
    build, may_be_shared = SHARED[name]
    layer = build()

    def model():
        return keras.Sequential([*on_numbers(layer), layers.Dense(3)])

    x = nets.prototypes(4)[0]
    if may_be_shared:
        teacher, student = fresh.teacher_and_student(model, None, model(), x)
        assert teacher.layers[0] is student.layers[0]
        return
    with pytest.raises(ValueError, match=r"only layers with .*that share '"):
        fresh.teacher_and_student(model, None, model(), x)


def test_a_vocabulary_serves_both_models():
    vectorize = adapted(layers.TextVectorization(output_mode="multi_hot"), ["plum fig", "pear"])

    def model():
        return keras.Sequential([keras.Input((), dtype="string"), vectorize, layers.Dense(3)])

    words = np.array(["plum", "fig"], dtype=object)
    teacher, student = fresh.teacher_and_student(model, None, model(), words)
    assert teacher.layers[0] is student.layers[0]


class Task(keras.Sequential):
    """Preprocesses in `fit` and not in a call, like a task of KerasHub."""

    preprocessor = None

    def preprocess_samples(self, x, y=None, sample_weight=None):
        return self.preprocessor(x), y, sample_weight


def task(preprocessor):
    model = Task([keras.Input((nets.FEATURES,)), layers.Dense(3)])
    model.preprocessor = preprocessor
    return model


def test_a_fit_that_preprocesses_is_refused():
    split = split_private(*nets.prototypes(90), members=30, nonmembers=30, seed=0)
    rescaled = task(layers.Rescaling(0.1))
    message = r"`model` to take the same samples in `fit`.*preprocessor=None"
    for model in (rescaled, lambda: rescaled):
        trainer = DMPTrainer(model, seed=0)
        trainer.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        with pytest.raises(ValueError, match=message):
            trainer.fit(*split.members, reference=split.reference)
    with pytest.raises(ValueError, match=message):
        audit_membership(rescaled, split.members, split.nonmembers)
    fresh.fresh_model(lambda: task(None))


@pytest.mark.parametrize("as_callable", [False, pytest.param(True, marks=pytest.mark.full)])
def test_quantized_models_cannot_be_trained(as_callable):
    model = nets.classifier()
    with pytest.warns(UserWarning, match="quantize"):
        model.quantize("int8")
    with pytest.raises(ValueError, match=r"`model`.*Received: .*quantized layers dense"):
        fresh.fresh_model((lambda: model) if as_callable else model)


def test_frozen_weights_under_lora_are_lost_with_a_warning():
    model = nets.classifier()
    model.layers[0].enable_lora(2)
    with pytest.warns(PrivacyWarning, match=f"frozen layers {model.layers[0].name} were redrawn"):
        clone = fresh.fresh_model(model)
    assert clone.layers[0].lora_enabled

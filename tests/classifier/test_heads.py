import functools

import keras
import nets
import numpy as np
import pytest
from keras import layers, losses

from keras_dmp._classifier import outputs as _heads
from keras_dmp._classifier.kind import resolve_output_kind
from keras_dmp._classifier.outputs import OutputKind

LOGITS, PROBABILITIES = True, False


def compiled(model, loss):
    model.compile("sgd", loss)
    return model


def from_logits_of(model, **arguments):
    return resolve_output_kind(model, "model", **arguments).from_logits


@pytest.mark.parametrize(
    ("units", "activation", "loss", "expected"),
    [
        # Nothing is compiled: the last activation decides.
        (4, "softmax", None, PROBABILITIES),
        (4, None, None, LOGITS),
        (4, "linear", None, LOGITS),
        (4, "log_softmax", None, LOGITS),
        (1, "sigmoid", None, PROBABILITIES),
        (1, None, None, LOGITS),
        # Loss and activation agree, in every way a loss is written.
        (4, "softmax", "sparse_categorical_crossentropy", PROBABILITIES),
        (4, "softmax", "categorical_crossentropy", PROBABILITIES),
        (4, "softmax", "SparseCategoricalCrossentropy", PROBABILITIES),
        (4, "softmax", "kl_divergence", PROBABILITIES),
        (4, "softmax", losses.sparse_categorical_crossentropy, PROBABILITIES),
        (4, "softmax", losses.SparseCategoricalCrossentropy(), PROBABILITIES),
        (4, "softmax", losses.CategoricalCrossentropy(name="renamed"), PROBABILITIES),
        (4, None, losses.SparseCategoricalCrossentropy(from_logits=True), LOGITS),
        (4, None, losses.CategoricalCrossentropy(from_logits=True), LOGITS),
        (
            4,
            None,
            functools.partial(losses.sparse_categorical_crossentropy, from_logits=True),
            LOGITS,
        ),
        (4, "softmax", functools.partial(losses.categorical_crossentropy, axis=-1), PROBABILITIES),
        (1, "sigmoid", "binary_crossentropy", PROBABILITIES),
        (1, "sigmoid", losses.BinaryCrossentropy(), PROBABILITIES),
        (1, None, losses.BinaryCrossentropy(from_logits=True), LOGITS),
        # Losses that do not say, or that suit bounded outputs.
        (4, "softmax", "mean_squared_error", PROBABILITIES),
        (1, "sigmoid", "mse", PROBABILITIES),
        (4, None, lambda y, z: keras.ops.mean(z), LOGITS),
    ],
)
def test_reads_loss_and_activation(units, activation, loss, expected):
    model = nets.classifier(units, activation)
    assert from_logits_of(model, loss=loss) is expected
    if loss is not None:
        assert from_logits_of(compiled(model, loss)) is expected
    assert from_logits_of(model, from_logits=expected) is expected


@pytest.mark.parametrize(
    ("activation", "loss", "from_logits", "message"),
    [
        ("softmax", None, True, r"last activation is softmax.*Expected `from_logits` to be False"),
        (None, None, False, r"last activation is linear.*Expected `from_logits` to be True"),
        (
            "softmax",
            losses.SparseCategoricalCrossentropy(from_logits=True),
            None,
            "returns probabilities .* but the loss .* declares logits",
        ),
        (
            None,
            "sparse_categorical_crossentropy",
            None,
            "returns logits .* but the loss .* declares probabilities",
        ),
        ("softmax", "categorical_crossentropy", True, "declares from_logits=False. Expected"),
        (None, losses.CategoricalCrossentropy(from_logits=True), False, "from_logits=True"),
        ("softmax", None, "yes", "True, False or None. Received: from_logits='yes'"),
    ],
)
def test_refuses_contradictions(activation, loss, from_logits, message):
    with pytest.raises(ValueError, match=message):
        from_logits_of(nets.classifier(4, activation), loss=loss, from_logits=from_logits)


def branches(*heads):
    inputs = keras.Input((nets.FEATURES,))
    return keras.Model(inputs, [head(inputs) for head in heads])


def image_to_image():
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(4, 3)])


@pytest.mark.parametrize(
    ("build", "loss", "message"),
    [
        (lambda: nets.classifier(4, "sigmoid"), None, "multi-label head, 4 units with"),
        (
            lambda: nets.classifier(4),
            losses.BinaryCrossentropy(from_logits=True),
            "a multi-label head",
        ),
        (lambda: nets.classifier(1, "softmax"), None, "a softmax over one unit"),
        (lambda: nets.classifier(1), "mse", "classification head .*mean_squared_error"),
        (lambda: nets.classifier(1), losses.MeanAbsoluteError(), "classification head"),
        (lambda: nets.classifier(4, "relu"), None, "classification head .*relu"),
        (lambda: branches(layers.Dense(4), layers.Dense(4)), None, "one output.* 2 outputs"),
        (image_to_image, None, r"output shape \(None, 6, 6, 4\)"),
    ],
    ids=["multi-label", "multi-label loss", "softmax of one", "mse", "mae", "relu", "two", "4-D"],
)
def test_refuses_what_is_no_classifier(build, loss, message):
    with pytest.raises(ValueError, match=message):
        from_logits_of(build(), loss=loss)


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (lambda core: keras.Sequential([keras.Input((nets.FEATURES,)), core]), LOGITS),
        (lambda core: keras.Model(core.inputs, core(core.inputs[0])), LOGITS),
        (
            lambda core: keras.Sequential([core, layers.Softmax()]),
            PROBABILITIES,
        ),
        (lambda core: keras.Sequential([core, layers.Activation("softmax")]), PROBABILITIES),
        (
            lambda core: keras.Model(core.inputs, layers.Softmax()(core.outputs[0])),
            PROBABILITIES,
        ),
    ],
    ids=["in Sequential", "in Functional", "Softmax", "Activation", "Functional Softmax"],
)
def test_reads_nested_models(wrap, expected):
    inputs = keras.Input((nets.FEATURES,))
    core = keras.Model(inputs, layers.Dense(4)(inputs))
    assert from_logits_of(wrap(core)) is expected


@pytest.mark.parametrize(
    ("activation", "units", "expected"),
    [(None, 4, LOGITS), ("softmax", 4, PROBABILITIES), (None, 1, LOGITS)],
)
def test_reads_subclassed_models_by_their_values(reference, activation, units, expected):
    model = nets.Subclassed(units, activation)
    outputs = np.array(model(reference * 9))
    kind = resolve_output_kind(model, "model", outputs=outputs)
    assert kind == OutputKind(units=units, from_logits=expected)


def test_ambiguous_is_an_error_unless_it_may_wait(reference):
    model = nets.Subclassed(1, "sigmoid")
    arguments = {"outputs": np.array(model(reference))}
    assert resolve_output_kind(model, "model", required=False, **arguments) is None
    with pytest.raises(ValueError, match="Cannot tell whether the outputs of `model` are logits"):
        resolve_output_kind(model, "model", **arguments)
    assert from_logits_of(model, from_logits=False, **arguments) is PROBABILITIES
    assert from_logits_of(model, from_logits=True, **arguments) is LOGITS


@pytest.mark.parametrize(
    ("activation", "declared", "message"),
    [("softmax", True, "returns probabilities"), (None, False, "returns logits")],
)
def test_declaration_against_the_values(reference, activation, declared, message):
    model = nets.Subclassed(4, activation)
    outputs = np.array(model(reference * 9))
    with pytest.raises(ValueError, match=rf"{message} \(by their values\)"):
        resolve_output_kind(model, "model", from_logits=declared, outputs=outputs)


@pytest.mark.parametrize("scale", [100, 255, 2])
@pytest.mark.parametrize("units", [1, 4])
def test_probabilities_on_another_scale_are_refused_where_only_the_values_tell(
    reference, scale, units
):
    activation = "sigmoid" if units == 1 else "softmax"
    model = keras.Sequential([nets.Subclassed(units, activation), layers.Rescaling(scale)])
    outputs = np.array(model(reference * 9))
    sums = "" if units == 1 else f".*sum to about {scale}"
    message = rf"`model outputs` to be logits.*pass from_logits=True.*no negative output{sums}"
    with pytest.raises(ValueError, match=message):
        resolve_output_kind(model, "model", outputs=outputs)
    with pytest.raises(ValueError, match=message.replace("model outputs", "y")):
        _heads.kind_of_outputs(outputs, "y", from_logits=None)
    # A declaration is believed, and a few rows tell nothing.
    assert from_logits_of(model, outputs=outputs, from_logits=True) is LOGITS
    assert from_logits_of(model, outputs=outputs[-7:]) is LOGITS


def test_positive_logits_are_logits():
    logits = np.random.default_rng(0).uniform(2, 9, (200, 10))
    assert _heads.kind_of_outputs(logits, "y", from_logits=None).from_logits


def test_half_precision_probabilities_are_probabilities():
    probabilities = nets.softmax(np.random.default_rng(0).normal(0, 3, (100, 50)))
    kind = _heads.kind_of_outputs(probabilities.astype("float16"), "y", from_logits=None)
    assert kind == OutputKind(units=50, from_logits=False)


def test_number_of_classes():
    assert OutputKind(units=1, from_logits=True).num_classes == 2
    assert OutputKind(units=5, from_logits=True).num_classes == 5
    assert str(OutputKind(units=5, from_logits=False)) == "5 probabilities"


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (np.zeros((3, 5)), r"shape \(samples, 4\). Received: shape \(3, 5\)"),
        (np.full((3, 4), np.nan), "finite. Received: NaN or infinite values for 3 of 3 samples"),
        (np.full((3, 4), 0.25), "`y` to be logits, .*. Received: probabilities"),
    ],
)
def test_require_outputs_refuses(outputs, message):
    with pytest.raises(ValueError, match=message):
        _heads.require_outputs(outputs, OutputKind(units=4, from_logits=True), "y")


def test_an_activation_layer_that_only_casts_says_nothing():
    """The mixed-precision idiom: a float32 linear activation behind the softmax."""
    entry = keras.Input((3,))
    softmax = keras.layers.Dense(4, activation="softmax")(entry)
    model = keras.Model(entry, keras.layers.Activation("linear", dtype="float32")(softmax))
    outputs = np.full((5, 4), 0.25)
    model.compile(loss="sparse_categorical_crossentropy")
    assert not resolve_output_kind(model, "model", outputs=outputs).from_logits


def test_two_softmax_units_with_binary_crossentropy_are_no_multi_label_head():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.compile(loss="binary_crossentropy")
    assert resolve_output_kind(model, "model").units == 2


@pytest.mark.parametrize("wrap", [lambda loss: [loss], lambda loss: {"label": loss}])
def test_losses_in_lists_and_dictionaries_are_read_too(wrap):
    model = nets.classifier(4)
    with pytest.raises(ValueError, match=r"returns logits .* declares probabilities"):
        from_logits_of(model, loss=wrap("sparse_categorical_crossentropy"))
    assert from_logits_of(model, loss=wrap(losses.CategoricalCrossentropy(from_logits=True)))


def test_a_softmax_loss_on_one_unit_is_refused():
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match=r"one unit.*Received: sparse_categorical_crossentropy"):
        from_logits_of(nets.classifier(1), loss=loss)


def test_one_output_in_a_dictionary_is_an_output(reference):
    inputs = keras.Input((nets.FEATURES,))
    model = keras.Model(inputs, {"label": layers.Dense(4, "softmax")(inputs)})
    kind = resolve_output_kind(model, "model", outputs=model(reference))
    assert kind == OutputKind(units=4, from_logits=False)


def test_a_model_whose_classes_nobody_knows_is_refused_where_they_count():
    with pytest.raises(ValueError, match="`model` to be a model whose number of classes is known"):
        resolve_output_kind(nets.Subclassed(4, "softmax"), "model", from_logits=False)

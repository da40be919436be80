"""The attack networks: what they must find, what they must not, and what they leave alone."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from nets import Pairs, Subclassed, assert_same_weights, snapshot

from keras_dmp.audit.attacks.attack_network import output_evidence
from keras_dmp.audit.attacks.network_attacks import black_box_attack, white_box_attack
from keras_dmp.audit.attacks.white_box_features import DenseTail
from keras_dmp.audit.statistics.membership_scores import MembershipScores

FEATURES, CLASSES, SAMPLES = 6, 4, 400
ATTACKS = {"black box": black_box_attack, "white box": white_box_attack}
both = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def records(samples=SAMPLES, seed=0):
    """Members and nonmembers of one distribution, with labels that mean nothing."""
    rng = np.random.default_rng(seed)
    sides = []
    for _ in range(2):
        x = rng.normal(size=(samples, FEATURES)).astype("float32")
        sides.append((x, rng.integers(CLASSES, size=samples)))
    return sides


def random_model(*hidden, activation="tanh", units=CLASSES, seed=0, **dense):
    """A classifier of logits with random weights, biases too."""
    stack = [keras.Input((FEATURES,))]
    stack += [layers.Dense(width, activation=activation, **dense) for width in hidden]
    model = keras.Sequential([*stack, layers.Dense(units, **dense)])
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.7, w.shape) for w in model.get_weights()])
    return model


def marked(members, nonmembers, column=0, size=2.0):
    """Both sides, told apart by the sign of one feature."""
    for (x, _), sign in ((members, size), (nonmembers, -size)):
        x[:, column] = sign * (0.5 + np.abs(x[:, column]))
    return members, nonmembers


def blind_model():
    """A classifier whose first hidden unit copies the first feature and reaches no output."""
    model = random_model(8, activation=None)
    kernel, bias, head, head_bias = model.get_weights()
    kernel[0], kernel[:, 0], bias[0], head[0] = 0, 0, 0, 0
    kernel[0, 0] = 1
    model.set_weights([kernel, bias, head, head_bias])
    return model


def loop_gradients(model, x, y):
    """Kernel and bias gradients of every dense layer, one sample after the other."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if model.output_shape[-1] == 1:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
    dense = [layer for layer in model.layers if isinstance(layer, layers.Dense)]
    found = []
    for sample, label in zip(x, y, strict=True):
        with tf.GradientTape() as tape:
            value = loss(tf.constant([[label]]), model(sample[None], training=False))
        pairs = [layer.weights for layer in dense]
        found.append([[g.numpy() for g in pair] for pair in tape.gradient(value, pairs)])
    return [
        [np.stack(each) for each in zip(*layer, strict=True)] for layer in zip(*found, strict=True)
    ]


def assert_equal_gradients(model, num_layers):
    (x, y), _ = records(7)
    y = y % max(2, model.output_shape[-1])
    tail = DenseTail(model, num_layers)
    logits, gradients = tail.gradients(np.asarray(tail.trunk(x)), y)
    np.testing.assert_allclose(logits, model(x, training=False), atol=1e-5)
    expected = loop_gradients(model, x, y)[-num_layers:]
    assert len(gradients) == num_layers
    for found, (kernel, bias) in zip(gradients, expected, strict=True):
        outer = np.einsum("ni,nj->nij", found.inputs, found.deltas)
        np.testing.assert_allclose(outer, kernel, atol=1e-5)
        np.testing.assert_allclose(found.deltas, bias, atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_gradients_equal_a_tape_for_each_sample(num_layers):
    assert_equal_gradients(random_model(9, 5), num_layers)


def test_gradients_of_one_logit():
    assert_equal_gradients(random_model(5, units=1), 2)


def test_gradients_of_frozen_layers():
    model = random_model(5)
    expected = DenseTail(model, 2).gradients(*records(9)[0])
    model.trainable = False
    found = DenseTail(model, 2).gradients(*records(9)[0])
    for mine, theirs in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(found[1][0].deltas, expected[1][0].deltas)
    assert not any(layer.trainable for layer in model.layers)


def test_gradients_through_a_functional_chain():
    inputs = keras.Input((FEATURES,))
    hidden = layers.Concatenate()([layers.Dense(3)(inputs), layers.Dense(4, "relu")(inputs)])
    hidden = layers.BatchNormalization()(layers.Dense(6, use_bias=True)(hidden))
    hidden = layers.Dropout(0.5)(layers.Activation("tanh")(hidden))
    logits = layers.Activation("linear", dtype="float32")(layers.Dense(CLASSES)(hidden))
    assert_equal_gradients(keras.Model(inputs, logits), 2)


def test_gradients_of_layers_that_models_share():
    inputs, head = keras.Input((FEATURES,)), layers.Dense(CLASSES)
    other = keras.Model(inputs, head(layers.Dense(5)(inputs)))
    model = keras.Model(inputs, head(layers.Dense(5)(inputs)))
    assert_equal_gradients(other, 2)
    assert_equal_gradients(model, 2)


def test_gradients_of_many_samples_are_those_of_few():
    tail = DenseTail(random_model(5), 1)
    (x, y), _ = records(2_500)
    activations = np.asarray(tail.trunk(x))
    whole = tail.gradients(activations, y)[1][0]
    part = tail.gradients(activations[2_000:2_100], y[2_000:2_100])[1][0]
    np.testing.assert_allclose(whole.deltas[2_000:2_100], part.deltas, rtol=1e-6)
    np.testing.assert_array_equal(whole.inputs, activations)


def test_a_saturated_member_keeps_its_gradient():
    model = random_model()
    model.set_weights([np.zeros((FEATURES, CLASSES)), np.array([30, 0, 0, 0])])
    x = np.zeros((1, FEATURES), "float32")
    (gradient,) = DenseTail(model, 1).gradients(x, np.array([0]))[1]
    np.testing.assert_allclose(gradient.deltas[0], np.exp(-30) * np.array([-3, 1, 1, 1]), rtol=1e-5)


def test_evidence_of_outputs():
    outputs = np.array([[2.0, 0.0, 0.0, 1.0], [0.0, 40.0, 0.0, 0.0]])
    evidence = output_evidence(outputs, np.array([3, 1]), from_logits=True)
    p = np.exp(outputs[0]) / np.exp(outputs[0]).sum()
    np.testing.assert_allclose(evidence["outputs"][0], np.log(p), rtol=1e-6)
    log_odds, loss, _ = evidence["loss"][0]
    np.testing.assert_allclose([log_odds, loss], [np.log(p[3] / (1 - p[3])), -np.log(p[3])])
    np.testing.assert_allclose(evidence["loss"][1, 0], 40 - np.log(3), rtol=1e-6)


def test_evidence_of_probabilities_is_that_of_their_logits():
    logits = np.random.default_rng(0).normal(size=(50, 5))
    labels = np.arange(50) % 5
    expected = output_evidence(logits, labels, from_logits=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = output_evidence(probabilities, labels, from_logits=False)
    single = output_evidence(logits[:, :1], labels % 2, from_logits=True)
    pair = np.concatenate([np.zeros((50, 1)), logits[:, :1]], axis=1)
    double = output_evidence(pair, labels % 2, from_logits=True)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(single[name], double[name])


@both
def test_planted_membership_is_found_in_the_rows_named(attack):
    members, nonmembers = marked(*records(), size=5.0)
    # The first twenty members look like nonmembers.
    members[0][:20, 0] *= -1
    result = attack(random_model(), members, nonmembers, seed=1)
    scores, disguised = result.member_scores, result.member_indices < 20
    assert result.num_members == result.num_nonmembers == SAMPLES // 2
    assert MembershipScores(scores[~disguised], result.nonmember_scores).auc() > 0.95
    assert 0 < disguised.sum() < 20
    assert np.median(scores[disguised]) < scores[~disguised].min() + 1


@pytest.mark.slow
@both
def test_one_distribution_gives_chance(attack):
    result = attack(random_model(8), *records(1_000), seed=0)
    interval = result.auc_interval()
    assert interval.low <= 0.5 <= interval.high


@pytest.mark.full
def test_white_box_finds_what_outputs_do_not_show():
    sides, model = marked(*records()), blind_model()
    inside = white_box_attack(model, *sides, seed=0)
    outside = black_box_attack(model, *sides, seed=0).auc_interval()
    assert inside.auc() > 0.95
    assert outside.low <= 0.5 <= outside.high


@pytest.mark.slow
def test_white_box_finds_what_an_earlier_layer_shows():
    sides = marked(*records())
    blind = blind_model()
    deep = keras.Sequential([keras.Input((FEATURES,)), *blind.layers, layers.Dense(CLASSES)])
    last = white_box_attack(deep, *sides, num_layers=1, seed=0).auc_interval()
    assert last.low <= 0.5 <= last.high
    assert white_box_attack(deep, *sides, num_layers=2, seed=0).auc() > 0.95


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(attack, id=name, marks=pytest.mark.full if name == "white box" else ())
        for name, attack in ATTACKS.items()
    ],
)
def test_the_same_seed_gives_the_same_scores(attack):
    sides, model = records(60), random_model(8)
    results = []
    for global_seed in (1, 2):
        keras.utils.set_random_seed(global_seed)
        results.append(attack(model, *sides, epochs=2, seed=3))
    first, second = results
    for side in ("member", "nonmember"):
        one, two = (getattr(result, f"{side}_scores") for result in results)
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(first.nonmember_indices, second.nonmember_indices)


@pytest.mark.slow
def test_the_seed_drawn_repeats_the_attack():
    sides, model = records(60), random_model(8)
    drawn = black_box_attack(model, *sides, epochs=1)
    repeated, other = (
        black_box_attack(model, *sides, epochs=1, seed=drawn.seed + more) for more in (0, 1)
    )
    np.testing.assert_array_equal(drawn.member_scores, repeated.member_scores)
    assert not np.array_equal(drawn.member_indices, other.member_indices)


def draws():
    """A number from every generator of the caller, and a layer's initial weights."""
    layer = layers.Dense(3)
    layer.build((None, 2))
    numbers = [random.random(), np.random.random()]  # noqa: NPY002
    numbers += [float(tf.random.uniform(())), float(keras.random.uniform(()))]
    return [*numbers, np.array(layer.kernel).tolist()]


@both
def test_the_caller_finds_everything_as_it_was(attack, capfd):
    model = random_model(8)
    model.layers[0].trainable = False
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    sides = records(60)
    model.train_on_batch(*sides[0])
    weights, optimizer = snapshot(model), [np.array(v) for v in model.optimizer.variables]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    config = model.get_config()
    keras.utils.set_random_seed(5)
    expected = draws()
    keras.utils.set_random_seed(5)
    capfd.readouterr()

    attack(model, *sides, epochs=2, seed=0)

    assert capfd.readouterr() == ("", "")
    assert draws() == expected
    assert_same_weights(model, weights)
    for now, then in zip(model.optimizer.variables, optimizer, strict=True):
        np.testing.assert_array_equal(now, then)
    assert [layer.trainable for layer in model.layers] == [False, True]
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    assert model.get_config() == config
    assert model.compiled
    assert model.predict_function is None


@pytest.mark.slow
@both
def test_datasets_give_the_scores_of_arrays(attack):
    members, (x, y) = records(100)
    model = random_model(8)
    arrays = attack(model, members, (x[:40], y[:40]), epochs=1, seed=0)
    data = tf.data.Dataset.from_tensor_slices(members).batch(32)
    one_hot = Pairs(x[:40], np.eye(CLASSES)[y[:40]])
    datasets = attack(model, data, one_hot, epochs=1, seed=0)
    found, expected = datasets.member_scores, arrays.member_scores
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # Half of the smaller side trains, and as many of the other.
    assert (arrays.num_members, arrays.num_nonmembers) == (80, 20)
    for indices, count in ((arrays.member_indices, 100), (arrays.nonmember_indices, 40)):
        assert np.all(np.diff(indices) > 0)
        assert set(indices) <= set(range(count))


def test_one_sigmoid_unit_of_probabilities(capfd):
    sides = [(x, y % 2) for x, y in records(40)]
    model = keras.Sequential([*random_model(8, units=1).layers, layers.Activation("sigmoid")])
    result = black_box_attack(model, *sides, epochs=1, seed=0, verbose=1)
    assert result.num_members == 20
    assert "val_loss" in capfd.readouterr().out


@pytest.mark.slow
def test_half_precision_policy_leaves_the_attack_in_single():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = random_model(8)
        result = white_box_attack(model, *marked(*records()), num_layers=2, seed=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert result.auc() > 0.95


def refuse_training(monkeypatch):
    def fit(*_, **__):
        raise AssertionError("the attack was trained")

    monkeypatch.setattr(keras.Model, "fit", fit)


@both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "Expected `epochs` to be a whole number of at least 1"),
        ({"batch_size": 0}, "Expected `batch_size`"),
        ({"seed": -1}, "Expected `seed`"),
        ({"verbose": 3}, "Expected `verbose`"),
        ({"members": records(19)[0]}, "Expected `members` to have at least 20 samples"),
        ({"nonmembers": records(60)[0]}, "share no records"),
        ({"members": (records(60)[0][0], np.full(60, CLASSES))}, "classes of the model"),
    ],
)
def test_bad_input(attack, change, message, monkeypatch):
    refuse_training(monkeypatch)
    members, nonmembers = records(60)
    arguments = {"members": members, "nonmembers": nonmembers, **change}
    with pytest.raises(ValueError, match=message):
        attack(random_model(8), **arguments)


@both
def test_a_model_is_needed(attack):
    with pytest.raises(TypeError, match="Expected `model` to be a keras"):
        attack(lambda x: x, *records(60))


WITHOUT_A_TAIL = {
    "softmax": (
        lambda: keras.Sequential([keras.Input((FEATURES,)), layers.Dense(CLASSES, "softmax")]),
        1,
        f"Expected `model` to return logits.*Received: a model that returns {CLASSES} probab",
    ),
    "softmax layer": (
        lambda: keras.Sequential([random_model(), layers.Softmax()]),
        1,
        "Expected `model` to return logits",
    ),
    "subclassed": (Subclassed, 1, "Expected `model` to expose its layers.*of type Subclassed"),
    "unbuilt": (
        lambda: keras.Sequential([layers.Dense(CLASSES)]),
        1,
        "Expected `model` to expose its layers",
    ),
    "too few": (
        lambda: random_model(5),
        3,
        "3 of them keras.layers.Dense.*from the output backwards, Dense, Dense, Input",
    ),
    "nested": (
        lambda: keras.Sequential([keras.Input((FEATURES,)), random_model(5)]),
        1,
        "Received: from the output backwards, Sequential",
    ),
    "an operation": (
        lambda: keras.Model((x := keras.Input((FEATURES,))), 2 * layers.Dense(CLASSES)(x)),
        1,
        "Received: from the output backwards, Multiply",
    ),
    "num_layers": (lambda: random_model(5), 0, "Expected `num_layers`"),
}


@pytest.mark.parametrize("case", WITHOUT_A_TAIL)
def test_models_that_the_white_box_cannot_look_into(case, monkeypatch):
    refuse_training(monkeypatch)
    build, num_layers, message = WITHOUT_A_TAIL[case]
    with pytest.raises(ValueError, match=message):
        white_box_attack(build(), *records(60), num_layers=num_layers)


def test_a_residual_end_is_refused():
    inputs = keras.Input((FEATURES,))
    hidden = layers.Dense(FEATURES)(inputs)
    model = keras.Model(inputs, layers.Dense(CLASSES)(layers.Add()([hidden, inputs])))
    with pytest.raises(ValueError, match="from the output backwards, Dense, Add"):
        DenseTail(model, 2)
    assert DenseTail(model, 1).trunk.output_shape == (None, FEATURES)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:Layer InputLayer does not")
def test_an_int8_model_is_attacked_with_its_own_weights():
    rng = np.random.default_rng(0)
    layers = [keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    x, y = rng.normal(size=(60, 8)).astype("float32"), rng.integers(0, 3, 60)
    model.quantize("int8")
    tail = DenseTail(model, 1)
    logits, (gradients,) = tail.gradients(tail.trunk.predict(x, verbose=0), y)
    outputs = model.predict(x, verbose=0)
    # The model also rounds what enters the layer, to one part in 127.
    assert np.abs(logits - outputs).max() < 0.03 * np.abs(outputs).max()
    powers = np.exp(logits)
    expected = powers / powers.sum(axis=1, keepdims=True) - np.eye(3)[y]
    np.testing.assert_allclose(gradients.deltas, expected, atol=1e-5)
    sides = (x[:30], y[:30]), (x[30:], y[30:])
    for num_layers in (1, 2):
        scores = white_box_attack(model, *sides, num_layers=num_layers, epochs=1, seed=0)
        assert scores.num_members == 15


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not")
def test_other_quantized_layers_are_refused():
    layers = [keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(4)]
    model = keras.Sequential(layers)
    model.quantize("int4")
    x, y = np.ones((60, 8), "float32") * np.arange(60)[:, None], np.arange(60) % 4
    with pytest.raises(ValueError, match="Received: layers quantized as int4"):
        white_box_attack(model, (x[:30], y[:30]), (x[30:], y[30:]), seed=0)

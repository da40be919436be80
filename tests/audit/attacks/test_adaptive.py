import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from nets import Pairs, assert_same_weights, snapshot

from keras_dmp import DMPTrainer, EntropyReferenceSelector
from keras_dmp._classifier import forward
from keras_dmp.audit.attacks.adaptive import adaptive_attack, nearest
from keras_dmp.audit.statistics import output_scores
from keras_dmp.audit.statistics.membership_scores import MembershipScores

FEATURES = 5


def linear_model(seed=0):
    """Logits of three classes, a linear function of the first three features."""
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(3)])
    nets.randomize(model, seed, scale=2.0)
    return model


def draw(samples, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, FEATURES)).astype("float32"), rng.integers(3, size=samples)


@pytest.fixture(scope="module")
def null():
    """A model that has seen nothing, and three parts of one distribution."""
    return linear_model(), draw(400, 1), draw(400, 2), draw(300, 3)[0]


def both(result):
    return np.concatenate([result.member_scores, result.nonmember_scores])


def test_sequences_of_another_length_than_the_pool_are_refused():
    inputs = keras.Input((None,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(pooled))
    rng = np.random.default_rng(0)
    y = np.arange(40) % 3
    members, nonmembers, pool = (rng.integers(9, size=(40, size)) for size in (20, 20, 24))
    with pytest.raises(ValueError, match=r"`members` and `reference`.*length.*20 and 24 features"):
        adaptive_attack(model, (members, y), (nonmembers, y), pool, seed=0)


def test_nearest_is_the_distance_matrix():
    x, others = draw(30, 1)[0], draw(50, 2)[0]
    matrix = np.sqrt(((x[:, None] - others) ** 2).sum(axis=2))
    distances, positions = nearest(x, others, 4)
    np.testing.assert_allclose(
        np.sort(distances, axis=1), np.sort(matrix, axis=1)[:, :4], rtol=1e-3
    )
    np.testing.assert_array_equal(
        np.sort(positions, axis=1), np.sort(matrix.argsort(axis=1)[:, :4], axis=1)
    )


def test_nearest_in_chunks(monkeypatch):
    x, others = draw(30, 1)[0], draw(50, 2)[0]
    whole = nearest(x, others, 3)
    monkeypatch.setattr("keras_dmp.audit.attacks.adaptive._CHUNK_VALUES", 50 * 7)
    for part, expected in zip(nearest(x, others, 3), whole, strict=True):
        np.testing.assert_allclose(np.sort(part), np.sort(expected), rtol=1e-5)


def test_all_others_can_be_neighbors():
    distances, _ = nearest(np.zeros((2, 3), "float32"), np.eye(3, dtype="float32"), 3)
    np.testing.assert_allclose(distances, 1)


def test_difficulty_hides_members_from_the_loss_attack_alone():
    """Easy and hard regions of the space: only beside their neighbours do members stand out."""
    rng = np.random.default_rng(0)

    def draw(samples, lead):
        region = rng.integers(8, size=samples)
        x = np.zeros((samples, 10), dtype="float32")
        x[np.arange(samples), region] = 10
        # Too small to be seen in the distances; the model's weight makes it large.
        x[:, 8] = 1e-4 * (4 * region + lead + 0.3 * rng.normal(size=samples))
        x[:, 9] = 0.1 * rng.normal(size=samples)
        return x, np.zeros(samples, dtype=int)

    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(2, use_bias=False)])
    kernel = np.zeros((10, 2))
    kernel[8, 0] = 2.5e3
    model.set_weights([kernel])
    members, nonmembers, pool = draw(600, 0.6), draw(600, 0.0), draw(400, 0.0)[0]
    result = adaptive_attack(model, members, nonmembers, pool, size=400, seed=0)
    loss = MembershipScores(
        *(
            output_scores.loss_scores(forward.predict(model, x[rows]), y[rows], from_logits=True)
            for (x, y), rows in (
                (members, result.member_indices),
                (nonmembers, result.nonmember_indices),
            )
        )
    )
    assert loss.auc() < 0.6
    assert result.auc() > 0.8
    # The scores are those of the samples at the positions given.
    x = members[0][result.member_indices]
    lead = 1e4 * x[:, 8] - 4 * x[:, :8].argmax(axis=1)
    assert np.corrcoef(lead, result.member_scores)[0, 1] > 0.5


def test_rank_among_the_pool_is_seen():
    """Members lie in the middle of the pool's entropies, within a range that outliers hide."""
    rng = np.random.default_rng(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
    # The second feature is added to both logits: it keeps the records apart, not the outputs.
    model.set_weights([np.array([[1.0, 0.0], [1.0, 1.0]])])

    def draw(low, high, samples):
        middle = 1 + 0.01 * rng.uniform(low, high, samples)
        outliers = rng.uniform(0, 6, samples // 10)
        lead = rng.permutation(np.concatenate([middle, outliers]))
        return np.stack([lead, rng.normal(size=len(lead))], axis=1).astype("float32")

    members, low, high, pool = (
        draw(*ends) for ends in ((0.25, 0.75, 400), (0, 0.2, 200), (0.8, 1, 200), (0, 1, 300))
    )
    nonmembers = np.concatenate([low, high])
    y = np.zeros(440, dtype=int)
    result = adaptive_attack(model, (members, y), (nonmembers, y), pool, size=330, seed=0)
    assert result.auc() > 0.85


def test_one_distribution_gives_a_half(null):
    model, members, nonmembers, pool = null
    missed = 0
    for seed in range(6):
        result = adaptive_attack(model, members, nonmembers, pool, seed=seed)
        interval = result.auc_interval()
        missed += not interval.low <= 0.5 <= interval.high
    assert missed <= 1


def test_half_is_scored_and_the_rest_is_not(null):
    model, members, nonmembers, pool = null
    more = tuple(np.concatenate(parts) for parts in zip(members, draw(101, 9), strict=True))
    result = adaptive_attack(model, more, nonmembers, pool, seed=4)
    assert (result.num_members, result.num_nonmembers) == (301, 200)
    assert (len(result.member_indices), len(result.nonmember_indices)) == (301, 200)
    assert (np.diff(result.member_indices) > 0).all()
    assert result.seed == 4


def test_same_seed_same_scores_and_nothing_else_is_touched(null):
    model, members, nonmembers, pool = null
    weights, state = snapshot(model), np.random.get_state()[1].copy()  # noqa: NPY002
    pool_before = pool.copy()
    first, again, other = (
        adaptive_attack(model, members, nonmembers, pool, seed=seed) for seed in (3, 3, 5)
    )
    np.testing.assert_array_equal(both(first), both(again))
    assert (first.member_indices != other.member_indices).any()
    assert_same_weights(model, weights)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.testing.assert_array_equal(pool, pool_before)


def test_datasets_give_what_arrays_give(null):
    model, members, nonmembers, pool = null
    by_arrays = adaptive_attack(model, members, nonmembers, pool, seed=0)
    by_datasets = adaptive_attack(
        model,
        tf.data.Dataset.from_tensor_slices(members).batch(64),
        Pairs(*nonmembers),
        tf.data.Dataset.from_tensor_slices(pool).batch(50),
        seed=0,
    )
    np.testing.assert_allclose(both(by_datasets), both(by_arrays), rtol=1e-3, atol=1e-4)


def test_probabilities_give_what_logits_give(null):
    model, members, nonmembers, pool = null
    softmax = keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0]))
    by_logits, by_probabilities = (
        adaptive_attack(net, members, nonmembers, pool, seed=0) for net in (model, softmax)
    )
    np.testing.assert_allclose(both(by_probabilities), both(by_logits), rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_attacks_a_student_of_the_whole_defense():
    """Noisy labels that the teacher learns by heart: it is found out, its student less."""

    def draw(samples, seed):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(samples, 20)).astype("float32")
        return x, (x[:, :3] + 1.5 * rng.normal(size=(samples, 3))).argmax(axis=1)

    def build_model():
        hidden = keras.layers.Dense(64, activation="relu")
        return keras.Sequential([keras.Input((20,)), hidden, keras.layers.Dense(3)])

    members, nonmembers, pool = draw(200, 1), draw(400, 2), draw(600, 3)[0]
    trainer = DMPTrainer(build_model, selector=EntropyReferenceSelector(size=200), seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(keras.optimizers.Adam(1e-2), loss)
    trainer.fit(*members, reference=pool, epochs=30, verbose=0)
    auc = {
        name: adaptive_attack(model, members, nonmembers, pool, size=200, seed=0).auc()
        for name, model in (("teacher", trainer.teacher), ("student", trainer.student))
    }
    assert auc["teacher"] > 0.8
    assert 0.5 < auc["student"] < auc["teacher"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_neighbors": 0}, "`num_neighbors` to be a whole number of at least 1"),
        ({"num_neighbors": 301}, "`num_neighbors` to be at most the 300 samples"),
        ({"size": 5}, "`size` to be at least num_neighbors=10"),
        ({"size": 301}, "at most the 300 samples of `reference`"),
        ({"seed": -1}, "`seed` to be a whole number"),
        ({"verbose": 3}, "`verbose` to be one of"),
        ({"batch_size": 0}, "`batch_size` to be a whole number"),
        ({"members": draw(19, 5)}, "`members` to have at least 20 samples"),
        ({"nonmembers": draw(400, 1)}, "`members` and `nonmembers` to share no records"),
        ({"reference": draw(400, 2)[0]}, "`reference` and `nonmembers` to share no records"),
        ({"reference": draw(400, 1)[0][:, :2]}, "`reference` to have shape"),
        ({"reference": draw(400, 3)[0] * np.nan}, "`reference` to be finite"),
        ({"from_logits": False}, "declares probabilities"),
    ],
)
def test_bad_input(null, change, message):
    arguments = dict(zip(("model", "members", "nonmembers", "reference"), null, strict=True))
    with pytest.raises(ValueError, match=message):
        adaptive_attack(**{**arguments, **change})


def test_wrong_types(null):
    model, members, nonmembers, pool = null
    with pytest.raises(TypeError, match=r"`model` to be a keras\.Model"):
        adaptive_attack("model", members, nonmembers, pool)
    with pytest.raises(TypeError, match=r"`members` to be a tuple \(x, y\)"):
        adaptive_attack(model, members[0], nonmembers, pool)


def test_texts_have_no_distances():
    texts = np.array([f"word{k}" for k in range(120)])[:, None]
    lookup = keras.layers.StringLookup(vocabulary=["word1", "word2"], output_mode="multi_hot")
    model = keras.Sequential([keras.Input((1,), dtype="string"), lookup, keras.layers.Dense(2)])
    y = np.zeros(40, dtype=int)
    with pytest.raises(ValueError, match="`reference` to be numbers"):
        adaptive_attack(model, (texts[:40], y), (texts[40:80], y), texts[80:])

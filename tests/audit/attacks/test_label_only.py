import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from nets import Subclassed, assert_same_weights, snapshot

from keras_dmp.audit.attacks.label_only import label_only_attack
from keras_dmp.audit.attacks.perturbations import resolve


def sign(x):
    """A model of two classes whose boundary is at 0 of the first feature."""
    return (np.asarray(x)[:, 0] > 0).astype(int)


def at_distance(distance, samples=60):
    """Samples of class 1 at about this distance from the boundary."""
    return distance + 1e-3 * np.arange(samples)[:, None], np.ones(samples, dtype=int)


@pytest.fixture
def samples(labeled):
    """Members and nonmembers of the class prototypes."""
    return labeled, nets.prototypes(48, seed=3)


def both(scores):
    return np.concatenate([scores.member_scores, scores.nonmember_scores])


def test_score_is_the_share_of_noisy_copies_within_the_boundary():
    """At one and two deviations of noise from the boundary: the normal distribution function."""
    scores = label_only_attack(
        sign, at_distance(2.0, 40), at_distance(1.0, 40), strength=1.0, num_queries=2_000, seed=0
    )
    assert scores.member_scores.mean() == pytest.approx(1 + 0.9782, abs=0.002)
    assert scores.nonmember_scores.mean() == pytest.approx(1 + 0.8461, abs=0.005)


def test_finds_members_that_the_gap_attack_cannot():
    near, far = at_distance(0.05), at_distance(1.0)
    assert label_only_attack(sign, far, near, strength=0, num_queries=1).auc() == 0.5
    found = label_only_attack(sign, far, near, seed=0).auc()
    turned = label_only_attack(sign, near, far, seed=0).auc()
    assert found > 0.95
    assert turned == pytest.approx(1 - found, abs=0.03)


def test_wrong_answers_rank_below_right_ones():
    """A sample just beyond the boundary has more copies on the right side than one deep in it."""
    wrong = -at_distance(0.01, 30)[0], np.ones(30, dtype=int)
    right = at_distance(0.5, 30)
    scores = label_only_attack(sign, right, wrong, strength=5.0, num_queries=64, seed=0)
    assert scores.nonmember_scores.max() <= 1 <= scores.member_scores.min()


@pytest.mark.parametrize("perturbation", ["noise", "flip"])
def test_without_perturbation_it_is_the_gap_attack(perturbation):
    rng = np.random.default_rng(0)
    x, y = rng.integers(2, size=(200, 40)), rng.integers(2, size=200)
    scores = label_only_attack(
        sign,
        (x[:100], y[:100]),
        (x[100:], y[100:]),
        perturbation=perturbation,
        strength=0,
        num_queries=3,
    )
    np.testing.assert_array_equal(both(scores), 2 * (sign(x) == y))


def test_one_distribution_gives_a_half():
    """In 95 % of draws the interval holds 0.5; all of these twelve seeds miss it at most twice."""
    missed = 0
    for seed in range(12):
        x = np.random.default_rng(seed).normal(size=(240, 3))
        y = (x[:, 0] + 0.5 * x[:, 1] > 0).astype(int)
        scores = label_only_attack(
            sign, (x[:120], y[:120]), (x[120:], y[120:]), num_queries=8, seed=seed
        )
        interval = scores.auc_interval()
        missed += not interval.low <= 0.5 <= interval.high
    assert missed <= 2


def test_automatic_strength_does_not_look_at_memberships(caplog):
    """Exchanging the sides exchanges the draws of the noise, and nothing else."""
    far = at_distance(1.0, 400)
    near = 0.2 + 1e-3 * (far[0] - 1), far[1]
    strengths = []
    for sides in ((near, far), (far, near)):
        with caplog.at_level("INFO", logger="keras_dmp.audit.attacks.label_only"):
            label_only_attack(sign, *sides, num_queries=1, seed=0)
        strengths.append(float(caplog.messages[-1].rsplit(maxsplit=1)[1]))
    assert strengths[0] == pytest.approx(strengths[1], rel=0.15)


def test_automatic_strength_keeps_85_percent_of_the_answers():
    samples = at_distance(0.7, 500), (at_distance(0.7, 500)[0] + 1e-5, np.ones(500, dtype=int))
    scores = label_only_attack(sign, *samples, num_queries=200, seed=0)
    assert both(scores).mean() - 1 == pytest.approx(0.85, abs=0.03)


def test_same_seed_gives_the_same_scores_in_batches_of_any_size():
    near, far = at_distance(0.4), at_distance(0.6)
    first, again, other = (
        label_only_attack(sign, far, near, strength=0.5, seed=seed, batch_size=size)
        for seed, size in ((5, None), (5, 7), (6, None))
    )
    np.testing.assert_array_equal(both(first), both(again))
    assert (both(first) != both(other)).any()


def test_keras_model_and_its_classes_as_a_callable_are_the_same(teacher, samples):
    weights, state = snapshot(teacher), np.random.get_state()[1].copy()  # noqa: NPY002
    by_model = label_only_attack(teacher, *samples, num_queries=4, seed=0)
    by_classes = label_only_attack(
        lambda x: np.asarray(teacher(x)).argmax(axis=1), *samples, num_queries=4, seed=0
    )
    np.testing.assert_array_equal(both(by_model), both(by_classes))
    assert (by_model.num_members, by_model.num_nonmembers) == (48, 48)
    assert_same_weights(teacher, weights)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_datasets_give_what_arrays_give(teacher, samples):
    as_datasets = [tf.data.Dataset.from_tensor_slices(side).batch(64) for side in samples]
    by_arrays, by_datasets = (
        label_only_attack(teacher, *sides, strength=0.5, num_queries=3, seed=1)
        for sides in (samples, as_datasets)
    )
    np.testing.assert_array_equal(both(by_arrays), both(by_datasets))


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_sigmoid_unit_stands_for_two_classes(activation):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, activation=activation)])
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    sides = at_distance(0.3), at_distance(0.1)
    mine = label_only_attack(model, *sides, strength=0.4, seed=0)
    theirs = label_only_attack(sign, *sides, strength=0.4, seed=0)
    np.testing.assert_array_equal(both(mine), both(theirs))


def test_model_that_is_built_by_its_first_call():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype("float32"), rng.integers(4, size=40)
    scores = label_only_attack(Subclassed(), (x[:20], y[:20]), (x[20:], y[20:]), num_queries=2)
    assert scores.num_members == 20


def test_flips_come_with_their_probability():
    x = np.zeros((200, 500), dtype="float32")
    x[::2] = 1
    copies = resolve("flip", 0.03)(x, np.random.default_rng(0))
    assert copies.dtype == x.dtype
    assert np.isin(copies, (0, 1)).all()
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        assert (copies != x)[rows].mean() == pytest.approx(0.03, abs=0.002)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float64"])
def test_flips_keep_every_dtype(dtype):
    x = np.array([[0, 1, 1]]).astype(dtype)
    copies = resolve("flip", 1)(x, np.random.default_rng(0))
    assert copies.dtype == x.dtype
    np.testing.assert_array_equal(copies, 1 - x.astype(int))


@pytest.mark.parametrize("channels", [(), (2,)])
def test_shifts_move_whole_images_and_repeat_the_edge(channels):
    image = np.random.default_rng(1).random((1, 6, 5, *channels))
    copies = resolve("shift", 2)(np.repeat(image, 300, axis=0), np.random.default_rng(0))
    padding = ((2, 2), (2, 2)) + ((0, 0),) * len(channels)
    padded = np.pad(image[0], padding, mode="edge")
    possible = [padded[i : i + 6, j : j + 5] for i in range(5) for j in range(5)]
    seen = {
        next(k for k, candidate in enumerate(possible) if np.array_equal(copy, candidate))
        for copy in copies
    }
    assert len(seen) == 25


def test_half_of_the_copies_are_mirrored():
    images = np.repeat(np.arange(12.0).reshape(1, 3, 4), 400, axis=0)
    copies = resolve("shift_and_mirror", 0)(images, np.random.default_rng(0))
    turned = np.array([np.array_equal(copy, images[0][:, ::-1]) for copy in copies])
    upright = np.array([np.array_equal(copy, images[0]) for copy in copies])
    assert (turned | upright).all()
    assert 150 < turned.sum() < 250


def test_shifts_find_a_model_that_knows_its_members_by_their_place():
    """It says 1 where an image is what it was trained on, pixel for pixel, or bright all over."""
    dark = np.zeros((40, 4, 4))
    dark[np.arange(40), np.arange(40) % 4, np.arange(40) // 4 % 4] = 1 + np.arange(40)
    bright = np.ones((40, 4, 4)) + np.arange(40)[:, None, None]

    def classify(x):
        return (x.min(axis=(1, 2)) > 0) | np.isin(x, dark[0]).all(axis=(1, 2))

    labels = np.ones(40, dtype=int)
    scores = label_only_attack(
        classify, (bright, labels), (dark, labels), perturbation="shift", strength=1, seed=0
    )
    assert scores.auc() > 0.95


def test_callable_perturbation_may_work_in_place():
    def noisy(x, rng):
        x += rng.normal(size=x.shape)
        return x

    sides = at_distance(2.0), at_distance(0.5)
    before = sides[0][0].copy()
    scores = label_only_attack(sign, *sides, perturbation=noisy, seed=0)
    assert scores.auc() > 0.8
    np.testing.assert_array_equal(sides[0][0], before)


def test_memory_is_that_of_a_batch():
    """No call sees more than the batch size, whatever the number of queries."""
    most = []

    def classify(x):
        most.append(len(x))
        return sign(x)

    label_only_attack(classify, at_distance(0.2), at_distance(0.4), batch_size=8, num_queries=5)
    assert max(most) == 8


def test_progress(capsys):
    sides = at_distance(0.2), at_distance(0.4)
    label_only_attack(sign, *sides, num_queries=3, strength=1.0)
    assert capsys.readouterr().out == ""
    label_only_attack(sign, *sides, num_queries=3, strength=1.0, verbose=1)
    assert "8/8" in capsys.readouterr().out


TABLE = (np.linspace(0, 1, 20).reshape(10, 2), np.ones(10, dtype=int))
OTHER = (np.linspace(2, 3, 20).reshape(10, 2), np.ones(10, dtype=int))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"perturbation": "blur"}, "`perturbation` to be one of 'noise', 'flip', 'shift'"),
        ({"perturbation": "flip"}, "`members` to have binary features, 0 or 1"),
        ({"perturbation": "shift"}, "`members` to be images of shape"),
        ({"perturbation": "flip", "strength": 1.5}, "`strength` to be a probability"),
        ({"perturbation": "shift", "strength": 0.5}, "`strength` to be a whole number"),
        ({"strength": -1.0}, "`strength` to be a finite number of at least 0"),
        ({"strength": "most"}, "`strength` to be a finite number of at least 0"),
        ({"perturbation": lambda x, rng: x, "strength": 2.0}, "`strength` to be left out"),
        ({"perturbation": lambda x, rng: x[:, :1]}, r"`perturbation\(x, rng\)` to have the shape"),
        (
            {"perturbation": lambda x, rng: x[:3]},
            r"`perturbation\(x, rng\)` and `x` .* same number",
        ),
        ({"perturbation": lambda x, rng: x * np.nan}, r"`perturbation\(x, rng\)` to be finite"),
        ({"num_queries": 0}, "`num_queries` to be a whole number of at least 1"),
        ({"batch_size": 0}, "`batch_size` to be a whole number of at least 1"),
        ({"seed": -1}, "`seed` to be a whole number of at least 0"),
        ({"verbose": 3}, "`verbose`.*verbose=3"),
        ({"nonmembers": TABLE}, "share no records"),
        ({"nonmembers": (OTHER[0], OTHER[1][:9])}, "`nonmembers labels` to have the same"),
        ({"nonmembers": (OTHER[0][:, :1], OTHER[1])}, "`nonmembers` to have the shape"),
        ({"members": (TABLE[0], TABLE[1] + 0.5)}, "`members labels` to be whole-number"),
        ({"model": lambda x: x}, r"`model\(x\)` to return classes, 10 whole numbers"),
        ({"model": lambda x: x[:, 0]}, r"dtype float64; for scores of classes use `.argmax"),
    ],
)
def test_bad_input(change, message):
    arguments = {"model": sign, "members": TABLE, "nonmembers": OTHER, **change}
    with pytest.raises(ValueError, match=message):
        label_only_attack(**arguments)


def test_data_that_does_not_fit_is_refused_before_the_model_is_asked():
    def model(x):
        raise RuntimeError("asked")

    with pytest.raises(ValueError, match="`nonmembers` to have binary features"):
        label_only_attack(
            model, (np.eye(10), TABLE[1]), (np.eye(10) / 2, TABLE[1]), perturbation="flip"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "sign"}, "`model` to be a keras.Model or a callable"),
        ({"members": TABLE[0]}, r"`members` to be a tuple \(x, y\)"),
    ],
)
def test_wrong_types(change, message):
    arguments = {"model": sign, "members": TABLE, "nonmembers": OTHER, **change}
    with pytest.raises(TypeError, match=message):
        label_only_attack(**arguments)


def test_labels_beyond_the_models_classes(teacher, samples):
    with pytest.raises(ValueError, match=r"`members labels` to lie in 0\.\.3"):
        label_only_attack(teacher, (samples[0][0], samples[0][1] + 1), samples[1])

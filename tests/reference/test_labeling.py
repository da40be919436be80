"""One pass over a pool: arrays and datasets, one rule and several, memory and disk."""

import gc
import weakref

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf

from keras_dmp import DistillationTrainer, EntropyReferenceSelector
from keras_dmp._classifier import forward

pytestmark = pytest.mark.filterwarnings("ignore:No chosen reference sample")
SAMPLES = 500


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Several parts, several cuts."""
    monkeypatch.setattr(forward, "_MAX_BATCH", 64)
    monkeypatch.setattr("keras_dmp.reference.selection._LEAST_CUT", 32)


@pytest.fixture
def pool():
    return nets.prototypes(SAMPLES, seed=3)[0]


def trainer(teacher, **settings):
    made = DistillationTrainer(nets.classifier(seed=12), teacher=teacher, **settings)
    made.compile(keras.optimizers.SGD(0.5))
    return made


class OncePool:
    """A pool of batches that counts how often each sample is read."""

    def __init__(self, x, batch_size):
        self.read = np.zeros(len(x), int)

        def batches():
            for start in range(0, len(x), batch_size):
                rows = slice(start, start + batch_size)
                self.read[rows] += 1
                yield x[rows]

        spec = tf.TensorSpec((None, nets.FEATURES), tf.float32)
        self.dataset = tf.data.Dataset.from_generator(batches, output_signature=spec)


def datasets(x):
    sliced = tf.data.Dataset.from_tensor_slices(x)
    return {
        "small batches": sliced.batch(7),
        "large batches": sliced.batch(200),
        "PyDataset": nets.Pairs(x, batch_size=50),
    }


RULES = [
    {"size": 40},
    {"size": 40, "order": "highest"},
    {"size": 40, "order": "random", "seed": 4},
    {"fraction": 0.2},
    {"max_entropy": 0.7},
    {"max_entropy": 0.7, "size": 60},
    {"size": 40, "balance_classes": True},
    {"fraction": 0.1, "balance_classes": True, "order": "random"},
]


def assert_equal(labeled, expected, selector, twin):
    np.testing.assert_array_equal(labeled.x, expected.x)
    np.testing.assert_array_equal(labeled.outputs, expected.outputs)
    for name in ("indices_", "entropy_", "pool_entropy_"):
        np.testing.assert_array_equal(getattr(selector, name), getattr(twin, name))
    np.testing.assert_array_equal(labeled.indices, selector.indices_)
    assert selector.summary == twin.summary == labeled.summary
    assert selector.reference is labeled.x


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_datasets_choose_what_arrays_choose(pool, teacher, rule):
    twin = EntropyReferenceSelector(**rule)
    expected = trainer(teacher).label(pool, selector=twin)
    # The oracle: all outputs, looked up.
    outputs = forward.predict(teacher, pool)
    np.testing.assert_array_equal(expected.outputs, outputs[twin.indices_])
    np.testing.assert_array_equal(expected.x, pool[twin.indices_])
    for form in datasets(pool).values():
        for options in ({}, {"num_samples": SAMPLES}):
            selector = EntropyReferenceSelector(**rule)
            labeled = trainer(teacher).label(form, selector=selector, **options)
            assert_equal(labeled, expected, selector, twin)
            assert labeled.from_dataset


def test_a_dataset_is_read_once(pool, teacher):
    source = OncePool(pool, 30)
    trainer(teacher).label(source.dataset, selector=EntropyReferenceSelector(size=20))
    assert source.read.tolist() == [1] * SAMPLES
    source = OncePool(pool, 30)
    trainer(teacher).fit(source.dataset, epochs=2, verbose=0)
    assert source.read.tolist() == [1] * SAMPLES


def test_a_dataset_may_shuffle(pool, teacher):
    """What is kept comes from the one pass; nothing is looked up again."""
    shuffled = tf.data.Dataset.from_tensor_slices(pool).shuffle(SAMPLES).batch(50)
    labeled = trainer(teacher).label(shuffled, selector=EntropyReferenceSelector(size=30))
    np.testing.assert_allclose(labeled.outputs, teacher(labeled.x), atol=1e-5)


def test_several_selectors_in_one_pass(pool, teacher):
    rules = [*RULES, None]
    for form in (pool, OncePool(pool, 30)):
        selectors = [rule and EntropyReferenceSelector(**rule) for rule in rules]
        data = getattr(form, "dataset", form)
        together = trainer(teacher).label_many(data, selectors=selectors)
        for rule, selector, labeled in zip(rules, selectors, together, strict=True):
            twin = rule and EntropyReferenceSelector(**rule)
            alone = trainer(teacher).label(pool, selector=twin)
            if rule:
                assert_equal(labeled, alone, selector, twin)
            else:
                np.testing.assert_array_equal(labeled.x, pool)
                np.testing.assert_array_equal(labeled.outputs, alone.outputs)
                assert labeled.indices is labeled.summary is labeled.entropy is None
        if data is not form:
            assert form.read.tolist() == [1] * SAMPLES


def test_the_teacher_sees_each_sample_once_for_several_selectors(pool):
    class Counter(keras.layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), dtype="int64", initializer="zeros")

        def call(self, inputs):
            self.count.assign_add(keras.ops.cast(keras.ops.shape(inputs)[0], "int64"))
            return inputs

    counter = Counter()
    layers = [keras.Input((nets.FEATURES,)), counter, keras.layers.Dense(nets.CLASSES)]
    selectors = [EntropyReferenceSelector(size=size) for size in (10, 20, 30)]
    trainer(keras.Sequential(layers)).label_many(pool, selectors=selectors)
    assert int(counter.count) == SAMPLES


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["fit", "label"])
def test_an_empty_class_is_named_once_to_the_caller(pool, teacher, method):
    made, selector = trainer(teacher), EntropyReferenceSelector(size=2)
    of_fit = {"callbacks": [selector], "verbose": 0}
    arguments = of_fit if method == "fit" else {"selector": selector}
    with pytest.warns(UserWarning, match="is predicted as class") as caught:
        getattr(made, method)(pool, **arguments)
    assert [warning.filename for warning in caught] == [__file__]


# Training on it.


@pytest.mark.parametrize(("rule", "memory_limit"), [(None, None), ({"size": 100}, 0)])
def test_fit_on_a_labeled_reference_equals_fit_on_the_pool(pool, teacher, rule, memory_limit):
    """Bit for bit, from memory and from files."""
    settings = {"memory_limit": memory_limit, "label_format": "float32"}
    weights = np.linspace(0.5, 1.5, SAMPLES).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((pool, np.zeros(SAMPLES), weights)).batch(50)
    expected = None
    for form in ("arrays", "dataset", "labelled dataset"):
        selector = rule and EntropyReferenceSelector(**rule)
        made = trainer(teacher, drop_labels=True, **settings)
        data = {"x": dataset} if "dataset" in form else {"x": pool, "sample_weight": weights}
        if "labelled" in form:
            data = {"x": made.label(**data, selector=selector)}
            made.attach_teacher(nets.classifier(seed=99))
        keras.utils.set_random_seed(7)
        callbacks = [selector] if selector else []
        history = made.fit(**data, batch_size=32, epochs=2, verbose=0, callbacks=callbacks)
        expected = expected or (nets.snapshot(made.student), history.history)
        nets.assert_same_weights(made.student, expected[0])
        assert history.history == expected[1]
        assert ("reference_size" in history.history) == bool(rule)


@pytest.mark.parametrize(("label_format", "memory_limit"), [("float16", None), (2, 0)])
def test_fit_on_labels_in_less_room(pool, teacher, label_format, memory_limit):
    made = trainer(teacher, label_format=label_format, memory_limit=memory_limit)
    dataset = tf.data.Dataset.from_tensor_slices(pool).batch(50)
    labeled = made.label(dataset)
    assert len(labeled) == SAMPLES
    assert labeled.label_format.name == label_format
    history = made.fit(labeled, batch_size=50, epochs=2, shuffle=False, verbose=0).history
    # The oracle is a student of the decoded outputs.
    student = nets.classifier(seed=12)
    _, expected = nets.distil(student, pool, labeled.outputs, batch_size=50)
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    nets.assert_same_weights(made.student, nets.snapshot(student), atol=1e-5)


def test_the_default_is_float32_in_memory_and_float16_on_disk(pool, teacher):
    dataset = tf.data.Dataset.from_tensor_slices(pool).batch(50)
    exact = trainer(teacher).label(dataset)
    assert exact.encoded[0].dtype == np.float32
    mapped = trainer(teacher, memory_limit=10_000).label(dataset)
    assert mapped.encoded[0].dtype == np.float16
    assert isinstance(mapped.encoded[0], np.memmap)
    assert isinstance(mapped.x, np.memmap)
    np.testing.assert_array_equal(mapped.x, pool)
    p, q = nets.softmax(exact.outputs), nets.softmax(mapped.outputs)
    assert np.abs(p - q).max() < 1e-3
    # Samples that came as arrays are in memory anyway.
    mapped = trainer(teacher, memory_limit=0).label(pool)
    assert mapped.x is pool
    assert isinstance(mapped.encoded[0], np.memmap)


def test_files_go_with_the_reference_that_a_student_was_trained_on(pool, teacher):
    dataset = tf.data.Dataset.from_tensor_slices(pool).batch(50)
    made = trainer(teacher, memory_limit=0)
    labeled = made.label(dataset)
    made.fit(labeled, verbose=0)
    parts = [weakref.ref(part) for part in (labeled.x, *labeled.encoded)]
    del labeled
    gc.collect()
    assert [part() for part in parts] == [None, None]


def test_selection_beyond_the_memory_limit(pool, teacher):
    """Candidates go to files; what was chosen is the same."""
    dataset = tf.data.Dataset.from_tensor_slices(pool).batch(50)
    results = []
    for memory_limit in (None, 3_000):
        selector = EntropyReferenceSelector(size=100, balance_classes=True)
        settings = {"memory_limit": memory_limit, "label_format": "float32"}
        labeled = trainer(teacher, **settings).label(dataset, selector=selector)
        results.append((labeled, selector))
    assert isinstance(results[1][0].x, np.memmap)
    assert_equal(*(results[0][0], results[1][0]), results[0][1], results[1][1])


def test_several_selectors_share_the_memory_limit(pool, teacher):
    dataset = tf.data.Dataset.from_tensor_slices(pool).batch(50)
    made = trainer(teacher, memory_limit=4 * (pool.nbytes + 4 * nets.CLASSES * len(pool)))
    for count, on_disk in ((1, False), (9, True)):
        found = made.label_many(dataset, selectors=[None] * count)
        assert {isinstance(one.x, np.memmap) for one in found} == {on_disk}


def test_structures_stream(teacher):
    inputs = {name: keras.Input((3,), name=name) for name in ("left", "right")}
    outputs = keras.layers.Dense(3)(keras.layers.Concatenate()(list(inputs.values())))
    net = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(200, 3)).astype("float32") for name in ("right", "left")}
    made = DistillationTrainer(keras.models.clone_model(net), teacher=net, memory_limit=0)
    made.compile("sgd")
    selector = EntropyReferenceSelector(size=90)
    labeled = made.label(tf.data.Dataset.from_tensor_slices(x).batch(32), selector=selector)
    for name, column in x.items():
        np.testing.assert_array_equal(labeled.x[name], column[selector.indices_])
    made.fit(labeled, epochs=1, verbose=0, callbacks=[selector])


def test_outputs_may_come_with_a_dataset(pool, teacher):
    outputs = forward.predict(teacher, pool)
    dataset = tf.data.Dataset.from_tensor_slices((pool, outputs)).batch(30)
    twin, selector = (EntropyReferenceSelector(size=50) for _ in range(2))
    expected = trainer(teacher).label(pool, selector=twin)
    labeled = trainer(None).label(dataset, selector=selector)
    assert_equal(labeled, expected, selector, twin)
    given = trainer(None).label(pool, outputs)
    assert np.shares_memory(given.outputs, outputs)


# What is refused.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda x: {"x": x, "selector": EntropyReferenceSelector(size=501)},
            "`size` to be at most 500, .*size=501",
        ),
        (lambda x: {"x": x, "directory": "/nowhere"}, "`directory` .*directory='/nowhere'"),
        (lambda x: {"x": x, "num_samples": 499}, "`x` to yield 499 samples.*x with 500"),
        (lambda x: {"x": x, "y": np.ones(3)}, "`y` and `sample_weight` to be None"),
        (lambda x: {"x": x.take(0)}, "an empty dataset"),
        (lambda x: {"x": x.unbatch().batch(1).take(1)}, "at least 2 samples"),
        (lambda x: {"x": x.repeat()}, "infinite"),
        (lambda x: {"x": x, "selector": EntropyReferenceSelector(size=9, pool=x)}, "no `pool`"),
        (lambda x: {"x": x.map(lambda s: (s, s[:, 0]))}, "without labels"),
        (lambda x: {"x": x.map(lambda s: s / (s - s[0]))}, "`x` to be finite"),
    ],
)
def test_refuses_datasets(pool, teacher, make, message):
    dataset = tf.data.Dataset.from_tensor_slices(pool).batch(30)
    with pytest.raises(ValueError, match=message):
        trainer(teacher).label(**make(dataset))


def test_refuses_outputs_that_are_not_finite_late_in_a_dataset(pool, teacher):
    teacher.layers[-1].set_weights([w * np.nan for w in teacher.layers[-1].get_weights()])
    with pytest.raises(ValueError, match="`teacher outputs` to be finite"):
        trainer(teacher).label(tf.data.Dataset.from_tensor_slices(pool).batch(30))


def test_batches_must_be_alike(teacher):
    class Uneven(nets.Pairs):
        def __getitem__(self, index):
            batch = super().__getitem__(index)
            return (batch, None, np.ones(len(batch))) if index == 1 else batch

    x = nets.prototypes(150)[0]
    with pytest.raises(ValueError, match=r"all batches of a dataset to have.*others do not"):
        trainer(teacher).label(Uneven(x))


def test_refuses_columns_beside_a_labeled_reference(pool, teacher):
    made = trainer(teacher)
    labeled = made.label(pool)
    for options in ({"y": labeled.outputs}, {"sample_weight": np.ones(SAMPLES)}):
        with pytest.raises(ValueError, match="None with a LabeledReference"):
            made.fit(labeled, **options)
    with pytest.raises(ValueError, match="cache=True with a LabeledReference"):
        trainer(teacher, cache=False).fit(labeled)
    selector = EntropyReferenceSelector(size=9)
    with pytest.raises(ValueError, match=r"chosen by Criteria.*a reference with all samples"):
        made.fit(labeled, callbacks=[selector])
    other = made.label(pool, selector=EntropyReferenceSelector(size=8))
    with pytest.raises(ValueError, match=r"size=9.*Received: a reference chosen by .*size=8"):
        made.fit(other, callbacks=[selector])


def test_refuses_a_reference_of_other_outputs(pool, teacher):
    labeled = trainer(teacher).label(pool)
    other = DistillationTrainer(nets.classifier(activation="softmax"))
    other.compile("sgd")
    with pytest.raises(ValueError, match="`y` to be probabilities"):
        other.fit(labeled)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_format": "bfloat16"}, "`label_format` to be 'float32', 'float16'"),
        ({"memory_limit": -1}, "`memory_limit` to be a whole number of at least 0"),
    ],
)
def test_refuses_settings(teacher, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(teacher, **settings)


def test_refuses_to_keep_as_many_classes_as_there_are(pool, teacher):
    with pytest.raises(ValueError, match=r"`label_format` to be below 4, .*label_format=4"):
        trainer(teacher, label_format=4).label(pool)

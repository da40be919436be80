"""Texts of any length: one form for all, which Keras takes and which costs what the texts cost."""

import tracemalloc
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers

import keras_dmp
from keras_dmp import DMPTrainer, LabeledReference, defenses, split_private
from keras_dmp._data import samples, texts
from keras_dmp.reference.row_store import RowStore

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
WORDS = ["plum", "pear", "fig", "Zürich", "東京"]

FORMS = {
    "objects": lambda x: x,
    "fixed width": lambda x: x.astype(str),
    "bytes": lambda x: np.char.encode(x.astype(str), "utf-8"),
    "objects of bytes": lambda x: np.array([text.encode() for text in x], dtype=object),
    "list": list,
    "series": pd.Series,
    "pandas strings": lambda x: pd.Series(x, dtype="string"),
    "category": lambda x: pd.Series(x, dtype="category"),
}


def messages(count, seed=0):
    """Distinct texts, whose first word is that of their class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=count)
    x = [
        f"{WORDS[of]} {' '.join(rng.choice(WORDS, rng.integers(1, 9)))} {i}"
        for i, of in enumerate(y)
    ]
    return np.array(x, dtype=object), y


def classifier(shape=()):
    vectorize = layers.TextVectorization(vocabulary=WORDS, output_sequence_length=12)
    return keras.Sequential(
        [
            keras.Input(shape, dtype="string"),
            vectorize,
            layers.Embedding(len(WORDS) + 2, 4, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3),
        ]
    )


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_become_the_same_objects(form):
    x, _ = messages(10)
    found = samples.checked(FORMS[form](x), "x")
    assert found.dtype == object
    assert {type(text) for text in found} == {str}
    assert found.tolist() == x.tolist()
    np.testing.assert_array_equal(samples.digests(found), samples.digests(x))


def test_objects_are_not_copied():
    x, _ = messages(10)
    assert samples.checked(x, "x") is x


def test_one_long_text_does_not_widen_the_others(tmp_path):
    x, y = messages(2_000)
    x[7] = "plum " * 20_000
    tracemalloc.start()
    split = split_private(x, y, members=500, nonmembers=500, seed=0)
    store = RowStore(0, tmp_path)
    store.append([split.reference])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert store.finish()[0].tolist() == split.reference.tolist()
    # In an array of a string dtype, each of the 2,000 would take 400 kB.
    assert peak < 5e6


def test_every_form_trains_validates_and_is_audited():
    x, y = messages(110)
    split = split_private(list(x), y, members=25, nonmembers=25, validation=20, seed=0)
    trainer = DMPTrainer(classifier, selector=None, seed=0)
    trainer.compile("adam", LOSS, metrics=["accuracy"], run_eagerly=True)
    history = trainer.fit(
        FORMS["fixed width"](split.members[0]),
        split.members[1],
        reference=FORMS["list"](split.reference),
        validation_data=(FORMS["bytes"](split.validation[0]), split.validation[1]),
        verbose=0,
    )
    assert "val_accuracy" in history.history
    others = FORMS["series"](split.nonmembers[0]), split.nonmembers[1]
    report = keras_dmp.audit_membership(trainer.student, split.members, others)
    assert report["threshold"].num_members == 25
    # Keras itself takes what `split_private` returns.
    assert trainer.predict(split.nonmembers[0], verbose=0).shape == (25, 3)


def test_columns_of_texts_validate_too():
    """Keras' own adapter refuses arrays of texts that have two axes."""
    x, y = messages(40)
    trainer = DMPTrainer(lambda: classifier((1,)), selector=None, seed=0)
    trainer.compile("adam", LOSS, run_eagerly=True)
    column = x[:, None]
    history = trainer.fit(
        column[:10],
        y[:10],
        reference=column[10:30],
        validation_data=(column[30:], y[30:]),
        verbose=0,
    )
    flat = {"x": x[30:], "y": y[30:]}
    assert history.history["val_loss"][0] == pytest.approx(
        trainer.student.evaluate(**flat, verbose=0), rel=1e-5
    )


@pytest.mark.parametrize("shape", [(6,), (3, 2), (0,), (2, 0)])
def test_texts_survive_as_bytes(shape):
    words = np.array(["", "a", "東京", "tail\0", "x" * 50, "\ud800"], dtype=object)
    words = words[: np.prod(shape)].reshape(shape)
    content, ends = texts.to_bytes(words)
    assert (content.dtype, ends.shape) == (np.uint8, shape)
    np.testing.assert_array_equal(texts.from_bytes(content, ends), words)


@pytest.mark.parametrize("ends", [[2, 1, 3], [1, 2], [1, 4], [-1, 3]])
def test_ends_that_do_not_divide_the_bytes_are_refused(ends):
    with pytest.raises(ValueError, match="ends of texts"):
        texts.from_bytes(np.zeros(3, np.uint8), np.array(ends))


@pytest.mark.parametrize("as_dataset", [False, True])
def test_labelled_texts_are_read_back(tmp_path, as_dataset):
    x, _ = messages(12)
    pool = tf.data.Dataset.from_tensor_slices({"word": x}).batch(5) if as_dataset else {"word": x}
    entry = keras.Input((), dtype="string", name="word")
    nets = [keras.Model({"word": entry}, classifier()(entry)) for _ in range(2)]
    trainer = keras_dmp.DistillationTrainer(nets[0], teacher=nets[1], from_logits=True)
    written = trainer.label(pool)
    written.save(tmp_path)
    found = LabeledReference.load(tmp_path, None if as_dataset else {"word": x.astype(str)})
    assert found.x["word"].tolist() == x.tolist()
    np.testing.assert_array_equal(found.outputs, written.outputs)
    if not as_dataset:
        with pytest.raises(ValueError, match="pool with other values"):
            LabeledReference.load(tmp_path, {"word": x[::-1]})


def test_the_memory_of_texts_counts_against_the_limit(tmp_path):
    store = RowStore(10_000, tmp_path)
    store.append([np.array(["x" * 9_000, "y"], dtype=object), np.zeros((2, 3))])
    assert not store.on_disk
    store.append([np.array(["z" * 2_000], dtype=object), np.zeros((1, 3))])
    assert store.on_disk
    store.keep(np.array([1, 2]))
    words, numbers = store.finish()
    assert words.tolist() == ["y", "z" * 2_000]
    assert numbers.shape == (2, 3)


def hidden_classifier():
    body = classifier().layers[:-1]
    head = [layers.Dense(8, "relu"), layers.Dense(3)]
    return keras.Sequential([keras.Input((), dtype="string"), *body, *head])


SETTINGS = {"dp_sgd": {"noise_multiplier": 1.0}}
# DP-SGD looks at single records more closely than any other defence.
DEFENSES = [
    pytest.param(name, marks=() if name == "dp_sgd" else pytest.mark.full)
    for name in defenses.names()
]


@pytest.mark.parametrize("name", DEFENSES)
def test_every_defense_protects_a_classifier_of_texts(name):
    x, y = messages(130)
    split = split_private(x, y, members=40, nonmembers=30, validation=20, seed=0)
    defense = defenses.get(name, **SETTINGS.get(name, {}))
    with warnings.catch_warnings():
        # Three classes of few records: a selection may lack one.
        warnings.filterwarnings("ignore", "No chosen reference sample")
        model = defense.protect(hidden_classifier, split, epochs=1, batch_size=20, seed=0)
    report = keras_dmp.audit_membership(model, split.members, split.nonmembers)
    assert report["threshold"].num_nonmembers == 30

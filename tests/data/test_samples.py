"""What users hand in: one definition of valid, and one of equal records, at every door."""

import collections
import itertools
import warnings

import keras
import nets
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from keras_dmp import (
    DistillationTrainer,
    DMPTrainer,
    EntropyReferenceSelector,
    MembershipAudit,
    PrivacyWarning,
    audit_membership,
    split_private,
)
from keras_dmp._data import arrays, samples
from keras_dmp.audit import audit_reference, black_box_attack, blind_baseline, label_only_attack

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
NAMES = samples.Names("x", "y", "sample_weight")


def two_columns(dtype="float32", size=3):
    """A classifier whose inputs are named against the alphabet."""
    inputs = [keras.Input((size,), name=name, dtype=dtype) for name in ("zip", "age")]
    floats = [layers.Dense(2)(layers.Rescaling(1.0, dtype="float32")(each)) for each in inputs]
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(floats)))


def sequences(length=None, **embedding):
    return keras.Sequential(
        [
            keras.Input((length,), dtype="int32"),
            layers.Embedding(30, 4, **embedding),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )


def digests(x, model=None):
    return samples.digests(samples.checked(x, "x", model), model)


def assert_equal(x, other, model=None):
    np.testing.assert_array_equal(digests(x, model), digests(other, model))


# Equal records


CONTAINERS = {
    "dict": lambda zips, ages: {"zip": zips, "age": ages},
    "dict in another order": lambda zips, ages: {"age": ages, "zip": zips},
    "OrderedDict": lambda zips, ages: collections.OrderedDict([("zip", zips), ("age", ages)]),
    "list": lambda zips, ages: [zips, ages],
    "tuple": lambda zips, ages: (zips, ages),
}
DTYPES = ["float32", "float64", "float16", "int64", "int8", "uint8"]


@pytest.mark.parametrize("container", CONTAINERS)
def test_records_are_equal_in_every_container_and_dtype(container):
    model = two_columns()
    zips, ages = np.random.default_rng(0).integers(0, 99, (2, 20, 3))
    expected = digests([zips, ages], model)
    assert len(set(expected.tolist())) == 20
    for dtype in DTYPES:
        x = CONTAINERS[container](zips.astype(dtype), ages.astype(dtype))
        np.testing.assert_array_equal(digests(x, model), expected)
    assert not set(expected) & set(digests([ages, zips], model))


def test_records_of_tables_are_those_of_their_columns():
    model = two_columns(size=1)
    table = pd.DataFrame({"age": np.arange(9), "zip": np.arange(9) / 2, "": 0})[["age", "zip"]]
    columns = [table["zip"].to_numpy()[:, None], table["age"].to_numpy()[:, None]]
    assert_equal(table, columns, model)
    assert_equal(table[["zip", "age"]], columns, model)
    one_array = nets.classifier()
    numbers = np.random.default_rng(0).normal(size=(9, nets.FEATURES))
    assert_equal(pd.DataFrame(numbers), numbers, one_array)


def test_records_are_what_a_model_sees_of_floats():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    assert_equal(x, x.astype("float64"))
    assert_equal(x, x.copy(order="F"))
    assert_equal(np.float32([[0.0]]), np.float32([[-0.0]]))
    nearby = x.astype("float64") + 1e-12
    assert_equal(x, nearby)
    double = keras.Sequential([keras.Input((3,), dtype="float64"), layers.Dense(2)])
    assert not set(digests(x, double)) & set(digests(nearby, double))


LARGE = [2**24, 2**24 + 1, 2**31 - 1, 2**53, 2**53 + 1, 2**62 + 1, 2**63 - 1, 2**63 - 2]
LARGE += [-number for number in LARGE] + [-(2**63)]


@pytest.mark.parametrize("model", [None, "float32", "float16", "int64", "int32"])
def test_integers_are_compared_exactly(model):
    model = model and keras.Sequential([keras.Input((1,), dtype=model), layers.Rescaling(1.0)])
    found = digests(np.array(LARGE, "int64")[:, None], model)
    assert len(set(found.tolist())) == len(LARGE)
    if model is None or model.inputs[0].dtype.startswith("float"):
        unsigned = digests(np.array([2**64 - 1, 2**63, 5], "uint64")[:, None], model)
        assert not set(found) & set(unsigned)
    assert_equal(np.array([[5], [2**24]]), np.uint64([[5], [2**24]]), model)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8, unique=True))
def test_integers_equal_floats_of_their_value(numbers):
    integers = np.array(numbers, "int64")
    found = digests(integers[:, None])
    assert len(set(found.tolist())) == len(numbers)
    is_exact = np.array([int(np.float32(number)) == number for number in numbers])
    of_floats = digests(integers.astype("float32")[:, None])
    np.testing.assert_array_equal((found == of_floats), is_exact)


def test_records_are_cut_where_inputs_are():
    inputs = [keras.Input((None, 1), name=name) for name in ("a", "b")]
    means = [layers.GlobalAveragePooling1D()(each) for each in inputs]
    model = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(means)))
    first, second = np.ones((1, 2, 1)), np.ones((1, 1, 1))
    assert digests([first, second], model) != digests([second, first], model)


def test_digests_look_at_every_leaf_and_at_strings_as_texts(monkeypatch):
    x = {"a": np.arange(4)[:, None], "b": np.array(["x", "y", "y", "x"])}
    whole = digests(x)
    assert len(set(whole.tolist())) == 4
    assert_equal(x, {"a": x["a"], "b": np.char.encode(x["b"]).astype("S9")})
    assert_equal(x, {"a": x["a"], "b": pd.Series(x["b"], dtype="category")})
    monkeypatch.setattr(arrays, "_CHUNK_BYTES", 30)
    np.testing.assert_array_equal(digests(x), whole)
    x["a"] = np.zeros((4, 1), int)
    assert len(set(digests(x).tolist())) == 2


def masked(layer, *shape):
    return keras.Sequential([keras.Input(shape), layer, layers.LSTM(2)])


def inside(model, dtype):
    outer = keras.Input(model.inputs[0].shape[1:], dtype=dtype)
    return keras.Model(outer, model(outer))


def shared_embedding():
    inputs = [keras.Input((None,), name=name, dtype="int32") for name in ("a", "b")]
    embedding = layers.Embedding(30, 4, mask_zero=True)
    found = [layers.GlobalAveragePooling1D()(embedding(each)) for each in inputs]
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(found)))


MASKED = {
    "embedding": lambda: (sequences(mask_zero=True), 0),
    "embedding of fixed length": lambda: (sequences(8, mask_zero=True), 0),
    "in a nested model": lambda: (inside(sequences(mask_zero=True), "int32"), 0),
    "masking": lambda: (masked(layers.Masking(-1.0), None, 3), -1),
    "masking of fixed length": lambda: (masked(layers.Masking(7), 8, 3), 7),
}


@pytest.mark.parametrize("case", MASKED)
def test_padding_is_what_the_model_masks(case):
    model, value = MASKED[case]()
    sizes = model.inputs[0].shape[2:]
    rng = np.random.default_rng(0)
    short = rng.integers(10, 20, (20, 5, *sizes))
    short[3, 2] = value  # a gap inside is part of the record

    def pad(before, length):
        widths = [(0, 0), (before, length - 5 - before)] + [(0, 0)] * len(sizes)
        return np.pad(short, widths, constant_values=value)

    lengths = (8,) if model.inputs[0].shape[1] else (5, 8, 11)
    padded = [pad(before, length) for length in lengths for before in {0, (length - 5) // 2}]
    padded.append(pad(lengths[-1] - 5, lengths[-1]))
    for x in padded:
        assert_equal(x, padded[0], model)
    outputs = [model.predict(x, verbose=0) for x in padded]
    np.testing.assert_allclose(outputs[0], outputs[-1], atol=1e-6)
    assert len(set(digests(padded[0], model).tolist())) == 20
    assert np.all(digests(np.full_like(padded[0], value), model) != digests(padded[0], model))


def test_padding_of_a_shared_embedding():
    model = shared_embedding()
    a, b = np.random.default_rng(0).integers(1, 20, (2, 9, 5))
    assert_equal([a, b], [a, np.pad(b, [(0, 0), (0, 3)])], model)
    assert not set(digests([a, b], model)) & set(digests([b, a], model))


@pytest.mark.parametrize("make", [sequences, lambda: masked(layers.Dense(3), None, 3)])
def test_padding_that_the_model_sees_is_part_of_the_record(make):
    model = make()
    x = np.random.default_rng(0).integers(1, 20, (9, 5, *model.inputs[0].shape[2:]))
    longer = np.pad(x, [(0, 0), (0, 1)] + [(0, 0)] * (x.ndim - 2))
    assert not set(digests(x, model)) & set(digests(longer, model))
    records = samples.Records(model)
    assert samples.padding_note(records.lengths(x), records.lengths(x)) is None
    note = samples.padding_note(records.lengths(x), records.lengths(longer))
    assert model.inputs[0].name in note


def test_an_input_that_another_layer_sees_unmasked_is_not_masked():
    tokens = keras.Input((None,), dtype="int32")
    seen = layers.GlobalMaxPooling1D()(layers.Embedding(30, 4)(tokens))
    hidden = layers.GlobalAveragePooling1D()(layers.Embedding(30, 4, mask_zero=True)(tokens))
    model = keras.Model(tokens, layers.Dense(2)(layers.Concatenate()([seen, hidden])))
    x = np.random.default_rng(0).integers(1, 20, (9, 5))
    assert not set(digests(x, model)) & set(digests(np.pad(x, [(0, 0), (0, 1)]), model))


# The same at every door


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    return (*rng.normal(size=(2, 60, 3)).astype("float32"), rng.integers(0, 2, 60))


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [pair for pair in itertools.combinations(CONTAINERS, 2) if "tuple" not in pair],
)
def test_audits_recognize_members_in_another_container(mine, theirs, pair):
    *columns, y = pair
    sides = [(CONTAINERS[name](*columns), y) for name in (mine, theirs)]
    with pytest.raises(ValueError, match=r"Received: 60 of 60 nonmembers"):
        audit_membership(two_columns(), *sides, attacks="loss")
    with pytest.raises(
        ValueError, match=r"60 of 60 nonmembers|Expected `nonmembers` to have the same structure"
    ):
        MembershipAudit(*sides)


def test_the_trainer_recognizes_members_in_another_container(pair):
    *columns, y = pair
    trainer = DMPTrainer(two_columns, selector=None, seed=0)
    trainer.compile("sgd", LOSS)
    validation = (CONTAINERS["list"](*columns), y)
    fresh = [column + 9 for column in columns]
    arguments = {"reference": fresh, "validation_data": validation, "verbose": 0}
    with pytest.raises(ValueError, match="60 of 60 samples of `validation` are members"):
        trainer.fit(CONTAINERS["dict"](*columns), y, **arguments)
    with pytest.raises(ValueError, match="60 of 60 samples of `reference` are members"):
        trainer.fit(CONTAINERS["OrderedDict"](*columns), y, reference=columns, verbose=0)


def test_the_callback_recognizes_members_with_other_padding():
    x = np.random.default_rng(0).integers(1, 20, (60, 8))
    y = np.arange(60) % 2
    longer = np.pad(x, [(0, 0), (0, 4)])
    model = sequences(mask_zero=True)
    model.compile("sgd", LOSS)
    batched = tf.data.Dataset.from_tensor_slices((longer, y)).batch(20)
    for nonmembers in ((longer, y), batched):
        audit = MembershipAudit((x, y), nonmembers)
        with pytest.raises(ValueError, match="60 of 60 nonmembers"):
            model.fit(x, y, callbacks=[audit], verbose=0)


def test_audits_tell_of_padding_that_they_cannot_see_through():
    rng = np.random.default_rng(0)
    short, longer = rng.integers(1, 20, (60, 8)), rng.integers(1, 20, (60, 12))
    y = np.arange(60) % 2
    report = audit_membership(sequences(), (short, y), (longer, y), attacks="loss", seed=0)
    assert any("several lengths" in note for note in report.notes)
    report = audit_membership(sequences(), (short, y), (short + 1, y), attacks="loss", seed=0)
    assert not any("several lengths" in note for note in report.notes)


@pytest.mark.parametrize("of_one_length", [True, False], ids=["one length", "several lengths"])
@pytest.mark.parametrize("form", ["arrays", "datasets"])
@pytest.mark.parametrize("audit", ["label only", "reference", "callback"])
def test_every_audit_tells_of_padding_that_it_cannot_see_through(audit, form, of_one_length):
    rng = np.random.default_rng(0)
    sides = [rng.integers(1, 20, (60, 8)), rng.integers(1, 20, (60, 8 if of_one_length else 12))]
    y = np.arange(60) % 2
    model = sequences()
    model.compile("sgd", LOSS)

    def column(x, *labels):
        if form == "arrays":
            return (x, *labels) if labels else x
        return tf.data.Dataset.from_tensor_slices((x, *labels) if labels else x).batch(20)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PrivacyWarning)
        if audit == "reference":
            told = audit_reference(model, *map(column, sides)).notes
        elif audit == "callback":
            callback = MembershipAudit(*(column(x, y) for x in sides), attacks="loss")
            model.fit(sides[0], y, callbacks=[callback], verbose=0)
        else:
            pairs = [column(x, y) for x in sides]
            label_only_attack(model, *pairs, perturbation=lambda x, rng: x, num_queries=1, seed=0)
    if audit != "reference":
        told = [str(each.message) for each in caught]
    assert any("several lengths" in note for note in told) != of_one_length


# Missing values


def with_missing(value):
    texts = np.array(["m", "f"] * 10, dtype=object)
    texts[3] = texts[4] = value
    return texts


@pytest.mark.parametrize("value", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT])
def test_missing_texts_are_refused_by_name_and_count(value):
    texts = with_missing(value)
    forms = [{"sex": texts}, pd.DataFrame({"sex": texts, "age": 1.0})]
    for x in forms:
        with pytest.raises(ValueError, match=r"`x\['sex'\]` to have no missing.*2 of 20"):
            samples.checked(x, "x")
        with pytest.raises(ValueError, match=r"`x\['sex'\]` to have no missing.*2 of 20"):
            split_private(x, np.arange(20) % 2, members=5, nonmembers=5)
    with pytest.raises(ValueError, match="`x` to have no missing"):
        samples.checked(texts[:, None], "x")


@pytest.mark.parametrize("dtype", ["float64", "Int64", "Float64", "boolean"])
def test_missing_numbers_are_refused(dtype):
    column = pd.Series([1, 0, None], dtype=dtype)
    with pytest.raises(ValueError, match=r"`x\['age'\]` to (have no missing|be finite).*1 of 3"):
        samples.checked({"age": column}, "x")
    with pytest.raises(ValueError, match=r"`x` to be finite.*1 of 3"):
        samples.checked(pd.DataFrame({"age": column}), "x")


@pytest.mark.parametrize(
    "groups",
    [
        np.array(["a", None] * 10, dtype=object),
        np.array([1.0, np.nan] * 10),
        np.array(["2020", "NaT"] * 10, dtype="datetime64[s]"),
        pd.Series([1, None] * 10, dtype="Int64"),
        pd.Series(["a", pd.NA] * 10, dtype="string"),
    ],
)
def test_missing_groups_are_no_person(groups):
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    with pytest.raises(ValueError, match=r"`groups` to have a group .*10 of 20"):
        split_private(x, y, members=5, nonmembers=5, groups=groups)
    trainer = DMPTrainer(
        lambda: keras.Sequential([keras.Input((2,)), layers.Dense(2)]), selector=None, seed=0
    )
    trainer.compile("sgd", LOSS)
    with pytest.raises(ValueError, match=r"`groups\['members'\]` to have a group .*10 of 20"):
        trainer.fit(x, y, reference=x + 99, groups={"members": groups}, verbose=0)


def test_objects_of_mixed_types_are_never_spelled_out():
    with pytest.raises(TypeError, match=r"types \['int', 'str'\]"):
        samples.checked(np.array([["a", 1], ["b", 2]], dtype=object), "x")
    found = samples.checked({"a": np.array([1, 2], dtype=object)}, "x")
    assert found["a"].dtype == np.int64
    with pytest.raises(TypeError, match="datetime64"):
        samples.checked(np.array(["2020-01-01"], dtype="datetime64[D]"), "x")


# Tables


def test_tables_keep_the_types_of_their_columns():
    table = pd.DataFrame({"sex": ["m", "f"] * 10, "age": np.arange(20), "bmi": np.arange(20) / 2})
    split = split_private(table, np.arange(20) % 2, members=5, nonmembers=5, seed=0)
    assert split.members[0].dtypes.to_dict() == table.dtypes.to_dict()
    rows = table.iloc[split.indices["members"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(split.members[0], rows)
    found = samples.checked(table, "x")
    assert {name: column.dtype.kind for name, column in found.items()} == {
        "sex": "O",
        "age": "i",
        "bmi": "f",
    }
    with pytest.raises(ValueError, match=r"missing columns \['zip'\].*\['bmi', 'sex'\]"):
        samples.checked(table, "x", two_columns(size=1))
    with pytest.raises(ValueError, match=r"`x` to be named like .*1 of its columns are not"):
        samples.checked(table, "x", nets.classifier())
    mixed = pd.DataFrame({"a": [1, 2], "b": [True, False], "c": pd.Series([3, 4], dtype="Int64")})
    one_array = samples.checked(mixed, "x")
    np.testing.assert_array_equal(one_array, [[1, 1, 3], [2, 0, 4]])
    assert one_array.dtype == np.int64


# Labels and weights


@pytest.mark.parametrize(
    "y",
    [
        [0, 2, 1],
        [[0], [2], [1]],
        np.uint8([0, 2, 1]),
        np.float32([0, 2, 1]),
        np.float64([[0], [2], [1]]),
        np.eye(3)[[0, 2, 1]],
        np.eye(3, dtype=bool)[[0, 2, 1]],
        np.array([0, 2, 1], dtype=object),
        pd.Series([0, 2, 1], dtype="Int64"),
        tf.constant([0, 2, 1]),
    ],
)
def test_labels_in_any_form(y):
    labels = samples.checked_labels(y, 3, "y", x=np.zeros(3))
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.5, 1.0], "whole-number class labels. Received: dtype float64 with 1 of 2 values"),
        ([np.nan, 1.0], "with 1 of 2 values that are not whole"),
        (np.array([None, 1]), "a class for every sample. Received: 1 of 2"),
        (["a", "b"], "whole-number class labels. Received: dtype <U1"),
        ([0, 3], "lie in 0..2, the 3 classes of the model. Received: labels from 0 to 3"),
        ([-1.0, 0.0], "labels from -1 to 0"),
        ([[0.2, 0.3, 0.5]], "not one-hot"),
        ([[1, 1, 0]], "not one-hot"),
        ([[1, 0], [0, 1]], r"one-hot \(n, 3\)"),
        (np.zeros((2, 3, 1)), "Received: shape"),
        ({"a": [0], "b": [1]}, "`y` to be one array. Received: 2 arrays"),
    ],
)
def test_refused_labels(y, message):
    with pytest.raises(ValueError, match=message):
        samples.checked_labels(y, 3, "y")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(4), "`x` and `sample_weight` to have the same number of samples"),
        ([1, np.inf, 1], "`sample_weight` to be finite.*1 of 3"),
        (["a"] * 3, "`sample_weight` to be one number per sample"),
        (np.ones((3, 2)), r"shape \(3, 2\)"),
    ],
)
def test_refused_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        samples.checked_weights(weights, "sample_weight", x=np.zeros(3))


def as_form(form, *columns):
    """Columns as arguments: arrays, or one dataset."""
    if form == "arrays":
        return columns
    if form == "PyDataset":
        return (nets.Pairs(*columns, batch_size=20),)
    return (tf.data.Dataset.from_tensor_slices(columns).batch(20),)


@pytest.mark.parametrize("form", ["arrays", "dataset", "PyDataset"])
def test_weights_of_which_none_is_above_0_are_refused(form):
    x, y = nets.prototypes(40)
    weights = np.zeros(40, "float32")
    read = {"names": NAMES, "model": None, "num_classes": 4}
    with pytest.raises(ValueError, match=r"`sample_weight` to have weights above 0.*largest is"):
        samples.read(*as_form(form, x, y, weights), **read)
    # One batch may have none.
    weights[-1] = 0.5
    assert samples.read(*as_form(form, x, y, weights), **read).x is not None


@pytest.mark.parametrize("form", ["arrays", "dataset", "PyDataset"])
@pytest.mark.parametrize("part", ["reference", "x", "validation_data"])
def test_a_training_without_any_weight_is_refused_before_the_first_step(form, part):
    x, y = nets.prototypes(40)
    other = nets.prototypes(40, seed=1)[0]
    data = as_form(form, *((x, y) if part == "x" else (other, y)), np.zeros(40, "float32"))
    trainer = DMPTrainer(
        lambda: keras.Sequential([keras.Input((nets.FEATURES,)), layers.Dense(nets.CLASSES)]),
        selector=None,
        seed=0,
    )
    trainer.compile("sgd", LOSS)
    fit = {"x": x, "y": y, "reference": other, "epochs": 1, "verbose": 0}
    if part == "reference" and form == "arrays":
        # `DMPTrainer` takes no weights of arrays here.
        trainer = DistillationTrainer(nets.classifier(), nets.classifier(seed=1))
        trainer.compile("sgd")
        fit = {"x": other, "sample_weight": data[2], "verbose": 0}
    elif part == "x" and form == "arrays":
        fit["sample_weight"] = data[2]
    elif part == "x":
        fit |= {"x": data[0], "y": None}
    else:
        fit[part] = data if form == "arrays" else data[0]
    steps = nets.Steps()
    with pytest.raises(ValueError, match=r"weights?` to have weights above 0"):
        trainer.fit(**fit, callbacks=[steps])
    assert not steps.losses


@pytest.mark.filterwarnings("ignore:No chosen reference sample")
@pytest.mark.parametrize("form", ["arrays", "arrays without cache", "labelled", "dataset"])
def test_chosen_samples_without_any_weight_are_refused_before_the_first_step(form):
    """The pool has weights above 0, and the selector, which does not look at them, leaves none."""
    x, _ = nets.prototypes(40)
    models = nets.classifier(), nets.classifier(seed=1)
    trainer = DistillationTrainer(*models, cache="without cache" not in form, drop_labels=True)
    trainer.compile("sgd")
    chosen = trainer.label(x, selector=EntropyReferenceSelector(size=10)).indices
    weights = np.ones(40, "float32")
    weights[chosen] = 0
    steps, selector = nets.Steps(), EntropyReferenceSelector(size=10)
    if form == "dataset":
        fit = {"x": as_form(form, x, np.zeros(40), weights)[0]}
    elif form == "labelled":
        fit = {"x": trainer.label(x, sample_weight=weights, selector=selector)}
    else:
        fit = {"x": x, "sample_weight": weights}
    with pytest.raises(
        ValueError, match=r"training samples` to have weights above 0.*largest is 0"
    ):
        trainer.fit(**fit, callbacks=[steps, selector], verbose=0)
    assert not steps.losses
    weights[chosen[0]] = 0.5
    trainer.fit(x, sample_weight=weights, callbacks=[steps, selector], verbose=0)
    assert steps.losses


# Samples


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.float32(3), ValueError, "one row per sample"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, ValueError, r"lengths \[3, 4\]"),
        (np.zeros((0, 2)), ValueError, "at least 1 sample. Received: 0 samples"),
        (np.array([object(), object()]), TypeError, "objects of types"),
        (np.zeros(3, complex), TypeError, "dtype complex128"),
        (np.array([b"\xff\xd8"], dtype=object), ValueError, "encoded in UTF-8"),
    ],
)
def test_refused_samples(x, error, message):
    with pytest.raises(error, match=message):
        samples.checked(x, "x")


def test_values_that_are_not_finite_are_counted(monkeypatch):
    x = np.zeros((9, 4), "float16")
    samples.checked({"a": x, "b": np.arange(9), "c": np.array(["a"] * 9)}, "x")
    x[[1, 1, 5], [0, 2, 3]] = [np.nan, np.inf, -np.inf]
    for chunk in (1 << 20, 8):
        monkeypatch.setattr(arrays, "_CHUNK_BYTES", chunk)
        with pytest.raises(ValueError, match=r"`x` to be finite. .* in 2 of 9 samples"):
            samples.checked(x, "x")
    huge = np.full((3, nets.FEATURES), 1e300)
    with pytest.raises(ValueError, match=r"`x` to be finite as float32.* in 3 of 3"):
        samples.checked(huge, "x", nets.classifier())


@pytest.mark.parametrize("form", ["arrays", "tf.data", "PyDataset"])
def test_one_reading_finds_all_there_is(form):
    x, y = nets.prototypes(50)
    weights = np.linspace(0, 1, 50).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(20)
    columns = {
        "arrays": (x, y, weights),
        "tf.data": (dataset,),
        "PyDataset": (nets.Pairs(x, y, weights, batch_size=20),),
    }[form]
    model = nets.classifier()
    read = samples.read(*columns, names=NAMES, model=model, num_classes=4)
    np.testing.assert_array_equal(read.digests, digests(x))
    np.testing.assert_array_equal(read.labels, y)
    assert read.batch_size == (None if form == "arrays" else 20)
    if form == "arrays":
        np.testing.assert_array_equal(read.sample_weight, weights)
        assert read.x is x


def counted(x, y):
    """A dataset, and the list of its readings."""
    readings = []

    def batches():
        readings.append(len(readings))
        yield from ((x[start : start + 20], y[start : start + 20]) for start in (0, 20))

    spec = (tf.TensorSpec((None, x.shape[1])), tf.TensorSpec((None,), tf.int64))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=spec)
    # Keras warns where a dataset ends without having said so.
    return dataset.apply(tf.data.experimental.assert_cardinality(2)), readings


def test_validation_data_is_read_once_before_the_first_step():
    x, y = nets.prototypes(120)
    validation, readings = counted(x[:40], y[:40])
    seen = []
    count = keras.callbacks.LambdaCallback(on_train_begin=lambda _: seen.append(len(readings)))
    trainer = DMPTrainer(
        lambda: keras.Sequential([keras.Input((12,)), layers.Dense(4)]), selector=None, seed=0
    )
    trainer.compile("sgd", LOSS)
    trainer.fit(
        x[40:80],
        y[40:80],
        reference=x[80:],
        validation_data=validation,
        callbacks=[count],
        teacher_callbacks=[count],
        verbose=0,
    )
    # The teacher's epoch is validated in between.
    assert seen == [1, 2]
    student = DistillationTrainer(nets.classifier(), nets.classifier(seed=1))
    student.compile("sgd")
    validation, readings = counted(x[:40], y[:40])
    seen.clear()
    student.fit(x[80:], validation_data=validation, callbacks=[count], verbose=0)
    assert seen == [1]


# Ordinary pipelines


def columns_of(rows, y=None):
    rng = np.random.default_rng(rows.start)
    table = {name: rng.normal(size=60).astype("float32") for name in ("zip", "age")}
    data = table if y is None else (table, y)
    return tf.data.Dataset.from_tensor_slices(data)


@pytest.mark.filterwarnings("ignore:No chosen reference sample")
def test_batches_of_scalar_columns():
    y = np.arange(60) % 2
    members, others = columns_of(slice(0, 60), y), columns_of(slice(60, 120), y)
    reference = columns_of(slice(120, 180))
    trainer = DMPTrainer(lambda: two_columns(size=1), selector=None, seed=0)
    trainer.compile("sgd", LOSS)
    student = trainer.fit(members.batch(20), reference=reference.batch(20), verbose=0)
    assert student is not None
    model = two_columns(size=1)
    sides = members.batch(20), others.batch(20)
    assert audit_membership(model, *sides, attacks="loss").num_members == 60
    chosen = EntropyReferenceSelector(size=5).select(model, reference.batch(20))
    assert chosen["age"].shape == (5,)
    for unbatched in (members, columns_of(slice(0, 60), y).map(as_columns)):
        with pytest.raises(ValueError, match="an unbatched dataset"):
            audit_membership(model, unbatched, others, attacks="loss")


def as_columns(x, y):
    return {name: column[None] for name, column in x.items()}, y


@pytest.mark.parametrize("form", ["float32", "column", "one-hot", "float64"])
def test_whole_float_labels(form):
    x, y = nets.prototypes(80, classes=2)
    y = {
        "float32": y.astype("float32"),
        "float64": y.astype("float64"),
        "column": y.astype("float32")[:, None],
        "one-hot": np.eye(2, dtype="float32")[y],
    }[form]
    model = nets.classifier(1)
    members, others = (x[:40], y[:40]), (x[40:], y[40:])
    assert audit_membership(model, members, others, attacks="loss", seed=0).num_members == 40
    MembershipAudit(members, others)
    split = split_private(x, y, members=20, nonmembers=20)
    np.testing.assert_array_equal(split.members[1], y[split.indices["members"]])


def test_audits_take_weights_with_arrays_as_with_datasets():
    x, y = nets.prototypes(80)
    weights = np.linspace(0.1, 1, 40)
    columns = (x[:40], y[:40], weights), (x[40:], y[40:], weights)
    model = nets.classifier()
    plain = audit_membership(model, columns[0][:2], columns[1][:2], attacks="loss", seed=0)
    for sides in (columns, [tf.data.Dataset.from_tensor_slices(c).batch(20) for c in columns]):
        report = audit_membership(model, *sides, attacks="loss", seed=0)
        assert report["loss"].auc == plain["loss"].auc
    with pytest.raises(ValueError, match="`members weights` to be finite"):
        audit_membership(model, (x[:40], y[:40], weights * np.nan), columns[1], attacks="loss")


def own_lengths(x, *labels):
    """Batches of 20, each padded to a length of its own."""

    def batches():
        for number, start in enumerate(range(0, len(x), 20)):
            rows = slice(start, start + 20)
            padded = np.pad(x[rows], [(0, 0), (0, number)])
            yield (padded, *(column[rows] for column in labels)) if labels else padded

    spec = tf.TensorSpec((None, None), tf.int64)
    labels_spec = tuple(tf.TensorSpec((None,), tf.int64) for _ in labels)
    signature = (spec, *labels_spec) if labels else spec
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-len(x) // 20)))


def test_sequences_of_other_lengths():
    rng = np.random.default_rng(0)
    short, longer = rng.integers(1, 20, (60, 8)), rng.integers(1, 20, (60, 12))
    y = np.arange(60) % 2
    model = sequences(mask_zero=True)
    for sides in (((short, y), (longer, y)), (own_lengths(short, y), own_lengths(longer, y))):
        assert audit_membership(model, *sides, attacks="loss", seed=0).num_members == 60
    for members, reference in (
        ((short, y), longer),
        ((own_lengths(short, y),), own_lengths(longer)),
    ):
        trainer = DMPTrainer(lambda: sequences(mask_zero=True), selector=None, seed=0)
        trainer.compile("sgd", LOSS)
        trainer.fit(*members, reference=reference, verbose=0)
    trainer = DistillationTrainer(sequences(mask_zero=True), model)
    trainer.compile("sgd")
    labeled = trainer.label(own_lengths(longer))
    np.testing.assert_array_equal(labeled.x, np.pad(longer, [(0, 0), (0, 2)]))
    trainer = DMPTrainer(lambda: sequences(mask_zero=True), selector=None, seed=0)
    trainer.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="60 of 60 samples of `reference` are members"):
        trainer.fit(short, y, reference=own_lengths(short), verbose=0)


def test_the_trainer_warns_of_padding_that_it_cannot_see_through():
    rng = np.random.default_rng(0)
    short, longer = rng.integers(1, 20, (60, 8)), rng.integers(1, 20, (60, 12))
    trainer = DMPTrainer(sequences, selector=None, seed=0)
    trainer.compile("sgd", LOSS)
    with pytest.warns(PrivacyWarning, match="several lengths"):
        trainer.fit(short, np.arange(60) % 2, reference=longer, verbose=0)


# Nothing of the data in messages

SECRET = 918273


def secrets():
    x = np.full((20, nets.FEATURES), float(SECRET))
    y = np.arange(20) % 4
    texts = np.array([[str(SECRET)]] * 20)
    return [
        (np.full(20, SECRET)[0], y),
        (x[:, :3], y),
        (texts, y),
        (np.array([[str(SECRET), SECRET]] * 20, dtype=object), y),
        (np.array([[f"{SECRET}".encode() + b"\xff"]] * 20, dtype=object), y),
        (np.where(np.arange(nets.FEATURES) == 0, np.nan, x), y),
        (x, y[:-1]),
        (x, np.full(20, SECRET + 0.5)),
        (x, texts[:, 0]),
        (x, np.full((20, 4), float(SECRET))),
        (x, np.array([None, SECRET] * 10, dtype=object)),
    ]


@pytest.mark.parametrize("case", range(len(secrets())))
def test_messages_show_neither_labels_nor_records(case):
    x, y = secrets()[case]
    doors = [
        lambda: samples.read(x, y, names=NAMES, model=nets.classifier(), num_classes=4),
        lambda: audit_membership(nets.classifier(), (x, y), (x, y), attacks="loss"),
    ]
    for door in doors:
        with pytest.raises((TypeError, ValueError)) as caught:
            door()
        error = caught.value
        while error is not None:
            assert str(SECRET) not in str(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(
    ("layer", "known"),
    [
        (lambda: layers.StringLookup(vocabulary=["a"], num_oov_indices=0), "a"),
        (lambda: layers.IntegerLookup(vocabulary=[1], num_oov_indices=0), 1),
        (lambda: layers.Embedding(5, 2), 1),
    ],
)
@pytest.mark.parametrize("place", [0, 11])
def test_values_that_a_model_does_not_know_are_not_shown(layer, known, place):
    """TensorFlow's errors show them, wherever they are."""
    lookup = layer()
    lookup = [lookup, layers.Flatten()] if isinstance(lookup, layers.Embedding) else [lookup]
    inputs = keras.Input((1,), dtype="string" if known == "a" else "int64")
    hidden = inputs
    for each in lookup:
        hidden = each(hidden)
    model = keras.Model(inputs, layers.Dense(4)(keras.ops.cast(hidden, "float32")))
    x = np.array([[known]] * 12, dtype=object if known == "a" else None)
    x[place] = str(SECRET) if known == "a" else SECRET
    with pytest.raises(ValueError, match="Received") as caught:
        audit_membership(model, (x, np.arange(12) % 4), (x[:1], np.arange(1)), attacks="loss")
    error = caught.value
    while error is not None:
        assert str(SECRET) not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize("dtype", ["int64", "float32"])
@pytest.mark.parametrize("bad", [-1, 30, 7_000])
@pytest.mark.parametrize("nest", [False, True])
def test_numbers_outside_of_an_embedding_are_counted(dtype, bad, nest):
    model = sequences(4)
    if nest:
        inputs = keras.Input((4,), dtype=dtype)
        model = keras.Model(inputs, model(inputs))
    x = np.arange(40).reshape(10, 4) % 30
    assert samples.checked(x.astype(dtype), "x", model) is not None
    x[[2, 5], 1] = bad
    with pytest.raises(ValueError, match=r"`x` to lie in 0\.\.29.*Received: .* 2 of 10 samples"):
        samples.checked(x.astype(dtype), "x", model)


# Inputs by the names under which the model takes them


def of_keys(keys):
    """A model that was built with a dictionary whose keys are not the names of its inputs."""
    inputs = {key: keras.Input((3,), name=f"input_{place}") for place, key in enumerate(keys)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Keras wants them equal.
        return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(list(inputs.values()))))


def of_groups():
    """A model whose dictionary of inputs holds another one."""
    person = {name: keras.Input((3,), name=name) for name in ("zip", "age")}
    inputs = {"person": person, "place": keras.Input((3,), name="place")}
    leaves = keras.tree.flatten(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(leaves)))


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_inputs_are_named_by_the_keys_of_the_models_dictionary():
    rng = np.random.default_rng(0)
    zips, ages = rng.normal(size=(2, 20, 3)).astype("float32")
    model = of_keys(["zip", "age"])
    x = {"zip": zips, "age": ages}
    assert_equal(x, {"age": ages, "zip": zips.astype("float64")}, model)
    assert_equal(x, [ages, zips], model)  # in Keras' order, that of the alphabet
    with pytest.raises(ValueError, match=r"keys \['age', 'zip'\].*Received"):
        samples.checked({"input_0": zips, "input_1": ages}, "x", model)
    trainer = DMPTrainer(lambda: of_keys(["zip", "age"]), selector=None)
    trainer.compile("sgd", LOSS)
    fit = {"epochs": 1, "verbose": 0}
    trainer.fit(x, np.arange(20) % 2, reference={"age": ages + 9, "zip": zips}, **fit)
    with pytest.raises(ValueError, match="20 of 20 samples of `reference` are members"):
        trainer.fit(x, np.arange(20) % 2, reference={"age": ages, "zip": zips}, **fit)


def test_dictionaries_in_dictionaries():
    zips, ages, places = np.random.default_rng(0).normal(size=(3, 20, 3)).astype("float32")
    model = of_groups()
    x = {"person": {"zip": zips, "age": ages}, "place": places}
    assert_equal(x, {"place": places, "person": {"age": ages, "zip": zips}}, model)
    assert not np.array_equal(
        digests(x, model), digests({**x, "person": {"zip": ages, "age": zips}}, model)
    )
    with pytest.raises(ValueError, match=r"`x`.*Received: "):
        samples.checked({"persons": x["person"], "place": places}, "x", model)


COLUMNS = list("abcdefghijkl")
TABLES = {
    "another order": (lambda table: table[COLUMNS[::-1]], "same columns in another order"),
    "other columns": (lambda table: table.rename(columns={"a": "z"}), "other columns"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_that_become_arrays_have_the_same_columns(case):
    """Their columns have no names any more, and equal records would not be found."""
    changed, received = TABLES[case]
    (x, y), (others, _) = nets.prototypes(40, seed=0), nets.prototypes(40, seed=1)
    table, other = (pd.DataFrame(of, columns=COLUMNS) for of in (x, others))
    trainer = DMPTrainer(
        lambda: keras.Sequential([keras.Input((nets.FEATURES,)), layers.Dense(nets.CLASSES)])
    )
    trainer.compile("sgd", LOSS)
    doors = {
        "reference": lambda: trainer.fit(table, y, reference=changed(other)),
        "validation_data": lambda: trainer.fit(
            table, y, reference=other, validation_data=(changed(other), y)
        ),
        "nonmembers": lambda: audit_membership(
            nets.classifier(), (table, y), (changed(other), y), attacks="loss"
        ),
    }
    sides = (table, y), (changed(other), y)
    pairs = {
        "label only": lambda: label_only_attack(nets.classifier(), *sides, seed=0),
        "blind": lambda: blind_baseline(*sides),
        "network": lambda: black_box_attack(nets.classifier(), *sides, seed=0),
    }
    for name, door in [*doors.items(), *(("nonmembers", pair) for pair in pairs.values())]:
        with pytest.raises(ValueError, match=f"columns of `{name}`.*Received: .*{received}"):
            door()
    with pytest.raises(ValueError, match="columns of `nonmembers`"):
        MembershipAudit((table, y), (changed(other), y))


def test_columns_of_named_inputs_may_have_any_order():
    model = two_columns(size=1)
    table = pd.DataFrame({"zip": [1.0, 2.0], "age": [3.0, 4.0]})
    samples.require_same_columns(model, x=table, reference=table[["age", "zip"]])
    samples.require_same_columns(nets.classifier(), x=table, reference=table.to_numpy())
    texts = pd.DataFrame({"zip": ["a", "b"], "age": [3.0, 4.0]})
    samples.require_same_columns(x=texts, reference=texts[["age", "zip"]])


def test_sparse_columns_are_arrays():
    x = np.eye(nets.FEATURES, dtype="float32")
    table = pd.DataFrame({name: pd.arrays.SparseArray(x[:, at]) for at, name in enumerate(COLUMNS)})
    np.testing.assert_array_equal(samples.checked(table, "x", nets.classifier()), x)


def test_masked_values_are_missing():
    x, y = nets.prototypes(20)
    mask = np.zeros(x.shape, bool)
    assert samples.checked(np.ma.masked_array(x, mask), "x") is not None
    mask[3, 4] = True
    with pytest.raises(ValueError, match=r"`x` to have no missing.*Received: 1 of 240"):
        samples.checked(np.ma.masked_array(x, mask), "x")
    for column in (y, y.astype("float32")):
        masked = np.ma.masked_array(column, mask[:, 4])
        with pytest.raises(ValueError, match=r"`y`.*Received: 1 of 20"):
            samples.checked_labels(masked, 4, "y")
        with pytest.raises(ValueError, match=r"`w`.*Received: 1 of 20"):
            samples.checked_weights(masked, "w", x=x)


@pytest.mark.parametrize("form", ["arrays", "dataset"])
def test_negative_weights_are_refused(form):
    x, y = nets.prototypes(20)
    weights = np.linspace(-1, 1, 20)
    columns = (x, y, weights)
    if form == "dataset":
        columns = (tf.data.Dataset.from_tensor_slices(columns).batch(20),)
    with pytest.raises(ValueError, match=r"`sample_weight`.*at least 0.*Received: .* 10 of 20"):
        samples.read(*columns, names=NAMES, model=nets.classifier(), num_classes=4)

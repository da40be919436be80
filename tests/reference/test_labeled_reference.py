"""A labelled reference comes back from its folder bit for bit, or not at all."""

import dataclasses
import json
import os
import stat

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf

from keras_dmp import DistillationTrainer, EntropyReferenceSelector
from keras_dmp._storage import private_file
from keras_dmp.reference import labeled_reference
from keras_dmp.reference.labeled_reference import LabeledReference

pytestmark = pytest.mark.filterwarnings("ignore:No chosen reference sample")


def trainer(teacher=None, **settings):
    made = DistillationTrainer(nets.classifier(seed=12), teacher=teacher, **settings)
    made.compile(keras.optimizers.SGD(0.5))
    return made


def labeled_by(teacher, x, *, as_dataset=False, selector=None, weights=None, **settings):
    made = trainer(teacher, drop_labels=True, **settings)
    if not as_dataset:
        return made.label(x, sample_weight=weights, selector=selector)
    columns = (x, np.zeros(96)) if weights is None else (x, np.zeros(96), weights)
    dataset = tf.data.Dataset.from_tensor_slices(columns).batch(20)
    return made.label(dataset, selector=selector)


def assert_same(read, written):
    for mine, theirs in zip(read.encoded, written.encoded, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    keras.tree.map_structure(np.testing.assert_array_equal, read.x, written.x)
    for name in ("label_format", "batch_size", "pool_size", "from_dataset", "kind", "summary"):
        assert getattr(read, name) == getattr(written, name)
    for name in ("sample_weight", "indices", "entropy"):
        mine, theirs = getattr(read, name), getattr(written, name)
        assert (mine is None) == (theirs is None)
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("as_dataset", [False, True])
@pytest.mark.parametrize("rule", [None, {"size": 30}, {"max_entropy": 0.9, "order": "random"}])
@pytest.mark.parametrize("settings", [{}, {"label_format": 2}, {"memory_limit": 0}], ids=str)
@pytest.mark.parametrize("memory", [10**9, 0])
def test_what_is_written_is_read(
    tmp_path, reference, teacher, as_dataset, rule, settings, memory, monkeypatch
):
    selector = rule and EntropyReferenceSelector(**rule)
    weights = np.linspace(0, 1, 96).astype("float32") if rule else None
    written = labeled_by(
        teacher, reference, as_dataset=as_dataset, selector=selector, weights=weights, **settings
    )
    folder = tmp_path / "labels"
    assert not labeled_reference.is_written(folder)
    written.save(folder)
    assert labeled_reference.is_written(folder)
    monkeypatch.setattr("keras_dmp.reference.row_store.available_memory", lambda: 4 * memory)
    read = LabeledReference.load(folder, pool=reference)
    assert_same(read, written)
    assert isinstance(read.encoded[0], np.memmap) == (memory == 0)
    has_samples = any(name.startswith("samples") for name in os.listdir(folder))
    assert has_samples == as_dataset
    if rule:
        twin = EntropyReferenceSelector(**rule)
        twin.restore(read)
        for name in ("indices_", "entropy_", "pool_entropy_", "reference"):
            np.testing.assert_array_equal(getattr(twin, name), getattr(selector, name))
        assert twin.summary == selector.summary
    # Written again, from files to files, over what is there.
    read.save(folder)
    assert_same(LabeledReference.load(folder, pool=reference), written)


def test_the_student_is_the_same(tmp_path, reference, teacher):
    selector = EntropyReferenceSelector(size=40)
    written = labeled_by(teacher, reference, as_dataset=True, selector=selector)
    written.save(tmp_path)
    twin = EntropyReferenceSelector(size=40)
    results = []
    for labeled, callback in [
        (written, selector),
        (LabeledReference.load(tmp_path), twin),
    ]:
        keras.utils.set_random_seed(3)
        made = trainer()
        history = made.fit(labeled, epochs=2, verbose=0, callbacks=[callback]).history
        results.append((history, nets.snapshot(made.student)))
    assert results[0][0] == results[1][0]
    assert results[0][0]["reference_size"] == [40, 40]
    nets.assert_same_weights(made.student, results[0][1])


def test_structures_and_strings(tmp_path):
    class Words(keras.layers.Layer):
        def call(self, inputs):
            number = tf.cast(tf.strings.length(inputs["word"]), tf.float32)
            return number[:, None] * inputs["number"]

    x = {
        "word": np.array(["a", "bb", "cccc"] * 4),
        "number": np.arange(24.0).reshape(12, 2).astype("float32"),
    }
    net = keras.Sequential([Words(), keras.layers.Dense(3)])
    student = keras.Sequential([Words(), keras.layers.Dense(3)])
    net(x), student(x)
    made = DistillationTrainer(student, teacher=net, from_logits=True)
    written = made.label(tf.data.Dataset.from_tensor_slices(x).batch(5))
    written.save(tmp_path)
    assert_same(LabeledReference.load(tmp_path), written)
    np.testing.assert_array_equal(written.x["word"].astype(str), x["word"])


def test_only_the_owner_can_read(tmp_path, reference, teacher):
    folder = tmp_path / "a" / "labels"
    labeled_by(teacher, reference, as_dataset=True).save(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


# What is no labelled reference.


@pytest.fixture
def folder(tmp_path, reference, teacher):
    selector = EntropyReferenceSelector(size=30)
    labeled_by(teacher, reference, as_dataset=True, selector=selector).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["samples_0", "labels_0", "indices", "pool_entropy"])
@pytest.mark.parametrize("damage", ["gone", "cut", "longer", "changed"])
def test_damaged_files_are_named(folder, name, damage):
    path = folder / f"{name}.npy"
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "longer":
        path.write_bytes(content + b"\0")
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    what = {"gone": "is missing", "changed": "has changed since"}
    message = what.get(damage, "bytes instead of")
    with pytest.raises(ValueError, match=rf"labelled reference\. Received: .*{name}.*{message}"):
        LabeledReference.load(folder)


def rewritten(path, change):
    """A manifest whose checksum fits what somebody has changed."""
    record = private_file.read(path, None)
    change(record.values)
    private_file.write(path, record, record.identity)


@pytest.mark.parametrize(
    "make",
    [lambda text: text[:-20], lambda text: b"", lambda text: b"\xff\xfe", lambda text: b"[1]"],
)
def test_damaged_manifests(folder, make):
    path = folder / "arrays.manifest"
    path.write_bytes(make(path.read_bytes()))
    with pytest.raises(ValueError, match=r"arrays\.manifest.*damaged or of another type"):
        LabeledReference.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(values={}), "inconsistent values"),
        (lambda values: values.update(values=3), "damaged or of another type"),
        (lambda values: values.update(files={}), "inconsistent values"),
        (lambda values: values["files"].update(labels_0={}), "damaged or of another type"),
        (lambda values: values["files"]["labels_0"].update(shape=[1 << 60, 9]), "damaged or of"),
        (lambda values: values["files"]["labels_0"].update(shape=[5, 3]), "bytes instead of"),
        (lambda values: values["files"]["labels_0"].update(dtype="|O8"), "damaged or of"),
        (lambda values: values["values"].update(samples=7), "inconsistent values"),
        (lambda values: values["values"].update(pool_size="7"), "inconsistent values"),
        (lambda values: values["values"].update(kind={"a": 1}), "inconsistent values"),
        (
            lambda values: values["files"].update({"../x": values["files"].pop("labels_0")}),
            "damaged or of another type",
        ),
    ],
)
def test_forged_manifests(folder, change, message):
    rewritten(folder / "arrays.manifest", change)
    with pytest.raises(ValueError, match=rf"labelled reference.*Received: .*{message}"):
        LabeledReference.load(folder)


def test_folders_of_something_else_are_refused(folder):
    path = folder / "arrays.manifest"
    record = private_file.read(path, None)
    private_file.write(path, record, dataclasses.replace(record.identity, type="shadow model"))
    with pytest.raises(ValueError, match="holds shadow model 0 instead of labelled reference 0"):
        LabeledReference.load(folder)


def test_folders_of_format_version_1_are_refused(tmp_path, reference, teacher):
    manifest = {"format": "keras_dmp.labeled_reference", "format_version": 1, "files": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest, indent=1))
    (tmp_path / "labels_0.bin").write_bytes(b"old")
    message = r"format version 2\. Received: 'manifest\.json' of format version 1\..*Nothing"
    with pytest.raises(ValueError, match=message):
        LabeledReference.load(tmp_path)
    with pytest.raises(ValueError, match=message):
        labeled_by(teacher, reference).save(tmp_path)
    assert (tmp_path / "labels_0.bin").read_bytes() == b"old"


def test_arrays_are_npy_files(folder):
    read = LabeledReference.load(folder)
    np.testing.assert_array_equal(np.load(folder / "labels_0.npy"), read.encoded[0])


def test_a_folder_of_nothing(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"the file arrays.manifest: nothing was written"):
            LabeledReference.load(folder)


def test_a_write_that_breaks_off_leaves_no_whole_one(folder, reference, teacher, monkeypatch):
    replace = os.replace

    def full(source, target):
        if str(target).endswith("indices.npy"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    written = labeled_by(teacher, reference, selector=EntropyReferenceSelector(size=9))
    with pytest.raises(OSError, match="No space left"):
        written.save(folder)
    assert not labeled_reference.is_written(folder)
    monkeypatch.undo()
    # What a killed writer leaves goes with the next one.
    (folder / ".indices.npy.abc").write_bytes(b"half")
    written.save(folder)
    assert_same(LabeledReference.load(folder, reference), written)
    assert not list(folder.glob(".*"))


def test_foreign_folders_are_left_alone(tmp_path, reference, teacher):
    written = labeled_by(teacher, reference)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="empty or an earlier labelled reference"):
        written.save(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]
    models = tmp_path / "models"
    models.mkdir()
    (models / "model.npy").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        written.save(models)
    assert os.listdir(models) == ["model.npy"]
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        written.save(path)


@pytest.mark.parametrize("name", ["arrays.manifest", "indices.npy"])
def test_folder_in_place_of_a_file_is_named(tmp_path, reference, teacher, name):
    written = labeled_by(teacher, reference, selector=EntropyReferenceSelector(size=30))
    written.save(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"Received: .*{name}"):
        LabeledReference.load(tmp_path, reference)
    with pytest.raises(ValueError, match=f"Received: .*{name}.*remove it"):
        written.save(tmp_path)


def test_refuses_another_pool(tmp_path, reference, teacher):
    written = labeled_by(teacher, reference, selector=EntropyReferenceSelector(size=30))
    written.save(tmp_path)
    other = reference.copy()
    other[written.indices[4], 0] += 1
    for pool, message in [
        (None, "Expected `pool` .*Received: pool=None"),
        (reference[:-1], "`pool` to be the 96 samples that were labelled. Received: pool with 95"),
        (reference[::-1], "in the same order. Received: pool with other values"),
        (reference.astype("float64"), "in the same order. Received: pool with other values"),
        (other, "in the same order. Received: pool with other values"),
    ]:
        with pytest.raises(ValueError, match=message):
            LabeledReference.load(tmp_path, pool)


def test_repr_shows_sizes_alone(folder):
    read = LabeledReference.load(folder)
    assert repr(read) == f"<LabeledReference: {len(read)} of {read.pool_size} samples, {read.kind}>"


def test_a_selector_of_other_settings_is_not_restored(folder):
    read = LabeledReference.load(folder)
    for settings in ({"size": 31}, {"size": 30, "order": "highest"}, {"size": 30, "seed": 1}):
        selector = EntropyReferenceSelector(**settings)
        with pytest.raises(ValueError, match="`labeled` to be a reference that was chosen by"):
            selector.restore(read)
        assert selector.indices_ is None

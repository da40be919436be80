"""No file that a trainer writes holds a weight of the teacher: their bytes are searched for."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from leaks import contents, occurrences
from nets import distil


def checkpoint_of(trainer, path):
    tf.train.Checkpoint(model=trainer).write(str(path / "checkpoint"))


WRITERS = {
    "trainer.save": lambda trainer, path: trainer.save(path / "trainer.keras"),
    "trainer.save .h5 weights": lambda t, path: t.save_weights(path / "trainer.weights.h5"),
    "student.save": lambda trainer, path: trainer.student.save(path / "student.keras"),
    "student.save .h5": lambda t, path: t.student.save_weights(path / "student.weights.h5"),
    "student.export": lambda trainer, path: trainer.student.export(path / "model", verbose=False),
    "tf.train.Checkpoint": checkpoint_of,
}
CALLBACKS = {
    "ModelCheckpoint": lambda path: keras.callbacks.ModelCheckpoint(path / "{epoch}.keras"),
    "ModelCheckpoint of weights": lambda path: keras.callbacks.ModelCheckpoint(
        path / "{epoch}.weights.h5", save_weights_only=True
    ),
    "BackupAndRestore": lambda path: keras.callbacks.BackupAndRestore(
        path / "backup", delete_checkpoint=False
    ),
}
CACHES = pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])


def check(teacher, student, path):
    assert occurrences(teacher, path) == 0
    # The search finds what is there.
    assert occurrences(student, path) > nets.FEATURES


@CACHES
def test_files_of_a_trained_trainer(tmp_path, reference, labeled, teacher, student, cache):
    trainer, _ = distil(
        student,
        reference,
        teacher=teacher,
        settings={"cache": cache},
        compile={"optimizer": "adam"},
        validation_data=labeled,
    )
    for name, write in WRITERS.items():
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        write(trainer, folder)
        check(teacher, student, folder)


@CACHES
@pytest.mark.parametrize("name", CALLBACKS)
def test_files_of_callbacks(tmp_path, reference, teacher, student, name, cache):
    distil(
        student,
        reference,
        teacher=teacher,
        settings={"cache": cache},
        epochs=1,
        callbacks=[CALLBACKS[name](tmp_path)],
    )
    check(teacher, student, tmp_path)


def test_the_teachers_outputs_are_in_no_file_either(tmp_path, reference, teacher, student):
    trainer, _ = distil(student, reference, teacher=teacher)
    trainer.save(tmp_path / "trainer.keras")
    checkpoint_of(trainer, tmp_path)
    outputs = np.array(teacher(reference))
    blobs = list(contents(tmp_path))
    assert not [row for row in outputs if any(row.tobytes() in blob for blob in blobs)]


def test_the_search_finds_a_leak(tmp_path, reference, teacher, student):
    trainer, _ = distil(student, reference, teacher=teacher)
    trainer.tracked = teacher
    for name in ("trainer.save", "trainer.save .h5 weights", "tf.train.Checkpoint"):
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        WRITERS[name](trainer, folder)
        assert occurrences(teacher, folder) > nets.FEATURES, name


def test_the_search_finds_constants_and_half_precision(tmp_path, reference, teacher):
    frozen = [tf.constant(weight) for weight in teacher.get_weights()]

    class Frozen(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, nets.FEATURES))])
        def __call__(self, x):
            return tf.tanh(x @ frozen[0]) @ frozen[2]

    tf.saved_model.save(Frozen(), str(tmp_path / "model"))
    assert occurrences(teacher, tmp_path / "model") > nets.FEATURES
    np.savez_compressed(tmp_path / "half.npz", kernel=teacher.get_weights()[0].astype("float16"))
    assert occurrences(teacher, tmp_path / "half.npz") > nets.FEATURES // 2

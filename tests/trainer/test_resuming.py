"""A run of DMPTrainer that was broken off goes on in its directory to the same student."""

import collections
import json
import os
import pathlib
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
import warnings

import keras
import nets
import numpy as np
import pytest
import resumable
import tensorflow as tf
from keras import layers
from resumable import EPOCHS, TEACHER_EPOCHS, BreakOff, broken_off, fit, resumed, trainer_in

from keras_dmp import DMPTrainer, EntropyReferenceSelector, MembershipAudit
from keras_dmp._storage import private_file
from keras_dmp._training import epoch_checkpoints

KILLS = 20


def names(directory):
    return sorted(entry.name for entry in pathlib.Path(directory).iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    return resumed(tmp_path_factory.mktemp("whole") / "run")


# Going on


@pytest.mark.parametrize(
    "place",
    [
        {"student": 0},
        pytest.param({"teacher": 3}, marks=pytest.mark.full),
        pytest.param({"teacher": 0}, marks=pytest.mark.slow),
        pytest.param({"student": EPOCHS - 1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_broken_off_and_resumed_equals_uninterrupted(tmp_path, whole, place):
    broken_off(tmp_path / "run", **place)
    assert resumed(tmp_path / "run") == whole


@pytest.mark.full
def test_broken_off_again_and_again(tmp_path, whole):
    for place in ({"teacher": 1}, {"teacher": 2}, {"student": 1}, {"student": 3}):
        broken_off(tmp_path / "run", **place)
    assert resumed(tmp_path / "run") == whole


@pytest.mark.full
def test_a_finished_phase_is_not_done_again(tmp_path, whole, monkeypatch):
    broken_off(tmp_path / "run", student=2)
    steps = []
    monkeypatch.setattr(keras.Sequential, "fit", lambda *_, **__: steps.append("teacher"))
    assert resumed(tmp_path / "run") == whole
    monkeypatch.setattr(
        "keras_dmp.reference.labeling.label", lambda *_, **__: steps.append("label")
    )
    assert resumed(tmp_path / "run") == whole
    assert not steps


def test_without_a_directory_the_student_is_the_same(tmp_path, whole):
    # Dropout and data order are functions of the seed with and without checkpoints.
    assert json.loads(fit(trainer_in(None)))[0] == json.loads(whole)[0]


@pytest.mark.full
def test_early_stopping_stays_stopped(tmp_path):
    given = {"teacher_callbacks": [keras.callbacks.EarlyStopping(patience=1, min_delta=10)]}
    run = fit(trainer_in(tmp_path / "run"), **given)
    history = json.loads(run)[1]
    assert len(history["teacher_loss"]) == 2 < TEACHER_EPOCHS
    # As a run that was killed before it wrote down that the teacher is finished.
    max((tmp_path / "run").glob("teacher-*")).unlink()
    given = {"teacher_callbacks": [keras.callbacks.EarlyStopping(patience=1, min_delta=10)]}
    assert fit(trainer_in(tmp_path / "run"), **given) == run


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("dataset", marks=pytest.mark.slow),
        pytest.param("PyDataset", marks=pytest.mark.full),
    ],
)
def test_members_in_batches(tmp_path, kind):
    x, y = nets.prototypes(200, seed=1)

    def run(directory, place=None):
        if kind == "dataset":
            members = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
        else:
            members = nets.Pairs(x, y, batch_size=32)
        given = resumable.arguments()
        given["teacher_callbacks"].append(BreakOff(place))
        trainer = trainer_in(directory)
        trainer.fit(members, **given)
        return b"".join(weight.tobytes() for weight in trainer.student.get_weights())

    expected = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", place=2)
    assert run(tmp_path / "run") == expected


@pytest.mark.parametrize("part", ["x", "reference", "validation_data"])
def test_a_dataset_that_shuffles_is_refused(tmp_path, part):
    data = nets.prototypes(200, seed=7)
    data = data[0] if part == "reference" else data
    shuffled = tf.data.Dataset.from_tensor_slices(data).shuffle(200).batch(32)
    x, y = nets.prototypes(200, seed=1)
    given = {"x": x, "y": y, **resumable.arguments(), part: shuffled}
    if part == "x":
        given["y"] = None
    with pytest.raises(ValueError, match=f"`{part}` to yield samples in the same order"):
        trainer_in(tmp_path / "run").fit(**given)
    assert not (tmp_path / "run").exists()


class Broken(keras.callbacks.Callback):
    """Raises once, at the begin of the third epoch of all phases."""

    left = 0

    def on_epoch_begin(self, epoch, logs=None):
        Broken.left -= 1
        if Broken.left == 0:
            raise KeyboardInterrupt


def short_run(directory, build=resumable.build, optimizer=None, *, left=0, **changes):
    """A run of two epochs a phase; its student's weights and its history."""
    Broken.left = left
    trainer = DMPTrainer(build, selector=None, seed=3, directory=directory)
    trainer.compile(optimizer or keras.optimizers.SGD(0.05), resumable.LOSS)
    callbacks = [*changes.pop("callbacks", []), Broken()]
    given = {"reference": nets.prototypes(120, seed=2)[0], "epochs": 2, "verbose": 0, **changes}
    history = trainer.fit(
        *nets.prototypes(60, seed=1), callbacks=callbacks, teacher_callbacks=[Broken()], **given
    )
    return [np.array(weight) for weight in trainer.student.get_weights()], history.history


@pytest.mark.full
def test_an_audit_while_training_goes_on(tmp_path):
    def audited(directory, left=0):
        sides = nets.prototypes(60, seed=1), nets.prototypes(60, seed=4)
        audit = MembershipAudit(*sides, every=5)
        weights, history = short_run(directory, left=left, callbacks=[audit], epochs=4)
        return weights, history, audit.scores_["threshold"].member_scores

    expected = audited(None)
    # The third epoch of the student repeats figures that only its first one has found.
    with pytest.raises(KeyboardInterrupt):
        audited(tmp_path / "run", left=4 + 3)
    for _ in range(2):
        # The second time all is done, and the scores are what they were.
        found = audited(tmp_path / "run")
        assert found[1] == expected[1]
        np.testing.assert_array_equal(found[2], expected[2])
        for mine, theirs in zip(found[0], expected[0], strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "left", [0, *(pytest.param(left, marks=pytest.mark.full) for left in (2, 4))]
)
def test_loss_scale_and_moving_averages_go_on(tmp_path, left):
    def run(directory, left=0):
        inner = keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.9)
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        return short_run(directory, optimizer=optimizer, left=left, callbacks=[swap])[0]

    expected = run(None)
    if left:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", left)
    for _ in range(2):
        for mine, theirs in zip(run(tmp_path / "run"), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_built_optimizer_is_not_built_again():
    model = resumable.build()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05, momentum=0.9))
    model.compile(optimizer, resumable.LOSS)
    optimizer.build(model.trainable_variables)
    state = epoch_checkpoints.model_state(model)
    epoch_checkpoints.restore_model(model, state)
    assert epoch_checkpoints.model_state(model).arrays.keys() == state.arrays.keys()


# Damage


def damage(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "changed":
        path.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    else:
        path.write_bytes(b"")


# What else is noticed, tests/storage/test_private_file.py shows byte by byte.
@pytest.mark.parametrize(
    "how",
    ["changed", *(pytest.param(how, marks=pytest.mark.slow) for how in ("truncated", "empty"))],
)
@pytest.mark.parametrize("phase", [pytest.param("teacher", marks=pytest.mark.full), "student"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, whole, phase, how):
    broken_off(tmp_path / "run", **{phase: 3})
    newest = max((tmp_path / "run").glob(f"{phase}-*"))
    damage(newest, how)
    with pytest.warns(UserWarning, match=f"A checkpoint of the {phase} is damaged.*{newest.name}"):
        assert resumed(tmp_path / "run") == whole


@pytest.mark.full
def test_all_checkpoints_damaged_starts_the_phase_anew(tmp_path, whole):
    broken_off(tmp_path / "run", student=3)
    for path in (tmp_path / "run").glob("teacher-*"):
        damage(path, "changed")
    with pytest.warns(UserWarning, match="is damaged"):
        assert resumed(tmp_path / "run") == whole


@pytest.mark.full
def test_checkpoints_are_kept_where_later_ones_are_damaged(tmp_path):
    broken_off(tmp_path / "run", student=3)
    for path in (tmp_path / "run").glob("student-*"):
        damage(path, "changed")
    with pytest.warns(UserWarning, match="is damaged"):
        broken_off(tmp_path / "run", student=1)
    assert [n for n in names(tmp_path / "run") if "student" in n] == [
        "student-000000.checkpoint",
        "student-000001.checkpoint",
    ]


@pytest.mark.full
def test_damaged_labels_are_asked_for_again(tmp_path, whole):
    broken_off(tmp_path / "run", student=3)
    damage(max((tmp_path / "run" / "labels" / "0").glob("labels_*")), "changed")
    with pytest.warns(UserWarning, match="labels of the reference are damaged"):
        assert resumed(tmp_path / "run") == whole


def test_a_full_disk_leaves_the_last_good_state(tmp_path, whole, monkeypatch):
    write, written = private_file.write, []

    def full(path, record, identity):
        written.append(path)
        # The manifest and four checkpoints.
        if len(written) > 5:
            raise OSError(28, "No space left on device")
        write(path, record, identity)

    monkeypatch.setattr(private_file, "write", full)
    with pytest.raises(OSError, match=r"could not be written .No space left.*to resume"):
        resumed(tmp_path / "run")
    monkeypatch.undo()
    assert [n for n in names(tmp_path / "run") if "teacher" in n] == [
        "teacher-000002.checkpoint",
        "teacher-000003.checkpoint",
    ]
    assert resumed(tmp_path / "run") == whole


def test_files_of_something_else_are_not_taken(tmp_path, whole):
    broken_off(tmp_path / "run", student=3)
    broken_off(tmp_path / "other", student=3)
    folder, other = tmp_path / "run", tmp_path / "other"
    teacher = max(folder.glob("teacher-*"))
    number = int(teacher.stem[-6:])
    shutil.copy(teacher, folder / "student-000006.checkpoint")
    shutil.copy(other / "student-000003.checkpoint", folder / "student-000005.checkpoint")
    shutil.copy(folder / "student-000003.checkpoint", folder / "student-000004.checkpoint")
    shutil.copy(folder / "student-000003.checkpoint", folder / "student-old.checkpoint")
    shutil.rmtree(folder / "labels" / "0")
    shutil.copytree(other / "labels" / "0", folder / "labels" / "0")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert resumed(folder) == whole
    messages = " ".join(str(warning.message) for warning in caught)
    for expected in (
        f"student-000006.checkpoint holds teacher checkpoint {number} instead of student",
        "student-000005.checkpoint belongs to another run",
        "student-000004.checkpoint holds student checkpoint 3 instead of student checkpoint 4",
        "'student-old.checkpoint' in `directory` was not written by a run",
        "arrays.manifest belongs to another run",
    ):
        assert expected in messages


def test_directories_of_format_version_1_are_refused(tmp_path):
    manifest = {"format": "keras_dmp.run", "format_version": 1, "seed": 3}
    (tmp_path / "run.json").write_text(json.dumps(manifest, indent=1))
    for call in (lambda: fit(trainer_in(tmp_path)), trainer_in(tmp_path).purge):
        with pytest.raises(ValueError, match=r"'run\.json' of format version 1\..*start again"):
            call()
    assert names(tmp_path) == ["run.json"]


# Random numbers


class Draws(keras.callbacks.Callback):
    """Draws from all global generators."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def on_epoch_begin(self, epoch, logs=None):
        self.drawn.append([random.random(), np.random.normal(), random.gauss(0, 1)])  # noqa: NPY002
        self.drawn[-1] += [float(keras.random.normal(())), float(tf.random.normal(()))]


class Noise(layers.Layer):
    """A layer that draws without a generator of its own."""

    def call(self, inputs, training=False):
        return inputs + keras.random.normal(keras.ops.shape(inputs)) if training else inputs


def test_global_generators_go_on(tmp_path):
    def build():
        return keras.Sequential(
            [keras.Input((nets.FEATURES,)), Noise(), layers.Dense(nets.CLASSES)]
        )

    def run(directory, left=0):
        draws = Draws()
        weights, _ = short_run(directory, build, left=left, epochs=4, callbacks=[draws])
        return [weight.tobytes() for weight in weights], draws.drawn

    expected = run(tmp_path / "whole")
    assert len(np.unique(expected[1])) == 4 * 5
    for left in (3, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", left=left)
    assert run(tmp_path / "run") == expected


# Other runs


CHANGES = {
    "members": ({}, {"y": 1}, "members is"),
    "seed": ({"seed": 4}, {}, r"directory='\S+', where settings\.seed is 3 there and 4 here\."),
    "temperature": ({"temperature": 2.0}, {}, r"settings\.temperature is 1\.0 there and 2\.0 here"),
    "label_temperature": (
        {"label_temperature": 0.5},
        {},
        r"settings\.label_temperature is 1\.0 there and 0\.5 here",
    ),
    "epochs": ({}, {"epochs": EPOCHS + 1}, rf"fit\.epochs is {EPOCHS} there and {EPOCHS + 1} here"),
    "reference": ({}, {"reference": nets.prototypes(239, seed=2)[0]}, "reference is '240 sample"),
    "batch_size": (
        {},
        {"batch_size": 16},
        r"fit\.batch_size is 32 there and 16 here",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_directory_of_another_run_is_refused_with_what_differs(tmp_path, what):
    settings, changes, message = CHANGES[what]
    broken_off(tmp_path / "run", teacher=1)
    before = {name: (tmp_path / "run" / name).read_bytes() for name in names(tmp_path / "run")}
    given = resumable.arguments()
    given["teacher_callbacks"].append(BreakOff(None))
    given["callbacks"].append(BreakOff(None))
    shift = changes.pop("y", 0) if "y" in changes else 0
    x, y = nets.prototypes(200, seed=1)
    with pytest.raises(ValueError, match=f"same data and settings.*{message}.*Nothing was changed"):
        trainer_in(tmp_path / "run", **settings).fit(
            x, (y + shift) % nets.CLASSES, **{**given, **changes}
        )
    assert before == {n: (tmp_path / "run" / n).read_bytes() for n in names(tmp_path / "run")}


@pytest.mark.full
def test_another_model_is_refused(tmp_path):
    fit(trainer_in(tmp_path / "run"))
    trainer = DMPTrainer(
        lambda: nets.classifier(seed=None),
        selector=trainer_in(None).selector,
        seed=3,
        directory=tmp_path / "run",
    )
    trainer.compile(keras.optimizers.Adam(0.01), resumable.LOSS, metrics=["accuracy"])
    with pytest.raises(ValueError, match=r"model is '.* parameters .*' there"):
        fit(trainer)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:No chosen reference sample")
def test_another_ready_teacher_is_refused(tmp_path):
    given = {"teacher_epochs": None, "teacher_callbacks": None, "validation_data": None}
    given = resumable.arguments(callbacks=[], **given)
    for seed, message in ((1, None), (1, None), (2, r"teacher is '\w+' there and '\w+' here")):
        teacher = nets.classifier(seed=seed, scale=3.0)
        trainer = trainer_in(tmp_path / "run", teacher=teacher)
        if message is None:
            trainer.fit(**given)
            continue
        with pytest.raises(ValueError, match=message):
            trainer.fit(**given)


def reference_dataset(batch_size=32, weight=1.0):
    x, y = nets.prototypes(120, seed=2)
    weights = np.full(len(x), weight, "float32")
    return tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(batch_size)


@pytest.mark.filterwarnings("ignore:No chosen reference sample")
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            {"callbacks": [keras.callbacks.EarlyStopping("loss", patience=4)]},
            {"callbacks": [keras.callbacks.EarlyStopping("loss", patience=5)]},
            r"callbacks\[0\]\S*\.patience is 4 there and 5 here",
        ),
        (
            {"callbacks": [EntropyReferenceSelector(size=40)]},
            {"callbacks": [EntropyReferenceSelector(size=50)]},
            r"selector\S*size is 40 there and 50 here",
        ),
        (
            {"reference": reference_dataset(32)},
            {"reference": reference_dataset(40)},
            r"reference is '120 samples in batches of 32 \w+' there and '.* of 40 \w+' here",
        ),
        (
            {"reference": reference_dataset()},
            {"reference": reference_dataset(weight=2.0)},
            "reference is '120 samples in batches of 32",
        ),
    ],
    ids=["callback", "selector among callbacks", "batches", "weights"],
)
def test_what_the_student_depends_on_is_compared(tmp_path, first, second, message):
    with pytest.raises(KeyboardInterrupt):
        short_run(tmp_path / "run", left=1, **first)
    with pytest.raises(ValueError, match=message):
        short_run(tmp_path / "run", **second)
    # What it does not depend on, such as what a callback of an earlier `fit` has become.
    short_run(tmp_path / "run", **first)


@pytest.mark.full
def test_names_of_layers_do_not_matter(tmp_path):
    run = fit(trainer_in(tmp_path / "run"))
    for _ in range(3):
        resumable.build()
    assert fit(trainer_in(tmp_path / "run")) == run


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"an earlier run of DMPTrainer.*holds something else"):
        fit(trainer_in(tmp_path))
    assert names(tmp_path) == ["thesis.tex"]


def test_two_runs_in_one_directory(tmp_path):
    class Second(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            given = resumable.arguments()
            given["teacher_callbacks"].append(Second())
            with pytest.raises(RuntimeError, match="used by one run at a time"):
                fit(trainer_in(tmp_path / "run"), **given)
            with pytest.raises(RuntimeError, match="used by one run at a time"):
                trainer_in(tmp_path / "run").purge()

    given = resumable.arguments()
    given["teacher_callbacks"].append(Second())
    fit(trainer_in(tmp_path / "run"), **given)


def test_the_lock_does_not_outlive_its_owner_in_a_child(tmp_path):
    # Workers of a PyDataset are such children, and live on when their parent is killed.
    script = """
import os, pathlib, sys
from keras_dmp._storage import directories
path = pathlib.Path(sys.argv[1])
reads, writes = os.pipe()
sees, shows = os.pipe()
with directories.locked(path, refusal="taken"):
    child = os.fork()
    if not child:
        os.close(writes)
        os.write(shows, b"!")
        os.read(reads, 1)
        os._exit(0)
    os.read(sees, 1)
with directories.locked(path, refusal="taken"):
    pass
os.close(writes)
os.waitpid(child, 0)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)


# Privacy


def test_everything_is_the_owners_alone(tmp_path):
    fit(trainer_in(tmp_path / "run"))
    for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_purge_removes_all_of_it(tmp_path):
    trainer = trainer_in(tmp_path / "run")
    fit(trainer)
    trainer.purge()
    assert not (tmp_path / "run").exists()
    assert trainer.predict(nets.prototypes(5)[0], verbose=0).shape == (5, nets.CLASSES)
    trainer.purge()


@pytest.mark.full
def test_purge_leaves_what_is_not_its_own(tmp_path):
    trainer = trainer_in(tmp_path / "run")
    fit(trainer)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    trainer.purge()
    assert names(tmp_path / "run") == ["notes.txt"]


def test_purge_refuses_what_is_no_run(tmp_path):
    (tmp_path / "run.manifest").write_text("of another tool")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"to hold a run of DMPTrainer.*run\.manifest"):
        trainer_in(tmp_path).purge()
    assert names(tmp_path) == ["labels", "run.manifest"]
    assert names(tmp_path / "labels") == ["mine.txt"]


@pytest.mark.full
def test_saved_students_hold_nothing_of_it(tmp_path):
    trainer = trainer_in(tmp_path / "run")
    fit(trainer)
    trainer.save(tmp_path / "student.keras")
    content = (tmp_path / "student.keras").read_bytes()
    for weight in trainer.teacher.get_weights():
        assert weight.size < 4 or weight.tobytes() not in content
    assert str(tmp_path).encode() not in content


# Bad input


def test_a_directory_needs_a_seed(tmp_path):
    with pytest.raises(ValueError, match="`seed` to be an integer with `directory`"):
        DMPTrainer(resumable.build, directory=tmp_path)


def test_purge_needs_a_directory():
    with pytest.raises(ValueError, match=r"`directory`\. Received: directory=None"):
        trainer_in(None).purge()


@pytest.mark.parametrize("name", ["callbacks", "teacher_callbacks"])
def test_callbacks_whose_state_cannot_be_saved_are_refused(tmp_path, name):
    class Open(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.connection = object()

    with pytest.raises(ValueError, match=f"each callback in `{name}` to be savable.*`connection`"):
        fit(trainer_in(tmp_path / "run"), **{name: [Open(), resumable.Losses()]})
    assert not (tmp_path / "run").exists()


def test_a_selector_of_the_teacher_is_refused(tmp_path):
    selector = EntropyReferenceSelector(size=9, pool=nets.prototypes(30, seed=9)[0])
    with pytest.raises(ValueError, match="`teacher_callbacks` without an EntropyReferenceSelector"):
        fit(trainer_in(tmp_path / "run"), teacher_callbacks=[selector])
    assert not (tmp_path / "run").exists()


# Real processes


def start(directory, result, scale=1):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-W", "error", resumable.__file__, directory, result, str(scale)]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def finished(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()[-2000:]
    return output


@pytest.mark.full
def test_sigterm_leaves_and_the_run_goes_on(tmp_path):
    process = start(tmp_path / "run", tmp_path / "result")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "run").glob("teacher-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"Stopped by SIGTERM" in errors
    assert not [name for name in names(tmp_path / "run") if name.startswith(".")]
    # Going on in this process gives what the other would have given.
    assert fit(trainer_in(tmp_path / "run")) == fit(trainer_in(tmp_path / "whole"))


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    # Long enough that kills fall into epochs of both phases, not only between them.
    scale = 12
    process = start(tmp_path / "whole", tmp_path / "expected", scale)
    process.stdout.readline()
    begin = time.monotonic()
    finished(process)
    seconds = time.monotonic() - begin
    expected = (tmp_path / "expected").read_bytes()
    rng, phases = np.random.default_rng(0), []
    for kill in range(KILLS):
        directory, result = tmp_path / f"run_{kill}", tmp_path / f"result_{kill}"
        process = start(directory, result, scale)
        process.stdout.readline()
        time.sleep(seconds * (kill + rng.random()) / KILLS)
        process.kill()
        process.communicate()
        there = "".join(names(directory)) if directory.exists() else ""
        phases.append(next((p for p in ("student", "labels", "teacher") if p in there), "before"))
        finished(start(directory, result, scale))
        assert result.read_bytes() == expected, (kill, phases[-1])
        assert process.returncode in (-signal.SIGKILL, 0)
    # Shown by `pytest -s`; docs/scale/resuming.md has the counts.
    sys.stdout.write(f"killed in: {collections.Counter(phases)}\n")
    assert {"teacher", "student"} <= set(phases), phases

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import keras
import nets
import numpy as np
import pytest
from shadow_runs import (
    CLASSES,
    FEATURES,
    MODELS,
    audit_in,
    files,
    fitted,
    kill_once,
    records,
    ridge,
    start,
)

from keras_dmp._storage import private_file
from keras_dmp.audit.blind.baseline import blind_baseline
from keras_dmp.audit.shadow.jobs import Job, JobDirectory
from keras_dmp.audit.shadow.shadow_audit import ShadowAudit
from keras_dmp.audit.shadow.stacked import StackedTrainer


def quiet(audit):
    return audit.run(verbose=0)


def test_halves_are_halves_and_do_not_depend_on_the_number_of_models(tmp_path):
    few, many = audit_in(tmp_path / "few"), audit_in(tmp_path / "many", num_shadow_models=300)
    halves = np.stack([many.is_member(model) for model in range(300)])
    assert (halves.sum(axis=1) == 24).all()
    np.testing.assert_array_equal(few.is_member(5), halves[5])
    # Independent of one another: how often a record is a member elsewhere tells nothing.
    elsewhere = halves.sum(axis=0) - halves
    assert abs(elsewhere[halves].mean() - elsewhere[~halves].mean()) < 0.6
    assert halves.sum(axis=0).std() > 5


def test_seeds_are_different_and_fit_where_a_seed_has_31_bits(tmp_path):
    few, many = audit_in(tmp_path / "few"), audit_in(tmp_path / "many", num_shadow_models=300)
    other = audit_in(tmp_path / "other", seed=few.seed + 1)
    seeds = [many.seed_of(model) for model in range(300)]
    assert few.seed_of(5) == seeds[5]
    assert len({*seeds, *(other.seed_of(model) for model in range(MODELS))}) == 300 + MODELS
    assert 0 <= min(seeds) < 2**30 < max(seeds) < 2**31
    assert not np.array_equal(few.is_member(5), other.is_member(5))


def test_statistics_are_what_the_models_say(tmp_path):
    audit = quiet(audit_in(tmp_path / "jobs"))
    found = audit.statistics()
    x, y = records()
    for job in (0, MODELS - 1):
        half = audit.is_member(job)
        np.testing.assert_array_equal(found.is_member[job], half)
        outputs = ridge(x[half], y[half], _seed_of(job)).predict(x, verbose=0).astype("float64")
        p = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        mine = p[np.arange(len(y)), y]
        expected = np.log(mine / (1 - mine))
        np.testing.assert_allclose(found.scaled_logits[job, :, 0], expected, atol=1e-4)
        np.testing.assert_array_equal(found.correct[job], outputs.argmax(axis=1) == y)
    member_accuracy, nonmember_accuracy = found.accuracy()
    assert member_accuracy == found.correct[found.is_member].mean() > nonmember_accuracy


def _seed_of(job):
    return int(np.random.SeedSequence((0, job)).generate_state(1)[0] >> 1)


def test_finished_models_are_not_trained_again_and_more_can_be_added(tmp_path):
    trained = []

    def train(x, y, seed):
        trained.append(seed)
        return ridge(x, y, seed)

    quiet(audit_in(tmp_path, train, num_shadow_models=6))
    before = files(tmp_path)
    quiet(audit_in(tmp_path, train, num_shadow_models=6))
    assert trained == [_seed_of(job) for job in range(6)]
    quiet(audit_in(tmp_path, train, num_shadow_models=8))
    assert trained == [_seed_of(job) for job in range(8)]
    assert {name: files(tmp_path)[name] for name in before} == before


def test_a_training_run_depends_on_its_seed_alone(tmp_path):
    def train(x, y, seed):
        del x, y, seed
        return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])

    quiet(audit_in(tmp_path / "whole", train, num_shadow_models=5))
    for shard in ((1, 2), (0, 2)):
        keras.utils.set_random_seed(5)
        audit_in(tmp_path / "parts", train, num_shadow_models=5).run(shard=shard, verbose=0)
    assert files(tmp_path / "whole") == files(tmp_path / "parts")


@pytest.mark.full
def test_a_killed_run_goes_on_and_ends_the_same(tmp_path):
    quiet(audit_in(tmp_path / "whole"))
    kill_once(start(tmp_path / "killed", delay=0.2), tmp_path / "killed", finished=3)
    left = files(tmp_path / "killed")
    assert 3 <= len(left) < MODELS
    quiet(audit_in(tmp_path / "killed"))
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.slow
def test_killed_at_ten_moments(tmp_path):
    settings = {"num_shadow_models": 30}
    quiet(audit_in(tmp_path / "whole", fitted, **settings))
    directory = tmp_path / "killed"
    moments = np.random.default_rng(0).uniform(0, 1.5, size=10)
    for kill, moment in enumerate(moments):
        already = len(files(directory))
        process = start(directory, train="fitted", models=30)
        assert kill_once(process, directory, already + (kill > 0), moment), "ended before the kill"
        assert len(files(directory)) < 30
    quiet(audit_in(directory, fitted, **settings))
    assert files(directory) == files(tmp_path / "whole")
    assert not list(directory.glob(".model_*"))


@pytest.mark.parametrize("name", ["shadow_audit.manifest", "model_00001.job"])
def test_killed_between_writing_a_file_and_putting_it_in_place(tmp_path, monkeypatch, name):
    quiet(audit_in(tmp_path / "whole", num_shadow_models=4))
    replace = os.replace

    def killed(source, target):
        if pathlib.Path(target).name == name:
            raise KeyboardInterrupt  # a kill, but for the temporary file, which stays behind then
        replace(source, target)

    unlink = os.unlink
    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr(os, "unlink", lambda path: None)
    with pytest.raises(KeyboardInterrupt):
        quiet(audit_in(tmp_path / "killed", num_shadow_models=4))
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "unlink", unlink)
    assert list((tmp_path / "killed").glob(f".{name}.*"))
    quiet(audit_in(tmp_path / "killed", num_shadow_models=4))
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.full
def test_processes_share_the_work(tmp_path):
    processes = [start(tmp_path / "shared", shard=(index, 2)) for index in range(2)]
    for process in processes:
        assert process.communicate()[0] == ""
        assert process.returncode == 0
    quiet(audit_in(tmp_path / "whole"))
    assert files(tmp_path / "shared") == files(tmp_path / "whole")


class Together:
    """Trains in groups, and tells the company in the weights, as rounding would."""

    group_size = 3

    def __init__(self):
        self.calls = []

    def train_many(self, x, y, rows, seeds):
        self.calls.append(len(rows))
        return [ridge(x[mine], y[mine], sum(seeds)) for mine in rows]


def test_groups_are_the_same_whatever_is_missing_and_whoever_trains(tmp_path):
    quiet(audit_in(tmp_path / "whole", Together()))
    whole = files(tmp_path / "whole")
    for shard in ((1, 2), (0, 2)):
        audit_in(tmp_path / "parts", Together()).run(shard=shard, verbose=0)
    assert files(tmp_path / "parts") == whole
    for name in ("model_00001.job", "model_00002.job"):
        (tmp_path / "whole" / name).unlink()
    again = Together()
    quiet(audit_in(tmp_path / "whole", again))
    assert again.calls == [3]
    assert files(tmp_path / "whole") == whole
    with pytest.raises(ValueError, match="group_size is 3 there and 1 here"):
        audit_in(tmp_path / "whole")


def test_stacked_training_is_a_train_fn(tmp_path):
    def build():
        return keras.Sequential(
            [keras.Input((FEATURES,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(CLASSES)]
        )

    trainer = StackedTrainer(build, optimizer=keras.optimizers.Adam(0.02), epochs=30, batch_size=8)
    audit = quiet(audit_in(tmp_path, trainer, num_shadow_models=12))
    found = audit.statistics()
    half = np.flatnonzero(audit.is_member(3))
    x, y = records()
    (alone,) = trainer.train_many(x, y, [half], [_seed_of(3)])
    outputs = alone.predict(x, verbose=0).astype("float64")
    p = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    mine = p[np.arange(len(y)), y]
    np.testing.assert_allclose(found.scaled_logits[3, :, 0], np.log(mine / (1 - mine)), atol=1e-2)
    assert audit.scores("lira_fixed").pooled().auc() > 0.7


@pytest.mark.full
def test_two_processes_on_one_shard(tmp_path):
    process, deadline = start(tmp_path, delay=0.5), time.monotonic() + 120
    while not files(tmp_path):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="is being trained by another process"):
        quiet(audit_in(tmp_path))
    process.kill()
    process.communicate()
    quiet(audit_in(tmp_path))  # the lock went with its owner
    assert len(files(tmp_path)) == MODELS


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty"])
def test_a_damaged_job_is_done_again(tmp_path, damage):
    quiet(audit_in(tmp_path))
    whole = files(tmp_path)
    path = tmp_path / "model_00002.job"
    content = bytearray(path.read_bytes())
    if damage == "foreign":
        content = (tmp_path / "model_00001.job").read_bytes()
        path.write_bytes(content)
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.warns(UserWarning, match=r"model_00002.job, is damaged .*trained again"):
        quiet(audit_in(tmp_path))
    assert files(tmp_path) == whole


def test_any_bad_byte_is_noticed(tmp_path):
    shape = (48, 1)
    jobs = JobDirectory(tmp_path, {})
    jobs.write(0, Job(scaled_logits={"a": np.ones(shape)}, correct={"a": np.ones(48, bool)}))
    path = tmp_path / "model_00000.job"
    content = path.read_bytes()
    for place in (*range(0, len(content), 41), *range(30), *range(len(content) - 60, len(content))):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="is damaged"):
            assert jobs.read(0, shape) is None


def test_reading_a_damaged_file_removes_nothing(tmp_path):
    audit = quiet(audit_in(tmp_path))
    path = tmp_path / "model_00002.job"
    path.write_bytes(b"damaged")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match="1 untrained, the first is model 2"),
    ):
        audit.statistics()
    assert path.read_bytes() == b"damaged"


def test_a_failing_disk_is_no_damage(tmp_path, monkeypatch):
    audit = quiet(audit_in(tmp_path))

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match="Input/output error"):
        audit.statistics()


def test_processes_that_start_together_agree(tmp_path):
    directory = tmp_path / "new"
    script = (
        "import sys; from keras_dmp.audit.shadow.jobs import JobDirectory\n"
        "try:\n    JobDirectory(sys.argv[1], {'seed': int(sys.argv[2])})\n"
        "except ValueError: sys.exit(9)"
    )
    command = [sys.executable, "-c", script, str(directory)]
    processes = [subprocess.Popen([*command, str(index % 2)]) for index in range(6)]
    codes = np.array([process.wait() for process in processes])
    winner = private_file.read(directory / "shadow_audit.manifest", None).values["seed"]
    assert codes.tolist() == [0 if index % 2 == winner else 9 for index in range(6)]


def test_directories_of_format_version_1_are_refused(tmp_path):
    manifest = {"format": "keras_dmp.shadow_audit", "format_version": 1, "seed": 0}
    (tmp_path / "shadow_audit.json").write_text(json.dumps(manifest, indent=1))
    (tmp_path / "model_00000.npz").write_bytes(b"old")
    message = r"format version 2\. Received: 'shadow_audit\.json' of format version 1\."
    with pytest.raises(ValueError, match=message):
        audit_in(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["model_00000.npz", "shadow_audit.json"]


def test_jobs_of_another_audit_are_not_taken(tmp_path):
    for name in ("mine", "others"):
        quiet(audit_in(tmp_path / name, num_shadow_models=4))
    whole = files(tmp_path / "mine")
    for name in ("model_00001.job", "model_00002.job"):
        shutil.copy(tmp_path / "others" / name, tmp_path / "mine" / name)
    with pytest.warns(UserWarning, match="belongs to another run") as caught:
        quiet(audit_in(tmp_path / "mine", num_shadow_models=4))
    assert len(caught) == 2
    assert files(tmp_path / "mine") == whole


def test_a_directory_opened_again_keeps_its_locks(tmp_path):
    jobs = JobDirectory(tmp_path, {})
    with jobs.owned([0, 1]):
        JobDirectory(tmp_path, {})
        with open(tmp_path / "lock", "rb") as file:
            file.read()
        with pytest.raises(RuntimeError, match="being trained by another process"):
            JobDirectory(tmp_path, {}).owned([1, 2]).__enter__()
        script = (
            "import sys; from keras_dmp.audit.shadow.jobs import JobDirectory\n"
            "try:\n    JobDirectory(sys.argv[1], {}).owned([1]).__enter__()\n"
            "except RuntimeError: sys.exit(9)"
        )
        command = [sys.executable, "-c", script, str(tmp_path)]
        assert subprocess.run(command, check=False).returncode == 9
        with JobDirectory(tmp_path, {}).owned([2]):
            pass
    with jobs.owned([0, 1]):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"config": {"epochs": 3}}, r"config\.epochs is \S+ there and 3 here"),
        ({"queries": (np.negative,)}, r"queries is \[\] there and \['.*'\] here"),
        ({"from_logits": None}, "from_logits is True there and None here"),
        ({"repeats": np.arange(48) % 2 + 1}, "repeats is None there and '.*' here"),
    ],
)
def test_a_directory_of_another_configuration(tmp_path, change, message):
    quiet(audit_in(tmp_path, num_shadow_models=4))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        audit_in(tmp_path, **change)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_directory_of_other_data_or_of_something_else(tmp_path):
    audit_in(tmp_path / "audit")
    x, y = records(seed=1)
    with pytest.raises(ValueError, match=r"data is '.*' there and '.*' here"):
        ShadowAudit(ridge, x, y, directory=tmp_path / "audit")
    (tmp_path / "audit" / "shadow_audit.manifest").write_text("{")
    with pytest.raises(ValueError, match="damaged or of another type"):
        audit_in(tmp_path / "audit")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="holds something else"):
        audit_in(tmp_path / "photos")
    assert os.listdir(tmp_path / "photos") == ["holiday.jpg"]


def test_the_directory_is_its_owners(tmp_path):
    quiet(audit_in(tmp_path / "jobs", num_shadow_models=4))
    assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in (tmp_path / "jobs").glob("*.job"))


def test_several_models_of_one_run(tmp_path):
    def train(x, y, seed):
        return {"one": ridge(x, y, seed), "two": ridge(x[:9], y[:9], seed)}

    audit = quiet(audit_in(tmp_path, train))
    assert not np.allclose(
        audit.statistics("one").scaled_logits, audit.statistics("two").scaled_logits
    )
    with pytest.raises(ValueError, match=r"`model` to be one of 'one', 'two'.*model=None"):
        audit.scores("lira")


def test_further_queries_of_each_record(tmp_path):
    audit = quiet(audit_in(tmp_path / "more", queries=(np.negative,)))
    more, plain = audit.statistics(), quiet(audit_in(tmp_path / "plain")).statistics()
    assert more.scaled_logits.shape == (MODELS, 48, 2)
    np.testing.assert_array_equal(more.scaled_logits[..., 0], plain.scaled_logits[..., 0])
    x, y = records()
    half = audit.is_member(0)
    outputs = ridge(x[half], y[half], _seed_of(0)).predict(-x, verbose=0)
    p = nets.softmax(outputs)[np.arange(48), y]
    np.testing.assert_allclose(more.scaled_logits[0, :, 1], np.log(p / (1 - p)), atol=1e-4)
    # Correct is what the record itself says.
    np.testing.assert_array_equal(more.correct, plain.correct)
    assert audit.scores("lira_fixed").pooled().auc() > 0.5


def test_each_model_is_trained_with_the_dtype_policy_of_the_process(tmp_path):
    seen = []

    def train(x, y, seed):
        seen.append(keras.config.dtype_policy().name)
        return ridge(x, y, seed)

    keras.config.set_dtype_policy("float64")
    try:
        quiet(audit_in(tmp_path, train, num_shadow_models=4))
    finally:
        keras.config.set_dtype_policy("float32")
    assert seen == ["float64"] * 4


def test_a_model_from_outside_is_attacked(tmp_path):
    audit = quiet(audit_in(tmp_path, num_shadow_models=24))
    x, y = records()
    half = np.random.default_rng(8).random(48) < 0.5
    scores = audit.attack_model(ridge(x[half], y[half], 0), half, "lira_fixed")
    assert (scores.num_members, scores.num_nonmembers) == (half.sum(), (~half).sum())
    assert scores.auc() > 0.75
    with pytest.raises(ValueError, match="`is_member` to be 48 booleans"):
        audit.attack_model(ridge(x, y, 0), np.arange(48))
    # What has been observed of a model is enough, and some of the records.
    run = 3
    half, target = audit.is_member(run), audit.seed_of(run)
    observed = audit.statistics().scaled_logits[run]
    whole = audit.attack_model(ridge(x[half], y[half], target), half, "lira_fixed")
    found = audit.attack_observed(observed, half, "lira_fixed", records=np.arange(10, 30))
    np.testing.assert_array_equal(found.member_indices, 10 + np.flatnonzero(half[10:30]))
    of_part = np.isin(whole.nonmember_indices, np.arange(10, 30))
    np.testing.assert_array_equal(found.nonmember_indices, whole.nonmember_indices[of_part])
    np.testing.assert_allclose(found.nonmember_scores, whole.nonmember_scores[of_part], atol=1e-5)
    with pytest.raises(ValueError, match="`is_member` to be 48 booleans"):
        audit.attack_observed(observed, np.arange(48))
    # A mask would be read as the positions 0 and 1.
    for records_, found in ((half, "bool"), ([48], "int64"), ([-1], "int64"), ([0.5], "float64")):
        with pytest.raises(ValueError, match=f"`records` to be positions.* 0 to 47.* {found}$"):
            audit.attack_observed(observed, half, records=records_)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_shadow_models": 3}, "`num_shadow_models` to be a whole number of at least 4"),
        ({"seed": -1}, "`seed` to be a whole number"),
        ({"batch_size": 0}, "`batch_size`"),
    ],
)
def test_bad_settings(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        audit_in(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_repeated_records_are_repeated_where_they_are_members(tmp_path):
    sizes, repeats = [], np.ones(48, dtype=int)
    repeats[:5] = 4

    def train(x, y, seed):
        sizes.append(len(x))
        return ridge(x, y, seed)

    audit = quiet(audit_in(tmp_path, train, repeats=repeats))
    assert sizes == [24 + 3 * audit.is_member(job)[:5].sum() for job in range(MODELS)]
    with pytest.raises(ValueError, match=r"repeats is '.*' there and '.*' here"):
        audit_in(tmp_path, repeats=repeats[::-1])
    with pytest.raises(ValueError, match="`repeats` to be 48 whole numbers of at least 1"):
        audit_in(tmp_path / "new", repeats=np.zeros(48, dtype=int))


def test_bad_data_and_functions(tmp_path):
    x, y = records()
    new = {"directory": tmp_path / "new"}
    with pytest.raises(TypeError, match=r"`train_fn` to be a callable \(x, y, seed\) -> model"):
        ShadowAudit("train", x, y, **new)
    with pytest.raises(ValueError, match="the same number of samples"):
        ShadowAudit(ridge, x, y[:-1], **new)
    with pytest.raises(ValueError, match="`x` to be finite"):
        ShadowAudit(ridge, np.where(x > 1, np.nan, x), y, **new)
    with pytest.raises(TypeError, match="`queries` to be callables"):
        ShadowAudit(ridge, x, y, queries=("flip",), **new)
    for nothing in (None, {}):
        with pytest.raises(TypeError, match=r"`train_fn` to return a keras.Model or a dictionary"):
            quiet(audit_in(tmp_path / "none", lambda x, y, seed, it=nothing: it))
    with pytest.raises(ValueError, match="`queries` and `x` to have the same number of samples"):
        audit_in(tmp_path / "short", queries=(lambda x: x[1:],))
    two = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"labels `y` to lie in 0..1"):
        quiet(audit_in(tmp_path / "two", lambda x, y, seed: two))


@pytest.mark.parametrize("shard", [(1, 1), (-1, 2), (0,), 3, (0, 1.5)])
def test_bad_shards(tmp_path, shard):
    with pytest.raises(ValueError, match=r"`shard` to be \(i, n\) with 0 <= i < n"):
        audit_in(tmp_path).run(shard=shard)


def test_unfinished_audits_say_so(tmp_path):
    audit = audit_in(tmp_path)
    audit.run(shard=(0, 2), verbose=0)
    with pytest.raises(ValueError, match="3 untrained, the first is model 1; call `run`"):
        audit.report()


def test_one_progress_bar(tmp_path, capsys):
    audit_in(tmp_path, num_shadow_models=4).run()
    shown = capsys.readouterr().out
    assert "4/4" in shown
    audit_in(tmp_path, num_shadow_models=5).run(verbose=0)
    assert capsys.readouterr().out == ""


def net():
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit(model, x, y):
    model.fit(x, y, batch_size=8, verbose=0)
    return model


def dependent_functions():
    """Functions that continue training an outside model, by how they reach it."""
    outer, kept = net(), []

    class Trainer:
        def __init__(self):
            self.model = net()

        def __call__(self, x, y, seed):
            return fit(self.model, x, y)

        def train(self, x, y, seed):
            return fit(self.model, x, y)

    def copied(x, y, seed):
        fit(outer, x, y)
        twin = net()
        twin.set_weights(outer.get_weights())
        return twin

    def hidden(x, y, seed):
        kept.append(kept[0] if kept else net())
        return fit(kept[0], x, y)

    return {
        "variable": lambda x, y, seed: fit(outer, x, y),
        "copy": copied,
        "partial": functools.partial(lambda x, y, seed, model: fit(model, x, y), model=net()),
        "object": Trainer(),
        "method": Trainer().train,
        "hidden in a list": hidden,
    }


@pytest.mark.parametrize("how", dependent_functions())
def test_runs_that_go_on_with_one_model_are_refused(tmp_path, how):
    with pytest.raises(ValueError, match=r"Expected `train_fn` to .* Received: a (function|model)"):
        quiet(audit_in(tmp_path / "jobs", dependent_functions()[how]))


def test_frozen_parts_may_be_shared(tmp_path):
    base = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(6, "relu")])
    base.trainable = False

    def train(x, y, seed):
        return keras.Sequential([keras.Input((FEATURES,)), base, keras.layers.Dense(CLASSES)])

    assert quiet(audit_in(tmp_path / "jobs", train)).num_unfinished == 0


def test_fit_on_arrays_has_another_order_in_every_epoch(tmp_path):
    orders = []

    def train(x, y, seed):
        model = net()
        seen = []

        def step(data):
            seen.append(data[0].numpy()[:, 0].tolist())
            return {"loss": 0.0}

        model.train_step = step
        model.run_eagerly = True
        model.fit(x, y, batch_size=8, epochs=3, verbose=0)
        orders.append(seen)
        return model

    keras.utils.set_random_seed(1)
    quiet(audit_in(tmp_path / "jobs", train))
    for seen in orders:
        epochs = np.reshape(np.concatenate(seen), (3, -1))
        assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
        assert len({tuple(sorted(epoch)) for epoch in epochs.tolist()}) == 1


def test_the_report_of_a_shadow_audit_says_nothing_of_its_data(tmp_path):
    audit = quiet(audit_in(tmp_path / "jobs"))
    report = audit.report(("loss",))
    assert report.seed is None
    assert "data" not in report.provenance
    statistics = audit.statistics()
    assert repr(statistics) == f"ShadowStatistics(models={MODELS}, records={audit.num_records})"
    assert "array" not in repr(statistics.scores("loss"))


def test_the_halves_are_compared_without_the_models(tmp_path):
    x, y = records(200)
    audit = quiet(ShadowAudit(ridge, x, y, num_shadow_models=4, directory=tmp_path))
    half = audit.is_member(0)
    expected = blind_baseline((x[half], y[half]), (x[~half], y[~half]))
    assert audit.report(("loss",)).blind_baseline == expected
    assert not expected.is_void
    assert audit.report(("loss",), blind_baseline=False).blind_baseline is None
    few = quiet(audit_in(tmp_path / "few", num_shadow_models=4))
    assert few.report(("loss",)).blind_baseline is None


def test_halves_of_persons_have_all_of_their_records(tmp_path):
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.arange(48) // 3)
    audit = audit_in(tmp_path / "jobs", groups=groups, num_shadow_models=200)
    halves = np.stack([audit.is_member(model) for model in range(200)])
    by_person = np.stack([halves[:, groups == person].T for person in range(16)])
    assert (by_person == by_person[:, :1]).all()
    assert (halves.sum(axis=1) == 24).all()
    # A directory of other persons is another audit's; names of the persons do not matter.
    audit_in(tmp_path / "jobs", groups=np.char.add("p", (10 + groups).astype(str)))
    with pytest.raises(ValueError, match="groups"):
        audit_in(tmp_path / "jobs", groups=rng.permutation(groups))
    with pytest.raises(ValueError, match="groups"):
        audit_in(tmp_path / "jobs")


def test_an_audit_of_persons_reports_them(tmp_path):
    groups = np.arange(48) // 3
    audit = quiet(audit_in(tmp_path / "jobs", groups=groups))
    found = audit.statistics()
    np.testing.assert_array_equal(found.groups, groups)
    report = audit.report(("loss",))
    assert report.slices == ("all", "persons")
    assert report.slice("persons")["loss"].num_members == MODELS * 8


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.arange(47), r"one group for each of the 48 records. Received: 47"),
        (np.where(np.arange(48) == 3, np.nan, 1.0), r"a group for every record"),
        (np.arange(48) % 3, r"`groups` to have at least 4 groups.*Received: 3 groups"),
    ],
)
def test_bad_groups_are_refused_before_a_directory_is_made(tmp_path, groups, message):
    with pytest.raises(ValueError, match=message):
        audit_in(tmp_path / "jobs", groups=groups)
    assert not (tmp_path / "jobs").exists()

"""What holds for every defence, by its name."""

import ast
import dataclasses
import functools
import inspect
import io
import pathlib
import pkgutil
import subprocess
import sys
import zipfile

import h5py
import keras
import nets
import numpy as np
import pytest
from leaks import contents, occurrences

import keras_dmp
from keras_dmp import PrivacyWarning, defenses
from keras_dmp.defenses._contract import Defense

# Settings that make each defence quick on the small split; every defence has a row.
SETTINGS = {
    "none": {},
    "early_stopping": {},
    "dmp": {"size": 48, "balance_classes": True},
    "adversarial_regularization": {"attack_units": (8,), "attack_steps": 1},
    "dp_sgd": {"noise_multiplier": 1.0},
    "pate": {"num_teachers": 2},
    "memguard": {
        "detector_units": (8,),
        "detector_epochs": 1,
        "max_iterations": 5,
        "searches": 1,
    },
    "weight_decay": {},
    "dropout": {},
    "label_smoothing": {},
    "confidence_penalty": {},
}
# Released models that are more than the classifier, and cannot load without the library.
OWN_CLASS = {"memguard"}
# Defences that draw more than initial weights and orders.
RANDOM = {"dp_sgd", "pate", "memguard", "dropout"}
FIT = {"epochs": 2, "batch_size": 16, "seed": 3}
every_defense = pytest.mark.parametrize("name", defenses.names())


class Builder:
    """Builds classifiers and remembers them."""

    def __init__(self, **net):
        self.net, self.built = net, []

    def __call__(self):
        layers = [
            keras.Input((nets.FEATURES,)),
            keras.layers.Dense(nets.HIDDEN, activation="tanh"),
            keras.layers.Dense(**{"units": nets.CLASSES, **self.net}),
        ]
        self.built.append(keras.Sequential(layers))
        return self.built[-1]


@pytest.fixture(scope="module")
def protected(split):
    """The model and its builder of a defence, trained once a module."""

    @functools.cache
    def protect(name):
        build = Builder()
        return defenses.get(name, **SETTINGS[name]).protect(build, split, **FIT), build

    return protect


def test_every_defense_has_settings_here():
    assert set(SETTINGS) == set(defenses.names())


def test_every_defense_is_registered():
    for module in pkgutil.iter_modules(defenses.__path__):
        if not module.name.startswith("_"):
            __import__(f"keras_dmp.defenses.{module.name}")

    def below(cls):
        return {cls, *(each for child in cls.__subclasses__() for each in below(child))}

    concrete = {
        cls
        for cls in below(Defense)
        if not inspect.isabstract(cls) and cls.__module__.startswith("keras_dmp.")
    }
    assert {type(defenses.get(name, **SETTINGS[name])) for name in defenses.names()} == concrete


def test_every_module_is_of_a_registered_defense():
    modules = {m.name for m in pkgutil.iter_modules(defenses.__path__) if m.name[0] != "_"}
    assert modules - {"guarantee"} == set(defenses.names())


def test_public_names_load():
    for name in defenses.__all__:
        assert getattr(defenses, name).__doc__
        assert name in dir(defenses)
    with pytest.raises(AttributeError, match="has no attribute 'DPM'"):
        defenses.DPM  # noqa: B018


def test_importing_the_package_is_light():
    code = (
        "import sys, keras_dmp.defenses as d; d.names();"
        "sys.exit(sum(name in sys.modules for name in ('tensorflow', 'keras', 'dp_accounting')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"'none', 'early_stopping', 'dmp'.*Received: name='dpm'"):
        defenses.get("dpm")


@every_defense
def test_settings_are_frozen_keyword_only_and_equal_by_value(name):
    defense = defenses.get(name, **SETTINGS[name])
    assert defense == defenses.get(name, **SETTINGS[name])
    assert defense.name == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        defense.epochs = 3
    with pytest.raises(TypeError):
        type(defense)(1)
    with pytest.raises(TypeError, match="nonsense"):
        defenses.get(name, nonsense=1)
    assert dataclasses.replace(defense) == defense


@every_defense
def test_defaults_are_settings(name):
    """Everything has a default but what a user has to decide."""
    needed = {"dp_sgd": {"noise_multiplier": 1.0}}.get(name, {})
    assert defenses.get(name, **needed).name == name


@every_defense
def test_one_signature(name):
    defense = type(defenses.get(name, **SETTINGS[name]))
    assert defense.protect is Defense.protect


@every_defense
def test_predicts_evaluates_and_learns(name, protected, split):
    model, _ = protected(name)
    outputs = model.predict(split.nonmembers[0], verbose=0)
    assert outputs.shape == (64, nets.CLASSES)
    assert np.all(np.isfinite(outputs))
    loss, accuracy = model.evaluate(*split.nonmembers, verbose=0)
    log_p = np.log(nets.softmax(outputs))
    labels = split.nonmembers[1]
    np.testing.assert_allclose(loss, -log_p[np.arange(64), labels].mean(), rtol=1e-3)
    np.testing.assert_allclose(accuracy, (outputs.argmax(axis=1) == labels).mean(), atol=1e-6)


@every_defense
def test_saves_and_loads(name, protected, split, tmp_path):
    model, _ = protected(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = split.nonmembers[0]
    np.testing.assert_allclose(loaded(x), model(x), atol=1e-6)
    assert loaded.compiled
    config = zipfile.ZipFile(tmp_path / "model.keras").read("config.json").decode()
    assert ("keras_dmp" in config) == (name in OWN_CLASS)


def data_sets(path):
    """Path and values of each data set among the weights of an archive."""
    weights = zipfile.ZipFile(path).read("model.weights.h5")
    found = []
    with h5py.File(io.BytesIO(weights)) as file:
        file.visititems(
            lambda name, node: (
                found.append((name, np.asarray(node))) if isinstance(node, h5py.Dataset) else None
            )
        )
    assert found
    return found


@every_defense
def test_archive_holds_nothing_private(name, protected, split, tmp_path):
    """No other model that was built, no record, and no variable that the classifier lacks."""
    model, build = protected(name)
    model.save(tmp_path / "model.keras")
    released = [v.path for m in build.built if m is model for v in m.variables]
    assert released or name in OWN_CLASS or name == "dmp"
    for other in build.built:
        if occurrences(other, tmp_path / "model.keras"):
            same = [
                any(np.array_equal(v, w) for w in model.variables if w.shape == v.shape)
                for v in other.trainable_variables
            ]
            assert all(same), "another model's weights"
    blobs = list(contents(tmp_path / "model.keras"))
    for record in split.members[0]:
        assert not any(record.tobytes() in blob for blob in blobs)
    for path, values in data_sets(tmp_path / "model.keras"):
        assert "optimizer" not in path or values.size == 1 or not values.any(), path
    if name not in OWN_CLASS:
        assert [v.shape for v in model.variables] == [v.shape for v in Builder()().variables]


@every_defense
def test_audits(name, protected, split):
    model, _ = protected(name)
    report = keras_dmp.audit_membership(
        model, split.members, split.nonmembers, attacks=("loss",), slices=(), seed=0
    )
    assert 0 <= report["loss"].auc <= 1


@pytest.mark.parametrize(
    "name",
    [
        name if name in RANDOM else pytest.param(name, marks=pytest.mark.slow)
        for name in defenses.names()
    ],
)
def test_same_seed_same_weights(name, protected, split):
    model, _ = protected(name)
    keras.utils.set_random_seed(77)
    again = defenses.get(name, **SETTINGS[name]).protect(Builder(), split, **FIT)
    nets.assert_same_weights(again, nets.snapshot(model), atol=1e-6)


@pytest.mark.parametrize(
    "name",
    # One function refuses them for all; that each defence calls it, the full run shows.
    [
        name if name == "none" else pytest.param(name, marks=pytest.mark.full)
        for name in defenses.names()
    ],
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"split": None},
            "`split` to be a PrivateSplit.*Received: split of type NoneType",
        ),
        ({"build_model": 3}, "Expected `build_model` to be a keras.Model or a callable"),
        ({"epochs": 0}, "Expected `epochs` to be a whole number.*epochs=0"),
        ({"batch_size": 0}, "Expected `batch_size` to be a whole number"),
        ({"optimizer": "sgdd"}, "Expected `optimizer` to be a Keras optimizer.*'sgdd'"),
        ({"seed": -1}, "Expected `seed` to be a whole number of at least 0"),
        ({"verbose": 3}, "Expected `verbose`.*verbose=3"),
    ],
)
def test_bad_arguments(name, arguments, message, split):
    given = {"build_model": Builder(), "split": split, **FIT, **arguments}
    with pytest.raises((TypeError, ValueError), match=message):
        defenses.get(name, **SETTINGS[name]).protect(**given)


@every_defense
def test_missing_parts_are_named(name, split):
    bare = dataclasses.replace(split, validation=None, reference=None)
    defense = defenses.get(name, **SETTINGS[name])
    if not defense.parts:
        return
    with pytest.raises(ValueError, match=rf"split.*{defense.parts[0]} data.*'{name}'.*=None"):
        defense.protect(Builder(), bare, **FIT)


@pytest.mark.parametrize(
    "name",
    [
        name if name == "none" else pytest.param(name, marks=pytest.mark.full)
        for name in defenses.names()
    ],
)
@pytest.mark.parametrize("part", ["members", "validation", "reference"])
def test_groups_of_another_number_of_records_are_refused(name, part, split):
    """Such as those of a split whose members were replaced."""
    sizes = {"members": 64, "nonmembers": 64, "validation": 32, "reference": 96}
    groups = {other: np.arange(size) for other, size in sizes.items()}
    groups[part] = groups[part][:-1]
    grouped = dataclasses.replace(split, groups=groups)
    with pytest.raises(ValueError, match=rf"split\.groups\['{part}'\].*{sizes[part] - 1}"):
        defenses.get(name, **SETTINGS[name]).protect(Builder(), grouped, **FIT)


@pytest.mark.parametrize("of", ["records", "groups"])
@pytest.mark.parametrize(
    ("defense", "part"),
    [
        *((defenses.get(name, **SETTINGS[name]), "reference") for name in ("dmp", "pate")),
        (defenses.get("memguard", **SETTINGS["memguard"]), "reference"),
        (defenses.get("memguard", detector_data="validation"), "validation"),
        (defenses.get("early_stopping"), "validation"),
        (defenses.get("adversarial_regularization"), "validation"),
        (defenses.get("dmp", consensus=keras_dmp.Consensus()), "validation"),
        (defenses.get("dmp", teacher=defenses.get("early_stopping")), "validation"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_members_in_a_part_that_is_used_are_refused_before_training(
    defense, part, of, split, monkeypatch
):
    """And others of their groups."""
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("trained"))
    used = getattr(split, part)
    x = used if part == "reference" else used[0]
    if of == "records":
        mixed = np.concatenate([x[:-3], split.members[0][:3]])
        changes = {part: mixed if part == "reference" else (mixed, used[1])}
    else:
        persons = {"members": np.arange(64), "nonmembers": np.arange(64, 128)}
        persons[part] = np.where(np.arange(len(x)) < 3, 5, 1_000 + np.arange(len(x)))
        changes = {"groups": persons}
    with pytest.raises(ValueError, match=f"Received: 3 of {len(x)} samples of `{part}`"):
        defense.protect(Builder(), dataclasses.replace(split, **changes), **FIT)


def test_members_in_a_part_that_is_not_used_do_not_matter(split):
    changed = dataclasses.replace(split, reference=split.members[0], validation=split.members)
    defense = defenses.get("early_stopping", patience=None, max_epochs=1)
    usual, other = (defense.protect(Builder(), of, **FIT) for of in (split, changed))
    nets.assert_same_weights(other, nets.snapshot(usual))


@pytest.mark.parametrize(
    ("name", "settings", "refused"),
    [
        ("pate", {"num_teachers": 40}, "num_teachers=40"),
        ("dp_sgd", {"noise_multiplier": 1.0}, "batch_size=65"),
    ],
)
@pytest.mark.parametrize("most", [1, 2])
def test_a_guarantee_for_records_is_not_taken_for_one_of_persons(
    name, settings, refused, most, split, recwarn
):
    """Refused before training, after the groups were looked at."""
    persons = {"members": np.arange(64) // most, "nonmembers": np.arange(64, 128)}
    grouped = dataclasses.replace(split, groups=persons)
    with pytest.raises(ValueError, match=refused):
        defenses.get(name, **settings).protect(Builder(), grouped, **FIT | {"batch_size": 65})
    warned = [str(one.message) for one in recwarn if one.category is PrivacyWarning]
    assert len(warned) == most - 1
    assert all("groups with up to 2 members" in one for one in warned)


@every_defense
def test_labels_beyond_the_classes_are_refused(name, split):
    x, y = split.members
    wrong = dataclasses.replace(split, members=(x, y + nets.CLASSES))
    with pytest.raises(ValueError, match=r"split\.members labels"):
        defenses.get(name, **SETTINGS[name]).protect(Builder(), wrong, **FIT)


@pytest.mark.slow
@every_defense
@pytest.mark.parametrize(
    "net",
    [{"activation": "softmax"}, {"units": 1, "activation": "sigmoid"}, {"units": 1}],
    ids=["softmax", "sigmoid", "one logit"],
)
def test_every_kind_of_outputs(name, net, split):
    def labels(part):
        return part[0], (part[1] % 2 if "units" in net else part[1])

    split = dataclasses.replace(
        split,
        members=labels(split.members),
        nonmembers=labels(split.nonmembers),
        validation=labels(split.validation),
    )
    build = Builder(**net)
    model = defenses.get(name, **SETTINGS[name]).protect(build, split, **FIT)
    outputs = model.predict(split.nonmembers[0], verbose=0)
    if "activation" in net:
        assert outputs.min() >= 0
        assert outputs.max() <= 1
    report = keras_dmp.audit_membership(
        model, split.members, split.nonmembers, attacks=("loss",), slices=(), seed=0
    )
    accuracy = model.evaluate(*split.nonmembers, verbose=0)[1]
    np.testing.assert_allclose(report.nonmember_accuracy, accuracy, atol=1e-6)


@pytest.mark.parametrize("name", ["none", "early_stopping", "dmp", "label_smoothing"])
def test_models_with_a_step_and_a_compile_of_their_own(name, split):
    # Neither does Keras train a metric that the step leaves alone.
    model = defenses.get(name, **SETTINGS[name]).protect(nets.TwoOptimizers, split, **FIT)
    assert isinstance(model, nets.TwoOptimizers)
    assert set(model.evaluate(*split.nonmembers, verbose=0, return_dict=True)) == {
        "accuracy",
        "loss",
    }


def test_defenses_do_not_know_each_other_nor_the_audit():
    """Each defence stands on the contract alone."""
    folder = pathlib.Path(inspect.getfile(defenses)).parent
    for path in folder.glob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_dmp"):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                assert not any(name.startswith("keras_dmp.audit") for name in names)
                assert not any(
                    name.startswith(f"keras_dmp.defenses.{other}")
                    for name in names
                    for other in defenses.names()
                )

"""DMP as a defence: teachers that another defence has trained."""

import dataclasses

import keras
import nets
import numpy as np
import pytest

from keras_dmp import Consensus, defenses
from keras_dmp._data import samples

# Teachers of two epochs do not know all classes yet.
pytestmark = pytest.mark.filterwarnings("ignore:No chosen reference sample")

FIT = {"epochs": 2, "batch_size": 16, "optimizer": "sgd", "seed": 3}
TEACHERS = {
    "dropout": {"rate": 0.2},
    "early_stopping": {"patience": None, "max_epochs": 1},
    "dp_sgd": {"noise_multiplier": 1.0},
    "dmp": {"size": 48, "balance_classes": True},
}


def build_model():
    """A classifier whose initial weights no seed of its own fixes."""
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(nets.CLASSES),
        ]
    )


def protect(split, teacher=None, **settings):
    defense = defenses.get("dmp", teacher=teacher, size=48, balance_classes=True, **settings)
    return defense.protect(build_model, split, **FIT)


@pytest.mark.parametrize("name", TEACHERS)
def test_any_defense_trains_the_teacher(split, name, monkeypatch):
    """The student learns from this teacher, and differs from that of an unprotected one."""
    teacher, trained = defenses.get(name, **TEACHERS[name]), []
    train = type(teacher).protect

    def recorded(self, *arguments, **settings):
        trained.append((self, settings["seed"], train(self, *arguments, **settings)))
        return trained[-1][-1]

    student = defenses.get("dmp", teacher=teacher, size=48, balance_classes=True)
    monkeypatch.setattr(type(teacher), "protect", recorded)
    released = student.protect(build_model, split, **FIT)
    monkeypatch.undo()
    (inner, seed, model), *others = [of for of in trained if of[0] is teacher]
    assert not others
    assert inner == teacher
    assert seed != FIT["seed"]
    assert model is not released
    for own, others in zip(released.get_weights(), model.get_weights(), strict=True):
        assert own.ndim == 1 or not np.allclose(own, others)
    again, plain = protect(split, teacher), protect(split)
    np.testing.assert_array_equal(released.get_weights()[0], again.get_weights()[0])
    assert not np.array_equal(released.get_weights()[0], plain.get_weights()[0])


def test_the_student_has_the_guarantee_of_its_teacher(split):
    private = defenses.get("dp_sgd", noise_multiplier=1.0)
    found = defenses.guarantee_of(protect(split, private))
    expected = private.guarantee(num_members=64, epochs=2, batch_size=16)
    assert found.epsilon == expected.epsilon
    assert defenses.guarantee_of(protect(split)) is None


def test_a_pool_from_a_generator_of_the_members_has_no_guarantee(split):
    private = defenses.get("dp_sgd", noise_multiplier=1.0)
    settings = {"reference_source": "synthetic", "synthetic_epochs": 1, "fraction": 1.0}
    model = defenses.get("dmp", teacher=private, **settings).protect(build_model, split, **FIT)
    assert defenses.guarantee_of(model) is None


def test_a_guarantee_is_announced_where_there_is_one():
    private = defenses.get("dp_sgd", noise_multiplier=1.0)
    twice = defenses.get("dmp", teacher=defenses.get("dmp", teacher=private))
    assert defenses.get("dmp", teacher=private).has_guarantee
    assert twice.has_guarantee
    others = ({}, {"teacher": defenses.get("dropout")})
    for settings in (*others, {"teacher": private, "reference_source": "synthetic"}):
        assert defenses.get("dmp", **settings).has_guarantee is False


@pytest.mark.parametrize(
    ("settings", "changes", "pattern"),
    [
        ({}, "members", "`split` to have parts.*64 of 64 samples of `reference` are members"),
        ({"reference_source": "synthetic"}, "few", "at least 10"),
        ({"size": 10_000}, "nothing", "size=10000"),
        (
            {},
            "integers",
            r"`split.reference` to have the shape and dtype of `split.members`.*int64",
        ),
    ],
)
def test_data_is_refused_before_the_teacher_is_trained(
    split, settings, changes, pattern, monkeypatch
):
    if changes == "members":
        split = dataclasses.replace(split, reference=split.members[0])
    if changes == "few":
        split = dataclasses.replace(split, members=tuple(part[:8] for part in split.members))
    if changes == "integers":
        split = dataclasses.replace(split, reference=split.reference.astype(np.int64))
    teacher = defenses.get("dropout", rate=0.2)
    monkeypatch.setattr(type(teacher), "_protect", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=pattern):
        defenses.get("dmp", teacher=teacher, **settings).protect(build_model, split, **FIT)


def in_groups(split, **changes):
    """A split whose records have groups of their own, except for those that are passed."""
    sizes = {"members": 64, "nonmembers": 64, "validation": 32, "reference": 96}
    groups = {part: [f"{part} {at}" for at in range(size)] for part, size in sizes.items()}
    return dataclasses.replace(split, groups=groups | changes)


def test_a_person_is_in_one_shard_of_a_consensus(split):
    """Three persons are too few for four shards, though there are 64 different records."""
    consensus = defenses.get("dmp", consensus=Consensus(num_shards=4))
    with pytest.raises(ValueError, match="num_shards=4 with 3 groups"):
        consensus.protect(build_model, in_groups(split, members=np.arange(64) % 3), **FIT)


@pytest.mark.parametrize("teacher", [None, defenses.get("none")], ids=["own", "other"])
def test_persons_with_members_are_refused_in_the_reference(split, teacher, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("trained"))
    reference = ["members 3", *(f"reference {at}" for at in range(95))]
    with pytest.raises(ValueError, match="1 of 96 samples of `reference` belong to a group"):
        protect(in_groups(split, reference=reference), teacher)


def test_groups_of_a_reference_that_is_not_used_do_not_matter(split):
    few = {"reference_source": "synthetic", "synthetic_epochs": 1, "fraction": 1.0}
    shared = in_groups(split, reference=[f"members {at % 64}" for at in range(96)])
    defense = defenses.get("dmp", consensus=Consensus(num_shards=65), **few)
    with pytest.raises(ValueError, match="num_shards=65 with 64 groups"):
        defense.protect(build_model, shared, **FIT)


@pytest.mark.parametrize("teacher", [None, defenses.get("none")], ids=["own", "other"])
def test_records_are_compared_once(split, teacher, monkeypatch):
    compare, compared = samples.count_shared, []

    def recorded(first, second):
        compared.append((len(first), len(second)))
        return compare(first, second)

    monkeypatch.setattr(samples, "count_shared", recorded)
    protect(split, teacher)
    assert compared == [(len(split.reference), len(split.members[0]))]


def test_a_teacher_that_is_no_defense_is_refused():
    with pytest.raises(TypeError, match=r"`teacher` to be a Defense.*teacher='dp_sgd'"):
        defenses.get("dmp", teacher="dp_sgd")
    with pytest.raises(ValueError, match=r"at most one of `teacher` and `consensus`"):
        defenses.get("dmp", teacher=defenses.get("none"), consensus=Consensus())


def test_what_the_teacher_requires_is_required():
    synthetic = defenses.get("dmp", reference_source="synthetic")
    assert defenses.get("dmp", teacher=defenses.get("early_stopping")).parts == (
        "reference",
        "validation",
    )
    assert defenses.get("dmp", teacher=synthetic, reference_source="synthetic").parts == ()

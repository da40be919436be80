"""A search with shadow models: oracles of the risk, groups, failures, and resuming."""

import dataclasses

import nets
import numpy as np
import pytest
from searches import FEW_SAMPLES, LOSS, OPTIMIZER, SEED, build, search

from keras_dmp import DMPTrainer, EntropyReferenceSelector, split_private
from keras_dmp._classifier.outputs import NotFiniteError
from keras_dmp.audit import MembershipScores, ShadowAudit, person_scores
from keras_dmp.trainer.students import Students
from keras_dmp.tuning import parts, pipeline

# One search with its shadow models, which takes seconds, serves all tests.
pytestmark = [pytest.mark.full, *FEW_SAMPLES]
ATTACK, COUNT = "lira_offline_fixed", 4
SETTINGS = {"attack": ATTACK, "num_shadow_models": COUNT, "epochs": 1, "max_risk": 1.0}


@pytest.fixture(scope="module")
def split():
    x, y = nets.prototypes(420)
    groups = np.arange(420) // 4
    return split_private(x, y, members=100, nonmembers=100, groups=groups, seed=0)


@pytest.fixture(scope="module")
def prepared_runs():
    """Directory and groups of each prepared run."""
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("search") / "run"


@pytest.fixture(scope="module")
def found(split, folder, prepared_runs):
    prepared = pipeline.prepared

    def seen(settings, compiled, arguments, **more):
        prepared_runs.append((settings, arguments))
        return prepared(settings, compiled, arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "prepared", seen)
        return search(split, directory=folder, budget=1, verbose=1, **SETTINGS)


def own_audit(split, folder):
    """The same audit by the public doors, trained by `DMPTrainer`."""

    def train(x, y, seed):
        selector = EntropyReferenceSelector(len(split.reference) // 2)
        trainer = DMPTrainer(build, selector=selector, labels="soft", seed=seed)
        trainer.compile(OPTIMIZER, LOSS, metrics=["accuracy"])
        fit = {"epochs": 1, "batch_size": 16, "verbose": 0}
        trainer.fit(x, y, reference=split.reference, **fit)
        return trainer.student

    (x, y), (other_x, other_y) = split.members, split.nonmembers
    groups = np.concatenate([split.groups["members"], split.groups["nonmembers"]])
    records = np.concatenate([x, other_x]), np.concatenate([y, other_y])
    settings = {"num_shadow_models": COUNT, "seed": SEED, "groups": groups, "from_logits": True}
    return ShadowAudit(train, *records, directory=folder, **settings).run(verbose=0)


def test_the_risk_is_that_of_an_audit_by_hand(split, found, tmp_path):
    audit = own_audit(split, tmp_path / "own")
    is_member = np.arange(200) < 100
    scores = audit.attack_model(found.student, is_member, ATTACK)
    divided = parts.divide(split, SEED)
    for report, part in (
        (found.frontier[0].report, divided.selection),
        (found.report, divided.final),
    ):
        sides, groups = [], []
        for name, first in (("member", 0), ("nonmember", 100)):
            positions = getattr(scores, f"{name}_indices") - first
            rows = np.isin(positions, getattr(part, f"{name}s"))
            sides.append(getattr(scores, f"{name}_scores")[rows])
            groups.append(split.groups[f"{name}s"][positions[rows]])
        expected = MembershipScores(*sides)
        assert report[ATTACK].auc == pytest.approx(expected.auc(), abs=1e-6)
        persons = person_scores(expected, tuple(groups))
        of_persons = report.slice("persons")[ATTACK]
        assert of_persons.auc == pytest.approx(persons.auc(), abs=1e-6)
        assert of_persons.num_members == persons.num_members < len(sides[0])
    row = found.frontier[0]
    aucs = [row.report[ATTACK].auc, row.report.slice("persons")[ATTACK].auc]
    assert row.risk == max(max(auc, 1 - auc) for auc in aucs)


def test_every_run_has_whole_persons_their_groups_and_a_directory(split, found, prepared_runs):
    runs = prepared_runs[1:]
    assert len(runs) == COUNT
    records = np.concatenate([split.members[0], split.nonmembers[0]])
    persons = np.concatenate([split.groups["members"], split.groups["nonmembers"]])
    for settings, arguments in runs:
        assert settings.directory is not None
        rows = [int(np.flatnonzero((records == one).all(axis=1))[0]) for one in arguments.x]
        mine = persons[rows]
        assert np.isin(persons, mine).sum() == len(rows)
        _, numbers = np.unique(mine, return_inverse=True)
        _, passed = np.unique(arguments.groups["members"], return_inverse=True)
        pairs = set(zip(numbers, passed, strict=True))
        assert len(pairs) == len(set(numbers)) == len(set(passed))


def test_trainings_count_the_runs(found, folder):
    assert found.trainings == {"teacher": 5, "shard teacher": 0, "student": 5}
    assert {"loss", ATTACK} <= set(found.report.attacks)
    (jobs,) = folder.glob("shadow_models_*")
    assert len(list(jobs.glob("*.job"))) == COUNT


def test_the_time_left_includes_shadow_models(split, folder, found, capsys):
    (jobs,) = folder.glob("shadow_models_*")
    # A kill between two shadow models loses that model only.
    (jobs / "model_00002.job").unlink()
    assert search(split, directory=folder, budget=1, verbose=1, **SETTINGS) == found
    lines = capsys.readouterr().out.splitlines()
    read = [line for line in lines if "were finished before" in line]
    assert len(read) == COUNT - 1
    assert [line for line in lines if "run 3 of 4" in line] == ["Shadow models: run 3 of 4"]


def test_other_nonmembers_are_another_audit(split, folder, found):
    x, y = split.nonmembers
    other = dataclasses.replace(split, nonmembers=(x[::-1].copy(), y[::-1].copy()))
    search(other, directory=folder, budget=1, **SETTINGS)
    assert len(list(folder.glob("shadow_models_*"))) == 2


def test_a_candidate_that_fails_in_one_run_is_left_out_with_its_reason(
    split, monkeypatch, tmp_path
):
    train, calls = Students.train, {}

    def failing(self, point, name):
        calls[name] = calls.get(name, 0) + 1
        if name in fails and "shadow" in str(self._run.directory.path):
            raise NotFiniteError("it has diverged")
        return train(self, point, name)

    monkeypatch.setattr(Students, "train", failing)
    fails = {"lowest_110_hard_1"}
    reason = "lowest_110_hard_1 is left out: in run 1 of the shadow models: it has diverged"
    settings = {"budget": 2, "directory": tmp_path / "run", **SETTINGS}
    with pytest.warns(UserWarning, match=reason):
        found = search(split, **settings)
    assert [row.labels for row in found.frontier] == ["soft"]
    assert found.notes == (reason,)
    # Of no use after the first run.
    assert calls["lowest_110_hard_1"] == 2
    with pytest.warns(UserWarning, match=reason):
        assert search(split, **settings) == found
    fails = set(calls)
    settings["directory"] = tmp_path / "other"
    with (
        pytest.warns(UserWarning, match="is left out"),
        pytest.raises(ValueError, match="Received: 2 candidates, all of which have failed"),
    ):
        search(split, **settings)

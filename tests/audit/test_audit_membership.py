import csv
import dataclasses
import importlib
import logging
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dmp import MembershipAudit
from keras_dmp.audit import (
    AttackScores,
    AuditReport,
    attack_table,
    audit_membership,
    blind_baseline,
)
from keras_dmp.audit.statistics.membership_scores import MembershipScores

TRAINED = ("logistic_regression", "knn")
SCORES = {
    name: attack_table.load(attack_table.ATTACKS[name].outputs)
    for name in attack_table.names(outputs=True, tf_privacy=False)
}


class Pairs(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    @property
    def num_batches(self):
        return -(-len(self.x) // 64)

    def __getitem__(self, index):
        rows = slice(64 * index, 64 * index + 64)
        return self.x[rows], self.y[rows]


def losses(model, x, y):
    logits = model.predict(x, verbose=0).astype("float64")
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]


def by_hand_type(name):
    importlib.import_module("keras_dmp.audit._tf_privacy")
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        data_structures,
    )

    return data_structures.AttackType[name]


def by_hand(attack, seed, **outputs_and_labels):
    """TF-Privacy called as its documentation does."""
    # The door sets TF-Privacy's import switch.
    importlib.import_module("keras_dmp.audit._tf_privacy")
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        data_structures,
        membership_inference_attack,
    )

    names = {"threshold": "THRESHOLD_ATTACK", "threshold_entropy": "THRESHOLD_ENTROPY_ATTACK"}
    kind = data_structures.AttackType[names.get(attack, "LOGISTIC_REGRESSION")]
    np.random.seed(seed)  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return membership_inference_attack.run_attacks(
            data_structures.AttackInputData(**outputs_and_labels), attack_types=(kind,)
        ).single_attack_results[0]


@pytest.mark.parametrize("attack", ["threshold", "threshold_entropy", "logistic_regression"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-3)])
def test_figures_are_tf_privacys_for_logits(victim, samples, report, attack, dtype, tolerance):
    (x, y), (other_x, other_y) = samples
    expected = by_hand(
        attack,
        3,
        logits_train=victim.predict(x, verbose=0).astype(dtype),
        logits_test=victim.predict(other_x, verbose=0).astype(dtype),
        labels_train=y,
        labels_test=other_y,
    )
    assert report[attack].auc == pytest.approx(expected.get_auc(), abs=tolerance)
    advantage = expected.get_attacker_advantage()
    assert report[attack].advantage == pytest.approx(advantage, abs=10 * tolerance)
    assert report[attack].balanced_accuracy == (1 + report[attack].advantage) / 2


@pytest.mark.parametrize("attack", ["threshold", "logistic_regression"])
def test_figures_are_tf_privacys_for_probabilities(softmax_victim, samples, attack):
    (x, y), (other_x, other_y) = samples
    expected = by_hand(
        attack,
        3,
        probs_train=softmax_victim.predict(x, verbose=0),
        probs_test=softmax_victim.predict(other_x, verbose=0),
        labels_train=y,
        labels_test=other_y,
    )
    result = audit_membership(softmax_victim, *samples, attacks=attack, seed=3)[attack]
    assert result.auc == pytest.approx(expected.get_auc(), abs=1e-3)


def test_threshold_figures_are_counted(victim, samples, report):
    members, nonmembers = losses(victim, *samples[0]), losses(victim, *samples[1])
    auc = np.mean(members[:, None] < nonmembers) + np.mean(members[:, None] == nonmembers) / 2
    result = report["threshold"]
    assert result.auc == pytest.approx(auc, abs=1e-6)
    assert result.auc > 0.6
    allowed = np.sort(nonmembers)[26]  # 26 of 260 nonmembers are below it
    assert result.tpr_at_fpr[0.1] == pytest.approx(np.mean(members < allowed), abs=1e-12)
    assert result.tpr_at_fpr[0.001] is None
    assert any("0.1% FPR is not resolved" in note for note in report.notes)
    assert report.member_loss == pytest.approx(members.mean(), rel=1e-5)
    predicted = victim.predict(samples[1][0], verbose=0).argmax(axis=1)
    assert report.nonmember_accuracy == pytest.approx(np.mean(predicted == samples[1][1]))


def test_slices_are_audits_of_their_samples(victim, samples):
    report = audit_membership(
        victim, *samples, attacks="threshold", slices=("correctness", "class"), seed=0
    )
    assert report.slices[:3] == ("all", "correct", "incorrect")
    only_two = [(x[y == 2], y[y == 2]) for x, y in samples]
    alone = audit_membership(victim, *only_two, attacks="threshold", slices=(), seed=0)
    assert report.slice("class 2")["threshold"].auc == alone["threshold"].auc
    right = [losses(victim, x, y)[victim.predict(x, verbose=0).argmax(1) == y] for x, y in samples]
    auc = np.mean(right[0][:, None] < right[1])
    assert report.slice("correct")["threshold"].auc == pytest.approx(auc, abs=1e-6)
    assert report.slice("correct")["threshold"].num_members == len(right[0])


def test_trained_attacks_run_on_slices_when_asked(victim, samples, report):
    sliced = audit_membership(
        victim, *samples, attacks="logistic_regression", slice_trained_attacks=True, seed=3
    )
    assert "correct" in sliced.slices
    assert sliced["logistic_regression"] == report["logistic_regression"]


def test_empty_slices_are_left_out_with_a_note(victim, samples):
    (x, _), (other_x, other_y) = samples
    learned = victim.predict(x, verbose=0).argmax(axis=1)
    report = audit_membership(victim, (x, learned), (other_x, other_y), attacks="threshold")
    assert report.slices == ("all", "correct")
    assert any("'incorrect' was not attacked: 0 members" in note for note in report.notes)
    with pytest.raises(KeyError, match="no slice 'incorrect'"):
        report.slice("incorrect")


def test_one_distribution_gives_chance(victim, samples):
    x, y = samples[1]
    halves = (x[:130], y[:130]), (x[130:], y[130:])
    result = audit_membership(victim, *halves, attacks="threshold")["threshold"]
    low, high = result.auc_interval
    assert low <= 0.5 <= high


def test_an_attack_that_looks_the_wrong_way_is_below_half(victim, samples):
    report = audit_membership(victim, samples[1], samples[0], attacks="threshold", slices=())
    assert report["threshold"].auc < 0.4
    assert any("AUC below 0.5" in note for note in report.notes)


def test_labels_of_any_form_give_equal_reports(victim, samples, report):
    columns = [(x, y[:, None].astype("uint8")) for x, y in samples]
    one_hot = [(x, np.eye(4, dtype="float32")[y]) for x, y in samples]
    assert audit_membership(victim, *columns, seed=3) == report
    assert audit_membership(victim, *one_hot, seed=3) == report


def test_arrays_and_datasets_give_equal_reports(victim, samples, report):
    datasets = [tf.data.Dataset.from_tensor_slices(pair).batch(64) for pair in samples]
    assert audit_membership(victim, *datasets, seed=3) == report
    assert audit_membership(victim, *(Pairs(*pair) for pair in samples), seed=3) == report
    assert audit_membership(victim, samples[0], datasets[1], seed=3, batch_size=64) == report


def test_logits_and_softmax_heads_give_equal_figures(softmax_victim, samples, report):
    softmax = audit_membership(softmax_victim, *samples, seed=3)
    for attack in ("threshold", "threshold_entropy"):
        assert softmax[attack].auc == pytest.approx(report[attack].auc, abs=1e-4)
    assert softmax.member_loss == pytest.approx(report.member_loss, rel=1e-4)


def test_two_classes_give_equal_figures_from_any_head(samples):
    pairs = [(x, (y > 1).astype("int64")) for x, y in samples]
    inputs = keras.Input((10,))
    unit = keras.layers.Dense(1)(inputs)
    heads = {
        "unit": unit,
        "sigmoid": keras.layers.Activation("sigmoid")(unit),
        "two": keras.layers.Concatenate()([unit * 0.0, unit]),
        "softmax": keras.layers.Softmax()(keras.layers.Concatenate()([unit * 0.0, unit])),
    }
    reports = {
        name: audit_membership(
            keras.Model(inputs, outputs),
            *pairs,
            attacks=("threshold", "threshold_entropy"),
            from_logits=name in ("unit", "two"),
            seed=0,
        )
        for name, outputs in heads.items()
    }
    for report in reports.values():
        assert report.num_classes == 2
        assert report.nonmember_accuracy == reports["unit"].nonmember_accuracy
        for attack in report.attacks:
            expected = reports["unit"][attack].auc
            assert report[attack].auc == pytest.approx(expected, abs=1e-4)


def test_seeds_repeat_and_leave_numpy_alone(victim, samples):
    # Sides of unequal size: the balanced subset is drawn at random.
    np.random.seed(11)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    reports = [
        audit_membership(victim, *samples, attacks=TRAINED, slices=(), seed=seed)
        for seed in (5, 5, 6)
    ]
    assert reports[0] == reports[1]
    assert reports[0]["knn"].auc != reports[2]["knn"].auc
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_drawn_seed_is_reported(victim, samples):
    report = audit_membership(victim, *samples, attacks="knn", slices=())
    again = audit_membership(victim, *samples, attacks="knn", slices=(), seed=report.seed)
    assert report.results == again.results


def test_an_attacks_figures_do_not_depend_on_the_others(victim, samples, report):
    both = audit_membership(victim, *samples, attacks=("knn", "logistic_regression"), seed=3)
    assert both["logistic_regression"] == report["logistic_regression"]


def test_the_model_and_the_logger_are_as_before(victim, samples, monkeypatch):
    weights = [weight.copy() for weight in victim.get_weights()]
    victim.predict_function = None
    attributes = {name: id(value) for name, value in vars(victim).items()}
    # Without handlers `logging.info`, as TF-Privacy calls it, would install one.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    audit_membership(victim, *samples, seed=0)
    assert {name: id(value) for name, value in vars(victim).items()} == attributes
    assert victim.predict_function is None
    for weight, before in zip(victim.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, before)
    assert logging.getLogger().handlers == []


def test_inputs_are_not_changed(victim, samples):
    copies = [(x.copy(), y.copy()) for x, y in samples]
    audit_membership(victim, *copies, seed=0)
    for copy, pair in zip(copies, samples, strict=True):
        np.testing.assert_array_equal(copy[0], pair[0])
        np.testing.assert_array_equal(copy[1], pair[1])


def test_several_inputs(samples):
    (x, y), (other_x, other_y) = samples
    left, right = keras.Input((4,), name="left"), keras.Input((6,), name="right")
    joined = keras.layers.Concatenate()([left, right])
    model = keras.Model({"left": left, "right": right}, keras.layers.Dense(4)(joined))
    pairs = [
        ({"left": rows[:, :4], "right": rows[:, 4:]}, labels)
        for rows, labels in ((x, y), (other_x, other_y))
    ]
    report = audit_membership(model, *pairs, attacks="threshold")
    assert report.num_members == 300
    with pytest.raises(ValueError, match="share no records"):
        audit_membership(model, pairs[0], pairs[0], attacks="threshold")


def test_batches_padded_to_lengths_of_their_own(samples):
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(50, 4),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(4),
        ]
    )
    rng = np.random.default_rng(0)

    def batches(lengths):
        texts = [rng.integers(50, size=(8, length)) for length in lengths]
        return tf.data.Dataset.from_generator(
            lambda: ((text, np.arange(8) % 4) for text in texts),
            output_signature=(
                tf.TensorSpec((None, None), tf.int64),
                tf.TensorSpec((None,), tf.int64),
            ),
        )

    report = audit_membership(model, batches([9, 12]), batches([10, 7]), attacks="threshold")
    assert (report.num_members, report.num_nonmembers) == (16, 16)


def test_duplicates_within_the_members_are_fine(victim, samples):
    (x, y), nonmembers = samples
    doubled = np.concatenate([x, x]), np.concatenate([y, y])
    assert audit_membership(victim, doubled, nonmembers, attacks="threshold").num_members == 600


def test_curves_of_many_samples_are_thinned_after_the_figures(victim):
    rng = np.random.default_rng(0)
    sides = [(rng.normal(size=(4_000, 10)), rng.integers(4, size=4_000)) for _ in range(2)]
    result = audit_membership(victim, *sides, attacks="threshold", slices=())["threshold"]
    assert len(result.roc.fpr) == 2_000
    members, nonmembers = losses(victim, *sides[0]), losses(victim, *sides[1])
    assert result.auc == pytest.approx(np.mean(members[:, None] < nonmembers), abs=1e-6)
    allowed = np.sort(nonmembers)[400]
    assert result.tpr_at_fpr[0.1] == pytest.approx(np.mean(members < allowed), abs=1e-12)


OWN = ("loss", "confidence", "margin", "entropy", "modified_entropy", "correctness", "scaled_logit")


def test_attacks_of_our_own_are_their_scores(victim, samples):
    report = audit_membership(victim, *samples, attacks=OWN, slices=(), seed=0)
    outputs = [victim.predict(x, verbose=0) for x, _ in samples]
    for attack in OWN:
        scores = MembershipScores(
            *(
                SCORES[attack](its_outputs, y, from_logits=True)
                for its_outputs, (_, y) in zip(outputs, samples, strict=True)
            )
        )
        assert report[attack].auc == pytest.approx(scores.auc(), abs=1e-6)
        assert report[attack].auc > 0.5
    assert report.attacks == OWN
    assert "tensorflow-privacy" not in report.provenance
    assert report.provenance["engine"] == "keras_dmp"


def test_our_loss_attack_is_tf_privacys(victim, samples, report):
    slices = ("correctness", "class")
    ours, theirs = (
        audit_membership(victim, *samples, attacks=attacks, slices=slices, seed=0)
        for attacks in (("loss", "modified_entropy"), ("threshold", "threshold_entropy"))
    )
    assert ours.slices == theirs.slices
    renamed = {"threshold": "loss", "threshold_entropy": "modified_entropy"}
    for result in theirs.results:
        same = ours.slice(result.slice)[renamed[result.attack]]
        if result.attack == "threshold":
            assert dataclasses.replace(same, attack="threshold") == result
        assert (same.num_members, same.num_nonmembers) == (
            result.num_members,
            result.num_nonmembers,
        )


def test_figures_of_positive_predictive_value_are_tf_privacys(victim, samples, report):
    (x, y), (other_x, other_y) = samples
    expected = by_hand(
        "threshold",
        3,
        logits_train=victim.predict(x, verbose=0).astype("float64"),
        logits_test=victim.predict(other_x, verbose=0).astype("float64"),
        labels_train=y,
        labels_test=other_y,
    )
    ppv = report["threshold"].positive_predictive_value
    assert ppv == pytest.approx(expected.get_ppv(), abs=1e-6)


def test_own_attacks_leave_small_slices_out(victim, samples):
    (x, _), nonmembers = samples
    learned = victim.predict(x, verbose=0).argmax(axis=1)
    report = audit_membership(victim, (x, learned), nonmembers, attacks="loss")
    assert report.slices == ("all", "correct")
    assert any("'incorrect' was not attacked: 0 members" in note for note in report.notes)


def test_attacks_that_ask_the_model_join_the_report(victim, samples, monkeypatch):
    asked = {}

    def attack(model, members, nonmembers, **settings):
        asked.update(settings, model=model, sizes=(len(members[0]), len(nonmembers[0])))
        return AttackScores(
            np.arange(150.0), np.arange(130.0), member_indices=np.arange(150, 300), seed=4
        )

    monkeypatch.setattr("keras_dmp.audit.attacks.network_attacks.black_box_attack", attack)
    report = audit_membership(victim, *samples, attacks=("loss", "black_box"), seed=4)
    assert asked == {
        "model": victim,
        "sizes": (300, 260),
        "from_logits": True,
        "seed": 4,
        "verbose": 0,
    }
    assert report["black_box"].num_members == 150
    assert report["black_box"].most_exposed[0][0] == 299
    assert "black_box" not in report.slice("correct")


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["black_box", "white_box", "label_only"])
def test_registered_attacks_repeat_with_the_seed(victim, samples, attack):
    first, second = (
        audit_membership(victim, *samples, attacks=attack, seed=1)[attack] for _ in range(2)
    )
    assert first == second
    assert first.auc > 0.5
    assert len(first.most_exposed) == 20


def test_every_attack_is_described_and_its_functions_load():
    for name, attack in attack_table.ATTACKS.items():
        assert attack.sees.endswith("."), name
        assert attack.sees.count(".") == 1, name
        shadow = attack.shadow
        paths = [attack.outputs, attack.cross_validated, attack.model]
        paths += [shadow.attack, shadow.leave_one_out] if shadow else []
        assert all(callable(attack_table.load(path)) for path in paths if path), name
        if attack.tf_privacy:
            by_hand_type(attack.tf_privacy)  # raises for a name that TF-Privacy does not have


def test_an_attack_is_a_row_and_its_function(victim, samples, monkeypatch):
    """A new row runs in the audit, the callback and the audit of saved outputs."""

    def doubled(outputs, labels, *, from_logits):
        return 2 * SCORES["loss"](outputs, labels, from_logits=from_logits)

    monkeypatch.setattr("keras_dmp.audit.statistics.output_scores.doubled", doubled, raising=False)
    row = attack_table.Attack(
        sees="Sees twice.", outputs="keras_dmp.audit.statistics.output_scores:doubled"
    )
    monkeypatch.setitem(attack_table.ATTACKS, "doubled", row)
    report = audit_membership(victim, *samples, attacks=("loss", "doubled"), slices=())
    assert report["doubled"].auc == report["loss"].auc
    assert "Sees twice." in report.to_html()
    audit = MembershipAudit(*samples, attacks=("doubled",))
    audit.set_model(victim)
    audit.on_train_begin()
    logs = {}
    audit.on_epoch_end(0, logs)
    assert logs["mia_auc"] == pytest.approx(report["loss"].auc, abs=1e-6)


def test_provenance_names_versions_and_says_nothing_of_the_data(victim, samples, report):
    assert report.provenance["keras"] == keras.__version__
    assert report.provenance["tensorflow"] == tf.__version__
    assert report.provenance["tensorflow-privacy"] == "0.8.10"
    assert report.provenance["engine"] == "TF-Privacy 0.8.10"
    assert report.provenance["outputs"] == "logits"
    fewer = audit_membership(victim, (samples[0][0][1:], samples[0][1][1:]), samples[1], seed=3)
    assert fewer.provenance == report.provenance


def test_a_given_seed_is_not_in_the_report(victim, samples):
    # It may be the one that drew the members.
    given, drawn = (
        audit_membership(victim, *samples, attacks="loss", slices=(), seed=seed)
        for seed in (8_675_309, None)
    )
    assert given.seed is None
    assert "8675309" not in str(given.to_dict())
    assert drawn.seed is not None


@pytest.fixture(scope="module")
def without_tf_privacy(victim, samples, tmp_path_factory):
    """Run audits in a process where TF-Privacy cannot be imported."""
    folder = tmp_path_factory.mktemp("blocked")
    victim.save(folder / "victim.keras")
    (x, y), (other_x, other_y) = samples
    np.savez(folder / "samples.npz", x=x, y=y, other_x=other_x, other_y=other_y)
    code = """
import sys, keras, numpy as np

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow_privacy":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from keras_dmp.audit import audit_membership, blind_baseline

model = keras.models.load_model("victim.keras")
data = np.load("samples.npz")
sides = (data["x"], data["y"]), (data["other_x"], data["other_y"])
audit_membership(model, *sides, seed=3).save("report.json")
settings = {"slices": ("correctness", "class"), "slice_trained_attacks": True}
audit_membership(model, *sides, seed=3, **settings).save("sliced.json")
try:
    audit_membership(model, *sides, attacks=("loss", "random_forest"))
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def assert_same_figures(ours, theirs):
    assert ours.slices == theirs.slices
    for mine, other in zip(ours.results, theirs.results, strict=True):
        assert (mine.attack, mine.slice) == (other.attack, other.slice)
        assert mine.auc == pytest.approx(other.auc, abs=1e-6)
        assert mine.advantage == pytest.approx(other.advantage, abs=1e-6)
        assert mine.tpr_at_fpr == pytest.approx(other.tpr_at_fpr, abs=1e-6)


def test_defaults_need_no_tf_privacy_and_give_its_figures(without_tf_privacy, report):
    folder, _ = without_tf_privacy
    ours = AuditReport.load(folder / "report.json")
    assert_same_figures(ours, report)
    assert ours.attacks == ("threshold", "threshold_entropy", "logistic_regression")
    assert (ours.provenance["engine"], report.provenance["engine"]) == (
        "keras_dmp",
        "TF-Privacy 0.8.10",
    )
    for written in (str(ours), ours.to_markdown(), ours.to_html()):
        assert "engine: keras_dmp" in written


def test_sliced_attacks_have_tf_privacys_figures_too(without_tf_privacy, victim, samples):
    folder, _ = without_tf_privacy
    theirs = audit_membership(
        victim, *samples, slices=("correctness", "class"), slice_trained_attacks=True, seed=3
    )
    assert_same_figures(AuditReport.load(folder / "sliced.json"), theirs)


def test_attacks_that_tf_privacy_alone_has_say_so(without_tf_privacy):
    _, message = without_tf_privacy
    assert message.startswith("'random_forest' ")
    assert "tensorflow-privacy 0.8.10" in message
    assert "'logistic_regression'" in message


def test_the_engine_names_who_ran_which(victim, samples):
    both = audit_membership(victim, *samples, attacks=("threshold", "loss"), slices=())
    assert both.provenance["engine"] == "TF-Privacy 0.8.10 (threshold), keras_dmp (loss)"


def test_names_reach_the_report(victim, samples):
    names = ("a", "b", "c", "d")
    report = audit_membership(victim, *samples, attacks="loss", name="victim", class_names=names)
    assert (report.name, report.class_names) == ("victim", names)


def test_verbose(victim, samples, capfd):
    audit_membership(victim, *samples, seed=0)
    assert capfd.readouterr() == ("", "")
    audit_membership(victim, *samples, seed=0, verbose=1)
    assert "attack" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["mlp", "random_forest"])
def test_slow_attacks(victim, samples, attack):
    small = [(x[:60], y[:60]) for x, y in samples]
    first, second = (
        audit_membership(victim, *small, attacks=attack, slices=(), seed=1) for _ in range(2)
    )
    assert first == second
    assert first[attack].num_members == 60


@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_dataset_that_shuffles_has_no_positions(victim, samples, batch_size):
    def dataset(side, **shuffle):
        found = tf.data.Dataset.from_tensor_slices(side)
        return (found.shuffle(1_000, **shuffle) if shuffle else found).batch(batch_size)

    shuffle = {"reshuffle_each_iteration": True}
    for members, has_positions in (
        (dataset(samples[0], **shuffle), False),
        (dataset(samples[0], seed=1, reshuffle_each_iteration=False), True),
        (dataset(samples[0]), True),
    ):
        report = audit_membership(
            victim, members, dataset(samples[1], **shuffle), attacks="loss", slices=(), seed=0
        )
        assert bool(report["loss"].most_exposed) is has_positions
        notes = [note for note in report.notes if "positions mean nothing" in note]
        assert bool(notes) is not has_positions


@pytest.mark.parametrize("attack", ["loss", "black_box", "white_box", "label_only"])
def test_a_stateful_model_is_refused(attack):
    layers = [
        keras.Input((3, 2), batch_size=10),
        keras.layers.LSTM(4, stateful=True),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential(layers)
    x, y = np.random.default_rng(0).normal(size=(80, 3, 2)), np.arange(80) % 3
    with pytest.raises(ValueError, match=r"Received: a model with stateful layers lstm"):
        audit_membership(model, (x[:40], y[:40]), (x[40:], y[40:]), attacks=attack)


@pytest.mark.parametrize(
    "attack",
    [
        "loss",
        "label_only",
        *(pytest.param(name, marks=pytest.mark.full) for name in ("black_box", "white_box")),
    ],
)
def test_one_output_in_a_dictionary(attack):
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3)(inputs)
    x, y = np.random.default_rng(0).normal(size=(80, 4)), np.arange(80) % 3
    found = []
    for form in (outputs, {"label": outputs}):
        model = keras.Model(inputs, form)
        sides = (x[:40], y[:40]), (x[40:], y[40:])
        found.append(audit_membership(model, *sides, attacks=attack, slices=(), seed=0))
    assert found[0] == found[1]


def test_the_comparison_is_checked_first(victim, samples, report):
    """The sides differ in nothing but membership; moving one of them voids the audit."""
    assert report.blind_baseline == blind_baseline(*samples)
    assert not report.blind_baseline.is_void
    assert (report.blind_baseline.num_members, report.blind_baseline.num_nonmembers) == (150, 130)
    (x, y), nonmembers = samples
    moved = tf.data.Dataset.from_tensor_slices((x + 2, y)).batch(32)
    void = audit_membership(victim, moved, nonmembers, attacks="loss", seed=0)
    assert void.blind_baseline == blind_baseline((x + 2, y), nonmembers)
    assert void.verdict.startswith(f"Void, as the blind baseline has {void.blind_baseline}.")
    assert (
        str(void).splitlines()[1].startswith(f"blind baseline: AUC {void.blind_baseline.auc:.3f}")
    )


def test_the_comparison_is_not_checked_on_request_or_on_few_samples(victim, samples):
    small = [(x[:39], y[:39]) for x, y in samples]
    for sides, check in ((samples, False), (small, True)):
        report = audit_membership(victim, *sides, attacks="loss", blind_baseline=check)
        assert report.blind_baseline is None
        assert str(report).splitlines()[1].startswith("blind baseline: not checked")
    with pytest.raises(ValueError, match="`blind_baseline` to be True or False"):
        audit_membership(victim, *samples, blind_baseline="no")


def test_groups_reach_the_blind_baseline(victim, samples):
    groups = np.arange(300) // 3, 1_000 + np.arange(260) // 3
    report = audit_membership(victim, *samples, attacks="loss", groups=groups)
    assert report.blind_baseline == blind_baseline(*samples, groups=groups)
    assert report.blind_baseline != blind_baseline(*samples)
    with pytest.raises(ValueError, match=r"`groups` .* the 260 nonmembers. Received: 259 groups"):
        audit_membership(victim, *samples, attacks="loss", groups=(groups[0], groups[1][1:]))
    with pytest.raises(ValueError, match="`groups` to have each group on one side"):
        audit_membership(victim, *samples, attacks="loss", groups=(groups[0], groups[1] - 1_000))


def test_records_of_an_audit_are_those_of_its_attacks(victim, samples, report, tmp_path):
    report.save_records(tmp_path / "records.csv", fpr=0.1)
    with open(tmp_path / "records.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300 + 260
    x, y = samples[0]
    log_p = keras.ops.log_softmax(victim.predict(x, verbose=0))
    losses = -np.asarray(log_p)[np.arange(300), y]
    found = np.array([float(row["score_threshold"]) for row in rows[:300]])
    # A low loss means member.
    np.testing.assert_allclose(found, -losses, atol=1e-4)
    assert {name[6:] for name in rows[0] if name.startswith("score_")} == set(report.attacks)
    union = report.unions[0]
    assert (union.num_attacks, union.num_members, union.num_nonmembers) == (3, 300, 260)
    found_any = sum(row["found_any"] == "1" for row in rows[300:])
    assert 0 < found_any <= 26


def test_records_of_a_shuffled_dataset_have_no_positions(victim, samples, tmp_path):
    shuffled = tf.data.Dataset.from_tensor_slices(samples[0]).shuffle(300).batch(50)
    found = audit_membership(victim, shuffled, samples[1], attacks=("loss", "entropy"))
    assert found.unions == ()
    with pytest.raises(ValueError, match="not of a dataset that shuffles"):
        found.save_records(tmp_path / "records.csv")

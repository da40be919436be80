import copy
import json
import logging
import re
import warnings

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dmp import DMPTrainer, audit_membership
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.callbacks import membership_audit as callbacks_module
from keras_dmp.callbacks.membership_audit import MembershipAudit

KEYS = ["mia_auc", "mia_advantage", "mia_tpr_at_fpr_1%"]
EPOCHS = 3


@pytest.fixture(scope="module")
def sides():
    """Members, some of them mislabelled, and as many nonmembers of the same distribution."""
    x, y = nets.prototypes(240, seed=5)
    y = np.where(np.arange(240) % 3 == 0, np.random.default_rng(0).integers(4, size=240), y)
    return (x[:120], y[:120]), (x[120:], y[120:])


def loss(model, x, y):
    """Cross-entropy of each sample, from logits."""
    logits = np.asarray(model(x, training=False), dtype="float64")
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]


def auc_of(model, members, nonmembers):
    low, high = loss(model, *members)[:, None], loss(model, *nonmembers)
    return np.mean(low < high) + np.mean(low == high) / 2


def compiled(model=None, *, loss=None, optimizer=None, **arguments):
    model = model or nets.classifier(seed=1)
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.5), loss or sparse, **arguments)
    return model


def train(audit, sides, model=None, callbacks=(), **arguments):
    """History of a few epochs on the members, audit first."""
    model = model or compiled()
    arguments = {"epochs": EPOCHS, "batch_size": 20, "verbose": 0, **arguments}
    listed = [audit, *callbacks] if audit else list(callbacks)
    return model.fit(*sides[0], callbacks=listed, **arguments).history


class Watch(keras.callbacks.Callback):
    """Keeps what a callback listed here sees at the end of each epoch, and calls a function."""

    def __init__(self, look=lambda model: None):
        super().__init__()
        self.look, self.seen, self.logs = look, [], []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.look(self.model))
        self.logs.append(dict(logs))


def test_figures_of_every_epoch_are_in_the_logs(sides):
    watch = Watch(lambda model: auc_of(model, *sides))
    history = train(MembershipAudit(*sides), sides, callbacks=[watch])
    assert list(history) == ["loss", *KEYS]
    np.testing.assert_allclose(history["mia_auc"], watch.seen, atol=1e-6)
    # The weights move, and the attack sees it.
    assert len(set(history["mia_auc"])) == EPOCHS
    assert [logs["mia_auc"] for logs in watch.logs] == history["mia_auc"]
    assert json.loads(json.dumps(history)) == history


def test_figures_are_audit_memberships(sides):
    model = compiled()
    attacks = ("threshold", "threshold_entropy")
    history = train(MembershipAudit(*sides, attacks=attacks), sides, model)
    report = audit_membership(model, *sides, attacks=attacks, slices=(), seed=0)
    for attack in attacks:
        result = report[attack]
        assert history[f"mia_{attack}_auc"][-1] == pytest.approx(result.auc, abs=1e-9)
        assert history[f"mia_{attack}_advantage"][-1] == pytest.approx(result.advantage, abs=1e-9)
        assert history[f"mia_{attack}_tpr_at_fpr_1%"][-1] == result.tpr_at_fpr[0.01]


def test_several_attacks_log_each_and_the_worst(sides):
    attacks = ("threshold", "threshold_entropy", "correctness")
    history = train(MembershipAudit(*sides, attacks=attacks), sides)
    for name in ("auc", "advantage", "tpr_at_fpr_1%"):
        each = [history[f"mia_{attack}_{name}"] for attack in attacks]
        assert history[f"mia_{name}"] == [max(epoch) for epoch in zip(*each, strict=True)]
    assert len(history) == 1 + 3 + 9


def test_scores_of_the_last_epoch_are_kept(sides):
    model, audit = compiled(), MembershipAudit(*sides)
    assert audit.scores_ is None
    history = train(audit, sides, model)
    scores = audit.scores_["threshold"]
    assert isinstance(scores, MembershipScores)
    np.testing.assert_allclose(scores.member_scores, -loss(model, *sides[0]), atol=1e-6)
    assert scores.auc() == history["mia_auc"][-1]


def dropout_net():
    keras.utils.set_random_seed(4)
    return keras.Sequential(
        [
            keras.Input((nets.FEATURES,)),
            layers.Dense(16, activation="tanh", activity_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(nets.CLASSES),
        ]
    )


@pytest.mark.parametrize("with_validation", [pytest.param(False, marks=pytest.mark.full), True])
def test_training_is_the_same_bit_for_bit(sides, with_validation):
    outcomes = []
    for audit in (None, MembershipAudit(*sides, batch_size=50)):
        model = compiled(dropout_net(), optimizer="adam", metrics=["accuracy"])
        keras.utils.set_random_seed(9)
        validation = {"validation_data": sides[1]} if with_validation else {}
        history = train(audit, sides, model, **validation)
        state = [nets.snapshot(model), [np.array(v) for v in model.optimizer.variables]]
        outcomes.append((state, history, np.random.random(), float(tf.random.uniform(()))))  # noqa: NPY002
    (state, history, *random), (other, other_history, *other_random) = outcomes
    for mine, theirs in zip(state, other, strict=True):
        for left, right in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(left, right)
    assert {key: other_history[key] for key in history} == history
    assert random == other_random


def test_the_model_is_as_it_was(sides):
    model = compiled(metrics=["accuracy"])
    train(None, sides, model, epochs=1)
    attributes = set(vars(model))
    train(MembershipAudit(*sides), sides, model, epochs=1)
    assert set(vars(model)) == attributes
    assert [metric.name for metric in model.metrics] == ["loss", "compile_metrics"]
    assert model.losses == []


def test_silent(sides, capfd, caplog):
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("error")
        train(MembershipAudit(*sides), sides)
    assert tuple(capfd.readouterr()) == ("", "")
    assert caplog.text == ""


def test_verbose_writes_a_line_an_audited_epoch(sides, capsys):
    history = train(MembershipAudit(*sides, every=2, verbose=1), sides, epochs=4)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert [line.split(":")[0] for line in lines] == ["Epoch 1", "Epoch 3", "Epoch 4"]
    assert f"mia_auc: {history['mia_auc'][0]:.4f}" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "audited"),
    [
        ({"epochs": 8}, [0, 3, 6, 7]),
        ({"epochs": 8, "initial_epoch": 2}, [2, 3, 6, 7]),
        ({"epochs": 2}, [0, 1]),
    ],
)
def test_skipped_epochs_repeat_the_figures(sides, arguments, audited):
    start = arguments.get("initial_epoch", 0)
    watch = Watch(lambda model: auc_of(model, *sides))
    history = train(MembershipAudit(*sides, every=3), sides, callbacks=[watch], **arguments)
    epochs = range(start, arguments["epochs"])
    latest = [max(at for at in audited if at <= epoch) for epoch in epochs]
    expected = [watch.seen[at - start] for at in latest]
    np.testing.assert_allclose(history["mia_auc"], expected, atol=1e-6)


def test_a_second_fit_starts_anew(sides):
    audit = MembershipAudit(*sides, every=100)
    for seed in (1, 2):
        model = compiled(nets.classifier(seed=seed))
        watch = Watch(lambda model: auc_of(model, *sides))
        history = train(audit, sides, model, callbacks=[watch], initial_epoch=1, epochs=3)
        np.testing.assert_allclose(history["mia_auc"], watch.seen, atol=1e-6)


def test_the_forward_pass_is_traced_once(sides):
    calls = []

    class Counting(nets.Subclassed):
        def call(self, inputs, training=None):
            calls.append(training)
            return super().call(inputs)

    class Forget(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            calls.clear()

    # Batches of 50 and of 20 share the trace.
    audit = MembershipAudit(*sides, batch_size=50)
    train(audit, sides, compiled(Counting()), callbacks=[Forget()], epochs=10)
    assert calls.count(False) == 1


def as_dataset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(200, seed=0).batch(32)


def as_pairs(x, y):
    return nets.Pairs(x, y, batch_size=32)


@pytest.mark.parametrize("form", [as_dataset, as_pairs])
def test_datasets_give_the_figures_of_arrays(sides, form):
    expected = train(MembershipAudit(*sides), sides)
    given = train(MembershipAudit(form(*sides[0]), form(*sides[1])), sides)
    for key in KEYS:
        np.testing.assert_allclose(given[key], expected[key], atol=1e-9)


def test_labels_in_any_form(sides):
    expected = train(MembershipAudit(*sides), sides)
    for form in (lambda y: y[:, None].astype("uint8"), lambda y: np.eye(4)[y]):
        given = [(x, form(y)) for x, y in sides]
        assert train(MembershipAudit(*given), sides) == expected


def test_batches_do_not_matter(sides):
    expected = train(MembershipAudit(*sides), sides)
    given = train(MembershipAudit(*sides, batch_size=7), sides)
    np.testing.assert_allclose(given["mia_auc"], expected["mia_auc"], atol=1e-4)


def test_logits_that_look_like_probabilities(sides):
    # Alone in its batch, the record of zeros has logits 0.4 and 0.6.
    (x, y), nonmembers = two_classes(sides)
    x = np.concatenate([x, np.zeros((1, nets.FEATURES), "float32")])
    members = x, np.append(y, 1)
    model = nets.classifier(2, seed=1)
    kernel, bias, head, _ = model.get_weights()
    model.set_weights([kernel, 0 * bias, head, np.array([0.4, 0.6])])
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(True))
    audit = MembershipAudit(members, nonmembers, batch_size=1)
    history = train(audit, (members, nonmembers), model, epochs=1)
    assert history["mia_auc"][0] == pytest.approx(auc_of(model, members, nonmembers), abs=1e-4)


def two_classes(sides):
    return tuple((x, y % 2) for x, y in sides)


BINARY = keras.losses.BinaryCrossentropy
MODELS = {
    "softmax": lambda: compiled(
        nets.classifier(4, "softmax", seed=1), loss="sparse_categorical_crossentropy"
    ),
    "sigmoid": lambda: compiled(nets.classifier(1, "sigmoid", seed=1), loss=BINARY()),
    "one_logit": lambda: compiled(nets.classifier(1, seed=1), loss=BINARY(from_logits=True)),
    "subclassed": lambda: compiled(nets.Subclassed()),
    "half_precision": lambda: compiled(nets.classifier(seed=1, dtype="mixed_float16")),
    "eager": lambda: compiled(run_eagerly=True),
    "jit": lambda: compiled(jit_compile=True),
    "steps": lambda: compiled(steps_per_execution=3),
}


@pytest.mark.parametrize("case", MODELS)
def test_all_kinds_of_models(sides, case):
    sides = two_classes(sides) if case in ("sigmoid", "one_logit") else sides
    model = MODELS[case]()
    history = train(MembershipAudit(*sides), sides, model)
    expected = audit_membership(model, *sides, attacks="threshold", slices=(), seed=0)["threshold"]
    assert history["mia_auc"][-1] == pytest.approx(expected.auc, abs=1e-9)
    assert history["mia_advantage"][-1] == pytest.approx(expected.advantage, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False])
def test_two_replicas(sides, inside):
    expected = train(MembershipAudit(*sides), sides, shuffle=False)
    strategy = nets.mirrored()
    with strategy.scope():
        model = compiled()
        if inside:
            history = train(MembershipAudit(*sides), sides, model, shuffle=False)
    if not inside:
        history = train(MembershipAudit(*sides), sides, model, shuffle=False)
    np.testing.assert_allclose(history["mia_auc"], expected["mia_auc"], atol=1e-3)
    assert history["mia_auc"][-1] == pytest.approx(auc_of(model, *sides), abs=1e-6)


def test_a_distillation_audits_its_student(sides, teacher, student, reference):
    audit = MembershipAudit(*sides)
    watch = Watch(lambda model: auc_of(model.student, *sides))
    trainer, history = nets.distil(
        student, reference, teacher=teacher, callbacks=[audit, watch], epochs=3
    )
    np.testing.assert_allclose(history["mia_auc"], watch.seen, atol=1e-6)
    assert set(history) == {"loss", *KEYS}
    assert audit.model is trainer
    narrow = tuple((x[:, :5], y) for x, y in sides)
    with pytest.raises(ValueError, match="Expected `members` to have shape"):
        nets.distil(student, reference, teacher=teacher, callbacks=[MembershipAudit(*narrow)])


def test_the_phases_of_dmp_are_audited_by_themselves(sides, reference):
    net = [keras.Input((nets.FEATURES,)), layers.Dense(8, "tanh"), layers.Dense(nets.CLASSES)]
    trainer = DMPTrainer(keras.Sequential(net), selector=None, seed=0)
    trainer.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = trainer.fit(
        *sides[0],
        reference=reference,
        epochs=2,
        callbacks=[MembershipAudit(*sides)],
        teacher_callbacks=[MembershipAudit(*sides)],
        verbose=0,
    ).history
    for model, prefix in ((trainer.teacher, "teacher_"), (trainer.student, "")):
        audited = history[f"{prefix}mia_auc"][-1]
        assert audited == pytest.approx(auc_of(model, *sides), abs=1e-6)


def test_a_trainer_says_what_its_student_returns(sides):
    # The values of one sigmoid unit do not tell.
    sides = two_classes(sides)
    settings = {"from_logits": False}
    reference = np.concatenate([sides[1][0], -sides[1][0]])
    _, history = nets.distil(
        nets.Subclassed(1, "sigmoid"),
        reference,
        teacher=nets.Subclassed(1, "sigmoid"),
        settings=settings,
        callbacks=[MembershipAudit(*sides)],
    )
    assert len(history["mia_auc"]) == 2


def test_early_stopping_after_the_audit(sides):
    model = compiled(optimizer=keras.optimizers.Adam(0.05))
    stop = keras.callbacks.EarlyStopping(
        "mia_auc", mode="min", patience=2, restore_best_weights=True
    )
    history = train(MembershipAudit(*sides), sides, model, callbacks=[stop], epochs=60)
    figures = history["mia_auc"]
    assert len(figures) < 60
    assert np.argmin(figures) == len(figures) - 3
    assert auc_of(model, *sides) == pytest.approx(min(figures), abs=1e-6)


def test_early_stopping_cannot_guess_the_direction(sides):
    stop = keras.callbacks.EarlyStopping("mia_auc")
    with pytest.raises(ValueError, match="Pass `mode='max'`"):
        train(MembershipAudit(*sides), sides, callbacks=[stop])


def test_early_stopping_before_the_audit_sees_nothing(sides):
    stop = keras.callbacks.EarlyStopping("mia_auc", mode="min", patience=0)
    audit = MembershipAudit(*sides)
    with pytest.warns(UserWarning, match="conditioned on metric `mia_auc` which is not available"):
        history = compiled().fit(*sides[0], epochs=5, callbacks=[stop, audit], verbose=0).history
    assert len(history["mia_auc"]) == 5


def test_checkpoints_and_tables(sides, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}-{mia_auc:.3f}-{mia_tpr_at_fpr_1%:.3f}.keras",
        monitor="mia_auc",
        mode="min",
    )
    table = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = train(MembershipAudit(*sides, every=2), sides, callbacks=[checkpoint, table])
    names = {path.name for path in tmp_path.glob("*.keras")}
    assert f"1-{history['mia_auc'][0]:.3f}-{history['mia_tpr_at_fpr_1%'][0]:.3f}.keras" in names
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    column = header.split(",").index("mia_auc")
    assert [float(row.split(",")[column]) for row in rows] == history["mia_auc"]


def test_tensorboard(sides, tmp_path):
    pytest.importorskip("tensorboard")
    board = keras.callbacks.TensorBoard(tmp_path)
    train(MembershipAudit(*sides), sides, callbacks=[board])
    (events,) = (tmp_path / "train").glob("events*")
    records = tf.data.TFRecordDataset(str(events)).as_numpy_iterator()
    values = [v for record in records for v in tf.compat.v1.Event.FromString(record).summary.value]
    assert {f"epoch_{key}" for key in KEYS} <= {value.tag for value in values}


def test_copies(sides):
    audit = MembershipAudit(*sides, every=2, prefix="attack")
    for trained in (False, True):
        if trained:
            train(audit, sides)
        twin = copy.deepcopy({"audit": audit, "again": audit})
        assert twin["audit"] is twin["again"]
        assert twin["audit"] is not audit
        assert twin["audit"].model is None
        assert twin["audit"].scores_ is None
        assert twin["audit"].get_config() == audit.get_config()
    assert train(twin["audit"], sides) == train(audit, sides)
    assert audit.scores_ is not None


def test_a_copy_shares_the_data(sides):
    dataset = tuple(as_dataset(*side) for side in sides)
    audit = copy.deepcopy(MembershipAudit(*dataset))
    assert len(train(audit, sides)["mia_auc"]) == EPOCHS


def test_config_rebuilds_it(sides):
    audit = MembershipAudit(
        *sides, attacks=("loss", "modified_entropy"), every=3, batch_size=9, prefix="p"
    )
    config = json.loads(json.dumps(audit.get_config()))
    assert config == {
        "attacks": ["loss", "modified_entropy"],
        "every": 3,
        "from_logits": None,
        "batch_size": 9,
        "prefix": "p",
        "verbose": 0,
    }
    again = MembershipAudit(*sides, **config)
    assert again.get_config() == audit.get_config()
    assert train(again, sides) == train(audit, sides)


def test_too_few_nonmembers_for_the_low_end(sides, caplog):
    few = sides[0], tuple(column[:99] for column in sides[1])
    with caplog.at_level(logging.INFO, "keras_dmp.callbacks"):
        audit = MembershipAudit(*few)
    assert "mia_tpr_at_fpr_1% is left out of the logs: it needs 100 nonmembers" in caplog.text
    assert set(train(audit, few)) == {"loss", "mia_auc", "mia_advantage"}


def test_a_model_that_diverges_has_no_figures(sides):
    model = compiled()
    weights = model.get_weights()

    class Diverge(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            model.set_weights([np.full_like(w, np.nan) for w in weights] if epoch == 1 else weights)

    audit = MembershipAudit(*sides)
    history = train(audit, sides, model, callbacks=[Diverge()])
    assert [np.isnan(history[key]).tolist() for key in KEYS] == [[False, True, False]] * 3
    assert audit.scores_ is not None


def with_shared(members, nonmembers):
    x = np.concatenate([nonmembers[0][:-2], members[0][:2]])
    return members, (x.astype("float64"), nonmembers[1])


@pytest.mark.parametrize("form", [tuple, as_dataset, as_pairs])
def test_samples_on_both_sides(sides, form):
    shared = with_shared(*sides)
    given = shared if form is tuple else [form(x.astype("float32"), y) for x, y in shared]
    message = "share no records: .* Received: 2 of 120 nonmembers that are also members"
    with pytest.raises(ValueError, match=message):
        MembershipAudit(*given)
    with pytest.raises(ValueError, match=message):
        audit_membership(nets.classifier(), *given, attacks="threshold")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"attacks": "mlp"}, ValueError, "Expected `attacks` to be among 'threshold'"),
        ({"attacks": ()}, ValueError, "at least one. Received: attacks=()"),
        ({"every": 0}, ValueError, "Expected `every` to be a whole number of at least 1"),
        ({"every": 1.5}, ValueError, "Expected `every` to be a whole number of at least 1"),
        ({"batch_size": 0}, ValueError, "Expected `batch_size` to be a whole number"),
        ({"verbose": 3}, ValueError, "Expected `verbose` to be one of 'auto', 0, 1, 2"),
        ({"prefix": ""}, ValueError, "Expected `prefix` to be a string. Received: prefix=''"),
        ({"from_logits": "yes"}, ValueError, "Expected `from_logits` to be one of True"),
        ({"members": np.ones((9, 12))}, TypeError, "Expected `members` to be a tuple (x, y)"),
        ({"members": (np.ones((9, 12)), None)}, ValueError, "Expected `members labels`"),
        ({"members": (np.ones((9, 12)), np.zeros(8, int))}, ValueError, "Received: 9 and 8"),
        ({"members": (np.ones((1, 12)), np.zeros(1, int))}, ValueError, "at least 2 samples"),
        ({"members": (np.full((9, 12), np.nan), np.zeros(9, int))}, ValueError, "to be finite"),
    ],
)
def test_bad_settings(sides, settings, error, message):
    with pytest.raises(error, match=re.escape(message)):
        MembershipAudit(**{"members": sides[0], "nonmembers": sides[1], **settings})


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (lambda x, y: tf.data.Dataset.from_tensor_slices(x).batch(9), "Received: no labels"),
        (lambda x, y: as_dataset(x, y).repeat(), "Received: an infinite dataset"),
        (lambda x, y: nets.Pairs(x), "Received: no labels"),
    ],
)
def test_bad_datasets(sides, dataset, message):
    with pytest.raises(ValueError, match=message):
        MembershipAudit(sides[0], dataset(*sides[1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :5], y), "Expected `nonmembers` to have shape"),
        (lambda x, y: (x, y + 3), "labels `nonmembers labels` to lie in 0..3, the 4 classes"),
    ],
)
@pytest.mark.parametrize("form", [lambda x, y: (x, y), as_dataset])
def test_data_that_does_not_fit_the_model(sides, change, message, form):
    steps = nets.Steps()
    audit = MembershipAudit(sides[0], form(*change(*sides[1])))
    with pytest.raises(ValueError, match=message):
        train(audit, sides, callbacks=[steps])
    assert steps.losses == []


def test_outputs_of_unknown_kind(sides):
    sides = two_classes(sides)
    model = compiled(nets.Subclassed(1, "sigmoid"), loss=lambda y, p: keras.ops.mean((y - p) ** 2))
    with pytest.raises(ValueError, match="Expected `from_logits` to be True or False"):
        train(MembershipAudit(*sides), sides, model)
    assert "mia_auc" in train(MembershipAudit(*sides, from_logits=False), sides, model)


def test_no_forward_call_sees_more_than_a_batch(sides, monkeypatch):
    sizes, forward = [], callbacks_module.ForwardPass.__call__

    def call(self, x):
        sizes.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(callbacks_module.ForwardPass, "__call__", call)
    train(MembershipAudit(*sides, batch_size=32), sides, epochs=1)
    assert max(sizes) == 32
    assert sum(sizes) == 240
    sizes.clear()
    datasets = [tf.data.Dataset.from_tensor_slices(side).batch(50) for side in sides]
    train(MembershipAudit(*datasets), sides, epochs=1)
    assert max(sizes) == 50

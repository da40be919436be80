"""Every model around a classifier against Keras' own training of the classifier.

One table: wrappers, dtype policies, forms of labels, forms of losses, added losses and weights. A
wrapper that adds nothing (no penalty, no noise) must take the steps that Keras' `fit` takes with
labels as the loss wants them, or refuse before the first step and leave all weights as they were.
"""

import functools
import itertools
import re

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dmp import DistillationTrainer, defenses

SAMPLES = 24
X, Y = nets.prototypes(SAMPLES, seed=5)
OTHER_X, OTHER_Y = nets.prototypes(SAMPLES, seed=6)


class Penalized(layers.Layer):
    """Adds the mean square of its inputs to the loss."""

    def call(self, inputs):
        # Keras itself cannot add losses of several precisions.
        inputs = keras.ops.cast(inputs, "float32")
        self.add_loss(0.3 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs


def build(head="softmax", *, added=None, policy="float32", named=False):
    """A classifier of four classes, or of two where the head is one unit."""
    units, activation = {
        "softmax": (nets.CLASSES, "softmax"),
        "logits": (nets.CLASSES, None),
        "sigmoid": (1, "sigmoid"),
        "logit": (1, None),
    }[head]
    with_policy = {"dtype": policy}
    entry = keras.Input((nets.FEATURES,))
    regularizer = keras.regularizers.L2(0.1) if added == "regularizer" else None
    hidden = layers.Dense(5, "tanh", kernel_regularizer=regularizer, **with_policy)(entry)
    if added == "add_loss":
        hidden = Penalized(**with_policy)(hidden)
    output = layers.Dense(units, activation, dtype="float32")(hidden)
    model = keras.Model(entry, {"label": output} if named else output)
    model.dtype_policy = keras.dtype_policies.get(policy)
    nets.randomize(model, 3)
    return model


def crossentropy(head, form):
    """Name, object and function of the loss for a head and a form of labels."""
    binary = head in ("sigmoid", "logit")
    name = "BinaryCrossentropy" if binary else "CategoricalCrossentropy"
    if form == "classes" and not binary:
        name = "SparseCategoricalCrossentropy"
    return getattr(keras.losses, name)(from_logits=head in ("logits", "logit"))


LOSSES = {
    "object": lambda loss: loss,
    "string": lambda loss: loss.name,
    "list": lambda loss: [loss],
    "dict": lambda loss: {"label": loss},
    "dict of string": lambda loss: {"label": loss.name},
}


def classes_of(head, y):
    return y % 2 if head in ("sigmoid", "logit") else y


LABELS = {
    "flat": lambda y, count: y,
    "column": lambda y, count: y[:, None],
    "one-hot": lambda y, count: np.eye(count)[y],
    "floats": lambda y, count: y.astype("float32"),
    "named": lambda y, count: {"label": y},
}


def wrapped(kind, classifier):
    if kind == "dp":
        return defenses.DPModel(
            classifier,
            clip_norm=float("inf"),
            noise_multiplier=0.0,
            sampling="shuffled",
            microbatch_size=8,
            seed=0,
        )
    if kind == "adversarial":
        return defenses.AdversarialModel(classifier, 0.0, attack_units=(2,), attack_steps=1)
    classes = max(2, int(keras.tree.flatten(classifier.outputs)[0].shape[-1]))
    detector = keras.Sequential([keras.Input((classes,)), layers.Dense(1)])
    return defenses.MemGuardModel(classifier, detector, budget=0.0)


def fit(kind, model, y, other_y, **arguments):
    """One epoch of one batch, so that orders do not matter."""
    extra = {"nonmembers": (OTHER_X, other_y)} if kind == "adversarial" else {}
    return model.fit(X, y, batch_size=SAMPLES, verbose=0, **extra, **arguments)


def compiled(model, loss, policy="float32"):
    model.compile(
        keras.optimizers.SGD(0.5),
        loss,
        run_eagerly=True,
        auto_scale_loss=policy == "mixed_float16",
    )
    return model


@functools.cache
def expected(head, *, added, policy, weights):
    """Weights and loss after Keras' own step, with labels in the loss's form."""
    model = build(head, added=added, policy=policy)
    compiled(model, crossentropy(head, "classes"), policy)
    y = classes_of(head, Y)
    history = model.fit(X, y, batch_size=SAMPLES, verbose=0, **WEIGHTS[weights])
    return nets.snapshot(model), history.history["loss"][0]


WEIGHTS = {
    "none": {},
    "samples": {"sample_weight": np.linspace(0.2, 3.0, SAMPLES).astype("float32")},
    "classes": {"class_weight": {0: 3.0, 1: 0.5}},
}
TABLE = {
    "kind": ("adversarial", "memguard", "dp"),
    "head": ("softmax", "logits", "sigmoid", "logit"),
    "policy": ("float32", "mixed_bfloat16", "mixed_float16"),
    "labels": tuple(LABELS),
    "loss": tuple(LOSSES),
    "added": (None, "regularizer", "add_loss"),
    "weights": tuple(WEIGHTS),
    "form": ("classes", "rows"),
    "named": (False, True),
}


def pairwise(table, seed=0):
    """Rows such that any two values of any two columns are together in one of them."""
    names, rng = list(table), np.random.default_rng(seed)
    missing = {
        ((a, va), (b, vb))
        for a, b in itertools.combinations(names, 2)
        for va in range(len(table[a]))
        for vb in range(len(table[b]))
    }

    def covered(row):
        return missing & {((a, row[a]), (b, row[b])) for a, b in itertools.combinations(names, 2)}

    rows = []
    while missing:
        drawn = [{name: int(rng.integers(len(table[name]))) for name in names} for _ in range(40)]
        (first, a), (second, b) = min(missing)
        row = max(({**row, first: a, second: b} for row in drawn), key=lambda r: len(covered(r)))
        missing -= covered(row)
        rows.append({name: table[name][row[name]] for name in names})
    return rows


def everything(table):
    names = [name for name in table if name not in ("kind", "head")]
    # All of two columns, in all of the others' pairs.
    return [
        {"kind": kind, "head": head, **row}
        for kind, head in itertools.product(table["kind"], table["head"])
        for row in pairwise({name: table[name] for name in names}, seed=1)
    ]


def refusal(kind, head, policy, loss, added, weights):
    """What is refused before the first step, and the words that name it."""
    if kind == "dp" and added == "add_loss":
        return "`add_loss`"  # in the constructor
    if "string" in loss and head in ("logits", "logit"):
        return "declares probabilities|declares from_logits=False"  # a loss name
    if kind == "dp" and weights != "none":
        return "Expected `sample_weight`|Expected `class_weight`"
    if kind == "dp" and policy == "mixed_float16":
        return "LossScaleOptimizer"
    return None


def check(row):
    kind, head, policy = row["kind"], row["head"], row["policy"]
    model = build(head, added=row["added"], policy=policy, named=row["named"])
    before = nets.snapshot(model)
    y, other = (
        LABELS[row["labels"]](classes_of(head, y), 2 if head in ("sigmoid", "logit") else 4)
        for y in (Y, OTHER_Y)
    )
    loss = LOSSES[row["loss"]](crossentropy(head, row["form"]))
    weights = WEIGHTS[row["weights"]]
    words = refusal(kind, head, policy, row["loss"], row["added"], row["weights"])
    if words:
        with pytest.raises(ValueError, match=words):
            fit(kind, compiled(wrapped(kind, model), loss, policy), y, other, **weights)
        nets.assert_same_weights(model, before, atol=0)
        return
    trainer = wrapped(kind, model)
    found = fit(kind, compiled(trainer, loss, policy), y, other, **weights).history["loss"][0]
    after, value = expected(head, added=row["added"], policy=policy, weights=row["weights"])
    atol = 1e-5 if policy == "float32" else 2e-2
    assert found == pytest.approx(value, rel=max(atol, 1e-4))
    nets.assert_same_weights(model, after, atol=atol)
    # The test is worth something only where the step was one.
    assert max(np.abs(a - b).max() for a, b in zip(after, before, strict=True)) > 5 * atol
    evaluated = trainer.evaluate(X, y, verbose=0, return_dict=True)["loss"]
    assert np.isfinite(evaluated)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_student_with_a_named_output_is_trained_and_evaluated(policy):
    """The fourth wrapper takes no labels in training, and any form of them in evaluation."""
    student, teacher = (build("logits", policy=policy, named=True) for _ in range(2))
    nets.randomize(teacher, 9)
    trainer = DistillationTrainer(student, teacher)
    trainer.compile(keras.optimizers.SGD(0.5), metrics=["accuracy"], run_eagerly=True)
    trainer.fit(X, epochs=2, batch_size=SAMPLES, verbose=0)
    losses = [
        trainer.evaluate(X, LABELS[form](Y, nets.CLASSES), verbose=0, return_dict=True)
        for form in ("flat", "column", "one-hot")
    ]
    logits = keras.tree.flatten(student.predict(X, verbose=0))[0]
    entropy = -np.log(nets.softmax(logits))[np.arange(SAMPLES), Y].mean()
    for found in losses:
        assert found["loss"] == pytest.approx(entropy, rel=2e-2 if "16" in policy else 1e-4)
        assert found["accuracy"] == pytest.approx(np.mean(logits.argmax(axis=1) == Y))


@pytest.mark.parametrize("kind", TABLE["kind"])
@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Y + 1, r"`y` to lie in 0\.\.3.*labels from \d to 4"),
        (np.eye(3)[Y % 3], r"`y` to be .*one-hot \(n, 4\).*Received: shape \(24, 3\)"),
        (np.full((SAMPLES, nets.CLASSES), 0.25), r"`y`.*Received: shape \(24, 4\), not one-hot"),
        ({"a": Y, "b": Y}, "`y` to be one array. Received: 2 arrays"),
    ],
    ids=["range", "width", "soft", "several"],
)
def test_labels_that_do_not_fit_are_refused_before_the_first_step(kind, y, message):
    model = build("logits")
    before = nets.snapshot(model)
    trainer = compiled(wrapped(kind, model), crossentropy("logits", "classes"))
    with pytest.raises(ValueError, match=message):
        fit(kind, trainer, y, OTHER_Y)
    nets.assert_same_weights(model, before, atol=0)


def dataset(x, y):
    """Batches of a dataset, the last of which is the one with bad labels or values."""
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)


OUT_OF_RANGE = np.append(Y[:-1], nets.CLASSES + 37)
BAD_DATA = {
    "range": (lambda: (X, OUT_OF_RANGE), r"`\w+ labels` to lie in 0\.\.3"),
    "negative": (lambda: (X, Y - 1), r"`\w+ labels` to lie in 0\.\.3"),
    "dataset": (lambda: dataset(X, OUT_OF_RANGE), r"`\w+ labels` to lie in 0\.\.3"),
    "PyDataset": (lambda: nets.Pairs(X, OUT_OF_RANGE, batch_size=8), r"`\w+ labels` to lie in 0"),
    "infinite": (lambda: dataset(X, Y + nets.CLASSES).repeat(), r"`\w+ labels` to lie in 0\.\.3"),
    "NaN": (lambda: (np.where(X[-1] == X, np.nan, X), Y), "to be finite"),
    "shape": (lambda: (X[:, 1:], Y), r"to have shape \(None, 12\)"),
    "length": (lambda: (X, Y[1:]), "24 and 23 samples"),
    "weights": (lambda: (X, Y, np.full(SAMPLES, np.nan)), r"`\w+ weights` to be finite"),
    "no weight": (lambda: (X, Y, np.zeros(SAMPLES)), r"`\w+ weights` to have weights above 0"),
    "no labels": (lambda: (X,), "no labels"),
}


@pytest.mark.parametrize("kind", TABLE["kind"])
@pytest.mark.parametrize("case", BAD_DATA)
def test_validation_data_that_does_not_fit_is_refused_before_the_first_step(kind, case):
    make, message = BAD_DATA[case]
    model = build("logits")
    before = nets.snapshot(model)
    trainer = compiled(wrapped(kind, model), crossentropy("logits", "classes"))
    with pytest.raises(ValueError, match=message) as caught:
        fit(kind, trainer, Y, OTHER_Y, validation_data=make(), validation_steps=1)
    assert "validation_data" in str(caught.value)
    assert not re.search(r"\[[\d. ]+\]|\b0 1 2\b", str(caught.value))
    nets.assert_same_weights(model, before, atol=0)


@pytest.mark.parametrize("kind", TABLE["kind"])
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("epochs", "3"),
        ("batch_size", 0),
        ("initial_epoch", "a"),
        ("initial_epoch", -1),
        ("validation_freq", 0),
        ("validation_freq", [1, 0]),
        ("validation_steps", -1),
        ("validation_batch_size", "a"),
        ("verbose", "loud"),
        ("validation_split", 2),
        ("steps_per_epoch", 0),
    ],
)
def test_arguments_of_fit_are_checked_before_the_first_step(kind, argument, value):
    """Keras checks some of them after an epoch, when privacy has been spent."""
    model = build("logits")
    before = nets.snapshot(model)
    trainer = compiled(wrapped(kind, model), crossentropy("logits", "classes"))
    given = {"batch_size": 8, "epochs": 1, "validation_data": (X, Y), argument: value}
    if kind == "adversarial":
        given["nonmembers"] = (OTHER_X, OTHER_Y)
    with pytest.raises((TypeError, ValueError), match=rf"Received: (x=.*)?{argument}="):
        trainer.fit(X, Y, **given)
    nets.assert_same_weights(model, before, atol=0)


@pytest.mark.parametrize("kind", ["memguard", "adversarial"])
@pytest.mark.parametrize("weight", [{"0": 2.0}, {9: 2.0}, [1.0, 2.0]])
def test_bad_weights_of_classes_are_refused(kind, weight):
    trainer = compiled(wrapped(kind, build("logits")), crossentropy("logits", "classes"))
    with pytest.raises(ValueError, match=r"`class_weight`.*Received: class_weight="):
        fit(kind, trainer, Y, OTHER_Y, class_weight=weight)


def test_weights_of_some_classes_times_weights_of_samples():
    """Also where a part of the samples validates, which keeps its own weights."""
    weights = np.linspace(0.2, 3.0, SAMPLES).astype("float32")
    trained = SAMPLES // 2
    both = np.where(Y == 1, 3, 1) * weights
    both[trained:] = weights[trained:]
    found = []
    for given in ({"sample_weight": both}, {"sample_weight": weights, "class_weight": {1: 3.0}}):
        trainer = compiled(wrapped("memguard", build("logits")), crossentropy("logits", "classes"))
        settings = {"batch_size": SAMPLES, "shuffle": False, "validation_split": 0.5, "verbose": 0}
        found.append(trainer.fit(X, Y, **settings, **given).history)
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("nonmembers", [None, X, (X, Y, Y)])
def test_nonmembers_of_another_form_are_refused(nonmembers):
    trainer = compiled(wrapped("adversarial", build("logits")), crossentropy("logits", "classes"))
    with pytest.raises(TypeError, match="`nonmembers`"):
        trainer.fit(X, Y, nonmembers=nonmembers)


def test_members_among_the_nonmembers_are_refused():
    trainer = compiled(wrapped("adversarial", build("logits")), crossentropy("logits", "classes"))
    nonmembers = (np.concatenate([OTHER_X, X[:3]]), np.concatenate([OTHER_Y, Y[:3]]))
    with pytest.raises(ValueError, match=r"`nonmembers`.*Received: 3 of"):
        trainer.fit(X, Y, nonmembers=nonmembers)


@pytest.mark.parametrize("kind", ["memguard", "adversarial"])
def test_samples_without_any_weight_are_refused(kind):
    trainer = compiled(wrapped(kind, build("logits")), crossentropy("logits", "classes"))
    with pytest.raises(ValueError, match=r"`sample_weight`.* to have weights above 0"):
        fit(kind, trainer, Y, OTHER_Y, sample_weight=np.zeros(SAMPLES))


@pytest.mark.parametrize("case", ["dataset", "PyDataset", "infinite"])
def test_a_dataset_is_trained_on_only_if_its_labels_fit(case):
    make, message = BAD_DATA[case]
    model = build("logits")
    before = nets.snapshot(model)
    trainer = compiled(wrapped("memguard", model), crossentropy("logits", "classes"))
    with pytest.raises(ValueError, match=message.replace(r"\w+ labels", "y")):
        trainer.fit(make(), steps_per_epoch=2, verbose=0)
    nets.assert_same_weights(model, before, atol=0)


@pytest.mark.parametrize("kind", TABLE["kind"])
@pytest.mark.parametrize("form", ["classes", pytest.param("rows", marks=pytest.mark.full)])
def test_validation_labels_of_every_form_give_the_loss_of_keras(kind, form):
    loss = crossentropy("softmax", form)
    expected = -np.log(compiled(build(), loss).predict(X, verbose=0))[np.arange(SAMPLES), Y].mean()
    given = {
        "flat": (X, Y),
        "column": (X, Y[:, None]),
        "one-hot": (X, np.eye(nets.CLASSES)[Y]),
        "named": (X, {"label": Y}),
        "dataset": dataset(X, Y),
        "weighted": (X, Y, np.ones(SAMPLES)),
    }
    for name, data in given.items():
        trainer = compiled(wrapped(kind, build()), loss)
        trainer.optimizer.learning_rate = 0.0
        history = fit(kind, trainer, Y, OTHER_Y, validation_data=data).history
        assert history["val_loss"] == [pytest.approx(expected, rel=1e-4)], name


@pytest.mark.parametrize("kind", TABLE["kind"])
def test_soft_validation_labels_go_to_losses_that_take_them(kind):
    soft = 0.9 * np.eye(nets.CLASSES, dtype="float32")[Y] + 0.025
    loss = crossentropy("softmax", "rows")
    trainer = compiled(wrapped(kind, build()), loss)
    trainer.optimizer.learning_rate = 0.0
    history = fit(kind, trainer, Y, OTHER_Y, validation_data=(X, soft)).history
    expected = -(soft * np.log(build().predict(X, verbose=0))).sum(axis=1).mean()
    assert history["val_loss"] == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.parametrize("form", ["classes", "rows"])
@pytest.mark.parametrize("step", ["train_on_batch", "test_on_batch", "evaluate"])
def test_no_step_prints_labels_out_of_range(step, form):
    """Also where nothing was checked before, such as in steps of the user's own."""
    trainer = compiled(wrapped("memguard", build("logits")), crossentropy("logits", form))
    arguments = {"verbose": 0} if step == "evaluate" else {}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"`y` to lie in 0\.\.3") as caught:
        getattr(trainer, step)(X, OUT_OF_RANGE, **arguments)
    assert "41" not in str(caught.value).replace("tests", "")


METRICS = {"metrics": {"label": "accuracy"}, "weighted_metrics": ["acc"]}


def with_one_unit(head, is_built):
    """A classifier whose units are known before its first call, or not."""
    if is_built:
        return build(head)
    return nets.Subclassed(1, "sigmoid" if head == "sigmoid" else None)


@pytest.mark.parametrize(
    ("kind", "is_built"),
    [
        *((kind, True) for kind in TABLE["kind"]),
        pytest.param("adversarial", False, marks=pytest.mark.full),
        pytest.param("dp", False, marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize("head", ["logit", pytest.param("sigmoid", marks=pytest.mark.full)])
def test_accuracy_of_one_unit_is_that_of_the_classes(kind, is_built, head):
    keras.utils.set_random_seed(4)
    y = Y % 2
    model = with_one_unit(head, is_built)
    trainer = wrapped(kind, model)
    loss = crossentropy(head, "classes")
    trainer.compile(keras.optimizers.SGD(0.0), loss, **METRICS)
    extra = {"nonmembers": (OTHER_X, OTHER_Y % 2)} if kind == "adversarial" else {}
    history = trainer.fit(X, y, batch_size=SAMPLES, verbose=0, validation_data=(X, y), **extra)
    outputs = model.predict(X, verbose=0)[:, 0]
    expected = np.mean((outputs > (0.0 if head == "logit" else 0.5)) == y)
    assert expected != np.mean((outputs > (0.5 if head == "logit" else 0.0)) == y)
    for name in ("accuracy", "acc", "val_accuracy", "val_acc"):
        assert history.history[name] == [pytest.approx(expected)], name


def test_accuracy_of_a_student_that_was_not_built():
    keras.utils.set_random_seed(4)
    student = nets.Subclassed(1)
    trainer = DistillationTrainer(student, build("logit"))
    trainer.compile(keras.optimizers.SGD(0.0), metrics=["accuracy"])
    history = trainer.fit(X, verbose=0, validation_data=(X, Y % 2)).history
    outputs = student.predict(X, verbose=0)[:, 0]
    expected = np.mean((outputs > 0) == Y % 2)
    assert expected != np.mean((outputs > 0.5) == Y % 2)
    assert history["val_accuracy"] == [pytest.approx(expected)]


@pytest.mark.parametrize("kind", TABLE["kind"])
def test_losses_and_metrics_of_several_outputs_are_refused(kind):
    loss = crossentropy("logits", "classes")
    with pytest.raises(ValueError, match="`loss` to have one entry"):
        compiled(wrapped(kind, build("logits")), [loss, loss])
    with pytest.raises(ValueError, match="`metrics` to be a list"):
        wrapped(kind, build("logits")).compile("sgd", loss, metrics={"a": "mse", "b": "mse"})


@pytest.mark.parametrize("kind", ["memguard", "adversarial", "dp"])
def test_nothing_is_trained_that_was_not_compiled(kind):
    with pytest.raises(ValueError, match="call `compile` before `fit`"):
        fit(kind, wrapped(kind, build("logits")), Y, OTHER_Y)


@pytest.mark.parametrize("kind", ["memguard", "adversarial"])
def test_outputs_are_found_out_and_contradictions_refused(kind):
    of = {
        "memguard": lambda net, **k: defenses.MemGuardModel(net, detector(), budget=0.0, **k),
        "adversarial": defenses.AdversarialModel,
    }[kind]
    for head, from_logits in (("softmax", False), ("logits", True)):
        trainer = of(build(head))
        compiled(trainer, crossentropy(head, "classes"))
        fit(kind, trainer, Y, OTHER_Y)
        assert trainer.from_logits is from_logits
        assert trainer.get_config()["from_logits"] is from_logits
        with pytest.raises(ValueError, match=f"Received: from_logits={not from_logits}"):
            compiled(of(build(head), from_logits=not from_logits), crossentropy(head, "classes"))


def test_soft_labels_go_to_losses_that_take_them():
    soft = 0.9 * np.eye(nets.CLASSES, dtype="float32")[Y] + 0.025
    guarded, plain = build("softmax"), build("softmax")
    for model in (wrapped("memguard", guarded), plain):
        compiled(model, keras.losses.CategoricalCrossentropy()).fit(
            X, soft, batch_size=SAMPLES, verbose=0
        )
    nets.assert_same_weights(guarded, nets.snapshot(plain), atol=1e-6)


def detector():
    return keras.Sequential([keras.Input((nets.CLASSES,)), layers.Dense(1)])


def name(row):
    return "-".join(str(value) for value in row.values())


# DP-SGD refuses so much else that chance leaves these out.
PLAIN = {"kind": "dp", "policy": "float32", "labels": "flat", "loss": "object", "weights": "none"}
PRIVATE = [
    {**PLAIN, "head": head, "added": added, "form": "classes", "named": named}
    for head, added, named in (("logits", "regularizer", True), ("sigmoid", "add_loss", False))
]


@pytest.mark.parametrize("row", [*PRIVATE, *pairwise(TABLE)], ids=name)
def test_a_wrapper_trains_as_keras_does_or_refuses(row):
    check(row)


@pytest.mark.slow
@pytest.mark.parametrize("row", everything(TABLE), ids=name)
def test_a_wrapper_trains_as_keras_does_or_refuses_everywhere(row):
    check(row)

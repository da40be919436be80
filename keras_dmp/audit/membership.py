"""Audits: how well membership inference attacks tell members from nonmembers."""

import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import keras
import numpy as np

from keras_dmp import _heads, _validate
from keras_dmp.audit import rates
from keras_dmp.audit._observations import Observations, observe
from keras_dmp.audit.report import AuditReport
from keras_dmp.audit.results import (
    ATTACKS,
    ENTIRE,
    FPRS,
    SLICES,
    TRAINED_ATTACKS,
    AttackResult,
)
from keras_dmp.audit.scores import loss_and_entropy, two_columns

# Two samples a side make an ROC curve. A trained attack splits each side in two folds, and each
# of these in three, where k-NN still needs seven neighbours.
_LEAST = 2
_LEAST_TRAINED = 20
# TF-Privacy's own limit.
_MOST_CLASS_SLICES = 1_000


def audit_membership(
    model: keras.Model,
    members: Any,
    nonmembers: Any,
    *,
    attacks: Iterable[str] = ("threshold", "threshold_entropy", "logistic_regression"),
    slices: Iterable[str] = ("correctness",),
    slice_trained_attacks: bool = False,
    from_logits: bool | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    verbose: int = 0,
) -> AuditReport:
    """Attack a classifier with TF-Privacy's membership inference attacks.

    The attacks see the outputs of the model and the true labels of `members`, on which it was
    trained, and of as many or more `nonmembers` of the same distribution, which it has not seen.
    They use no shadow models: a low figure here does not prove privacy. TF-Privacy's
    `run_attacks` does the attacking, and AUC, advantage and positive predictive value are its
    own; the loss (Yeom et al., "Privacy risk in machine learning", CSF 2018) and the modified
    entropy (Song & Mittal, USENIX Security 2021) that it thresholds are computed in float64.

    Args:
        model: A trained classifier with one output: logits, softmax or one sigmoid unit, which
            stands for two classes. It is not changed.
        members: Training samples of the model: a tuple (x, y) of arrays, or a `tf.data.Dataset`
            or `keras.utils.PyDataset` that yields such batches. `x` is what the model takes; `y`
            are integer classes of shape (n,) or (n, 1), or one-hot (n, classes). Datasets are
            read once and never held in memory; sample weights are ignored.
        nonmembers: Samples that the model was not trained on, in the same forms.
        attacks: Names of the attacks: `"threshold"` on the loss, `"threshold_entropy"`, and the
            trained `"logistic_regression"`, `"knn"`, `"mlp"` and `"random_forest"`, which see
            outputs and loss and are scored by two-fold cross-validation. The last two take
            minutes on thousands of samples.
        slices: Parts of the samples that are attacked by themselves, beside all samples:
            `"correctness"` (classified correctly or not), `"class"` (each class), or none.
            Defaults to `("correctness",)`.
        slice_trained_attacks: Boolean. Whether trained attacks run on every slice too; otherwise
            on all samples only. Defaults to `False`.
        from_logits: Whether the model returns logits. Defaults to `None`: read from its loss, its
            last activation and its outputs.
        batch_size: Samples a forward call, for arrays. Defaults to the largest that pays.
        seed: Seed of the trained attacks. Defaults to `None`: one is drawn, and the report
            names it. NumPy's global generator is left as it was.
        verbose: 0 or 1. 1 shows progress bars. Defaults to 0.

    Returns:
        An `AuditReport`.

    Raises:
        ImportError: If TF-Privacy is missing.
        TypeError: If `model`, `members` or `nonmembers` are of another type.
        ValueError: For unknown attacks or slices; samples or labels that do not fit the model,
            are not finite, too few, or on both sides; a model that is no single-label
            classifier, or whose kind of outputs is unknown or contradicts `from_logits`.

    Example:
    >>> import keras, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(80, 4)), rng.integers(3, size=80)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> report = audit_membership(model, (x[:40], y[:40]), (x[40:], y[40:]), seed=0)
    >>> 0 <= report["threshold"].auc <= 1
    True
    """
    attacks = _names(attacks, ATTACKS, "attacks")
    slices = _names(slices, SLICES, "slices")
    if not attacks:
        raise ValueError("Expected `attacks` to name at least one attack. Received: attacks=()")
    seed = _checked_seed(seed)
    _validate.boolean(slice_trained_attacks=slice_trained_attacks)
    _validate.one_of((0, 1), verbose=verbose)
    if batch_size is not None:
        _validate.integer_at_least(1, batch_size=batch_size)
    _require_model(model, from_logits, slices)
    tf_privacy = _tf_privacy()

    trained = any(attack in TRAINED_ATTACKS for attack in attacks)
    sides = observe(
        model,
        members,
        nonmembers,
        batch_size=batch_size,
        least=_LEAST_TRAINED if trained else _LEAST,
        verbose=bool(verbose),
    )
    kind = _output_kind(model, sides, from_logits)
    inputs = [_attack_inputs(tf_privacy, side, kind) for side in sides]
    outcomes = []
    bar = keras.utils.Progbar(len(attacks), verbose=int(verbose), unit_name="attack")
    for attack in attacks:
        is_trained = attack in TRAINED_ATTACKS
        outcomes += tf_privacy.run_attack(
            attack,
            *inputs,
            from_logits=kind.from_logits,
            slices=() if is_trained and not slice_trained_attacks else slices,
            least=_LEAST_TRAINED if is_trained else _LEAST,
            seed=seed,
        )
        bar.add(1)
    return _report(outcomes, inputs, kind, slices, seed)


def _names(names: Iterable[str], known: tuple[str, ...], argument: str) -> tuple[str, ...]:
    if isinstance(names, str):
        names = (names,)
    names = tuple(dict.fromkeys(names))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"Expected `{argument}` to be among {', '.join(map(repr, known))}. "
            f"Received: {argument}={names!r}"
        )
    return names


def _checked_seed(seed: int | None) -> int:
    """Seed for NumPy's global generator, which takes 32 bits."""
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    _validate.integer_at_least(0, seed=seed)
    if seed >= 2**32:
        raise ValueError(f"Expected `seed` to be below 2**32. Received: seed={seed}")
    return int(seed)


def _require_model(model: Any, from_logits: bool | None, slices: tuple[str, ...]) -> None:
    """Refuse, before anything is computed, what the model's structure already shows."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected `model` to be a keras.Model. Received: {type(model).__name__}")
    _heads.resolve_output_kind(model, "model", from_logits=from_logits, required=False)
    units = _heads.output_units(model, "model")
    if "class" in slices and units is not None and units > _MOST_CLASS_SLICES:
        raise ValueError(
            f"Expected at most {_MOST_CLASS_SLICES} classes for slices by class, TF-Privacy's "
            f"limit. Received: {units} classes"
        )


def _tf_privacy() -> ModuleType:
    return importlib.import_module("keras_dmp.audit._tf_privacy")


def _output_kind(
    model: keras.Model, sides: tuple[Observations, ...], from_logits: bool | None
) -> _heads.OutputKind:
    for side in sides:
        kind = _heads.resolve_output_kind(
            model, "model", from_logits=from_logits, outputs=side.outputs
        )
        _heads.require_outputs(side.outputs, kind, "model outputs")
    return kind


def _attack_inputs(tf_privacy: ModuleType, side: Observations, kind: _heads.OutputKind) -> Any:
    loss, entropy = loss_and_entropy(side.outputs, side.labels, from_logits=kind.from_logits)
    outputs = two_columns(side.outputs, from_logits=kind.from_logits)
    return tf_privacy.Side(outputs=outputs, labels=side.labels, loss=loss, entropy=entropy)


def _report(
    outcomes: list[Any],
    inputs: list[Any],
    kind: _heads.OutputKind,
    slices: tuple[str, ...],
    seed: int,
) -> AuditReport:
    correct = [side.outputs.argmax(axis=1) == side.labels for side in inputs]
    sizes = _slice_sizes(inputs, correct, slices)
    order = list(sizes)
    results = [_result(outcome) for outcome in outcomes]
    results.sort(key=lambda result: order.index(result.slice))
    return AuditReport(
        results=tuple(results),
        num_members=len(inputs[0].labels),
        num_nonmembers=len(inputs[1].labels),
        num_classes=kind.num_classes,
        member_accuracy=float(correct[0].mean()),
        nonmember_accuracy=float(correct[1].mean()),
        member_loss=float(inputs[0].loss.mean()),
        nonmember_loss=float(inputs[1].loss.mean()),
        seed=seed,
        notes=_notes(results, sizes),
    )


def _result(outcome: Any) -> AttackResult:
    scores = (outcome.member_scores, outcome.nonmember_scores)
    curve = rates.roc_curve(*scores)
    return AttackResult(
        attack=outcome.attack,
        slice=outcome.slice,
        num_members=curve.num_members,
        num_nonmembers=curve.num_nonmembers,
        auc=outcome.auc,
        auc_interval=rates.auc_interval(*scores),
        advantage=outcome.advantage,
        positive_predictive_value=outcome.positive_predictive_value,
        tpr_at_fpr={fpr: rates.tpr_at_fpr(curve, fpr) for fpr in FPRS},
        roc=curve.thin(),
    )


def _slice_sizes(
    inputs: list[Any], correct: list[np.ndarray], slices: tuple[str, ...]
) -> dict[str, tuple[int, int]]:
    """Members and nonmembers of every slice asked for, in the report's order."""
    labels = [side.labels for side in inputs]
    sizes = {ENTIRE: (len(labels[0]), len(labels[1]))}
    if "correctness" in slices:
        hits = [int(side.sum()) for side in correct]
        sizes["correct"] = (hits[0], hits[1])
        sizes["incorrect"] = (len(labels[0]) - hits[0], len(labels[1]) - hits[1])
    if "class" in slices:
        num_classes = 1 + max(int(side.max()) for side in labels)
        counts = [np.bincount(side, minlength=num_classes).tolist() for side in labels]
        for label, pair in enumerate(zip(*counts, strict=True)):
            if any(pair):
                sizes[f"class {label}"] = pair
    return sizes


def _notes(results: list[AttackResult], sizes: dict[str, tuple[int, int]]) -> tuple[str, ...]:
    """What is missing from the results, and why."""
    notes = []
    attacked = {result.slice for result in results}
    missing = [name for name in sizes if name not in attacked]
    for name in missing[:3]:
        members, nonmembers = sizes[name]
        notes.append(
            f"slice {name!r} was not attacked: {members} members and {nonmembers} nonmembers are "
            "too few"
        )
    if len(missing) > 3:
        notes.append(f"{len(missing) - 3} more slices were too small to be attacked")
    for fpr in FPRS:
        unresolved = {result.slice for result in results if result.tpr_at_fpr[fpr] is None}
        if unresolved:
            where = "" if ENTIRE in unresolved else f" in {len(unresolved)} of the slices"
            notes.append(
                f"TPR at {100 * fpr:g}% FPR is not resolved{where}: it needs {round(1 / fpr):,} "
                "nonmembers"
            )
    reversed_attacks = [
        result.attack
        for result in results
        if result.slice == ENTIRE and result.auc_interval and result.auc_interval[1] < 0.5
    ]
    if reversed_attacks:
        notes.append(
            f"AUC below 0.5 beyond chance for {', '.join(reversed_attacks)}: nonmembers look more "
            "like members; an attacker would reverse it"
        )
    return tuple(notes)

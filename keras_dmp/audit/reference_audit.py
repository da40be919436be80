"""The audit of the reference set: was a sample used to teach the student?"""

from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import forward, probabilities
from keras_dmp._classifier.kind import kind_of_all, num_classes, require_model
from keras_dmp._classifier.outputs import OutputKind
from keras_dmp._data import arrays
from keras_dmp._data import samples as _samples
from keras_dmp.audit import attack_table
from keras_dmp.audit.attacks import sides
from keras_dmp.audit.report.report import AuditReport, versions
from keras_dmp.audit.statistics import output_scores
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.reference.pool import reference_arrays
from keras_dmp.reference.selector import EntropyReferenceSelector

_LABELED = ("loss", "modified_entropy", "correctness", "scaled_logit")
_LEAST = 2
_CHUNK_ROWS = 16_384

_MEANING = (
    "members here are the samples of the reference; nonmembers are samples that did not teach the "
    "student"
)
_UNFAIR = (
    "the nonmembers were not selected as the reference was: where low entropy chose the "
    "reference, the figures reflect the selection and not only what was learned; pass the teacher "
    "for a fair comparison"
)
_OWNER = (
    "distillation_loss compares the student with the teacher, which no outsider has; it is an "
    "upper limit for the owner"
)


def audit_reference(
    student: keras.Model,
    reference: Any,
    nonreference: Any,
    *,
    teacher: keras.Model | None = None,
    y_true: tuple[Any, Any] | None = None,
    from_logits: bool | None = None,
    name: str | None = None,
    batch_size: int | None = None,
    verbose: int | str = 0,
) -> AuditReport:
    """Attack a distilled student: which samples were in its reference set?

    The student also exposes those who contribute reference data (Shejwalkar & Houmansadr, AAAI
    2021, Table 10). The reference has no labels, so the attacks use none: confidence, entropy, and
    the lead of the predicted class over the next, all computed from the student's outputs.

    The pitfall is the selection. Reference samples were chosen because the teacher is confident
    about them, so a student that has never seen them is also more confident about them than about
    others: an attack distinguishes them from other samples without any trace of training. With the
    `teacher`, only those samples of `nonreference` are compared that the same rule would have
    chosen: the selector's order, by class if it balances classes, or, without a selector, an
    entropy of at most the highest in the reference. The notes give the AUC of the teacher's
    entropy itself, which is 0.5 where the comparison is fair, or state that no teacher was passed.

    Args:
        student: The released student, a classifier with one output. It is not changed.
        reference: The samples that taught it: arrays, a dataset, or the
            `EntropyReferenceSelector` that chose them. Labels in a dataset are ignored.
        nonreference: Samples of the pool's distribution that neither student nor teacher has
            seen, such as a held-out part of the pool, in the same forms.
        teacher: The teacher used to select the reference. Defaults to `None`: all of
            `nonreference` is compared, and the notes warn. With it the report also has
            `"distillation_loss"`, how closely the student follows the teacher.
        y_true: True classes (of `reference`, of `nonreference`), if known. They add the
            attacks that need labels: loss, modified entropy, correctness, scaled logit.
        from_logits: Whether the models return logits. Defaults to `None`: read from their loss,
            their last activation and their outputs.
        name: Name of the model in the report.
        batch_size: Samples per forward call. Defaults to the largest that is worthwhile.
        verbose: 0, 1, 2 or `"auto"`, as in `keras.Model.predict`. Defaults to 0.

    Returns:
        An `AuditReport` whose members are the reference samples.

    Raises:
        TypeError: If `student` or `teacher` is not a model.
        ValueError: For samples or labels that do not fit the models or each other, for samples on
            both sides, if the rule would have chosen fewer than two nonreference samples, or for a
            selector that has not been fitted.

    Example:
    >>> import keras, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> def net():
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> teacher, student, pool = net(), net(), rng.normal(size=(80, 4))
    >>> selector = EntropyReferenceSelector(size=20)
    >>> _ = selector.select(teacher, pool[:40])
    >>> report = audit_reference(student, selector, pool[40:], teacher=teacher)
    >>> report.attacks
    ('confidence', 'entropy', 'predicted_margin', 'distillation_loss')
    """
    for model, argument in ((student, "student"), (teacher, "teacher")):
        if model is not None or argument == "student":
            require_model(model, argument)
            sides.require_stateless(model)
    verbose = _validate.verbosity(verbose)
    if batch_size is not None:
        _validate.integer_at_least(1, batch_size=batch_size)
    selector = reference if isinstance(reference, EntropyReferenceSelector) else None
    samples = _checked_sides(student, reference, nonreference, selector)
    records = _samples.Records(student)
    padding = _samples.padding_note(*map(records.lengths, samples))
    classes = _checked_labels(y_true, samples, num_classes(student))

    predict = {"batch_size": batch_size, "verbose": bool(verbose)}
    notes = [_MEANING] if padding is None else [_MEANING, padding]
    theirs = None
    if teacher is None:
        notes.append(_UNFAIR)
    else:
        theirs = [forward.predict(teacher, x, **predict) for x in samples]
        kind = kind_of_all(teacher, "teacher", theirs, from_logits)
        kept, note = _as_selected(theirs, kind, selector)
        notes += [note, _OWNER]
        samples[1] = arrays.take(samples[1], kept)
        theirs = [_log_probabilities(side, kind) for side in (theirs[0], theirs[1][kept])]
        classes = None if classes is None else [classes[0], classes[1][kept]]

    outputs = [forward.predict(student, x, **predict) for x in samples]
    kind = kind_of_all(student, "student", outputs, from_logits)
    found = _attacks(outputs, kind, classes)
    if theirs is not None:
        own = [_log_probabilities(side, kind) for side in outputs]
        found["distillation_loss"] = MembershipScores(*map(_closeness, theirs, own))
    return AuditReport.from_scores(
        found,
        name=name,
        num_classes=kind.num_classes,
        notes=tuple(notes),
        provenance=versions("keras", "tensorflow"),
        # `_checked_sides` has compared them.
        records_differ=True,
        **_facts(found),
    )


def _checked_sides(
    student: keras.Model,
    reference: Any,
    nonreference: Any,
    selector: EntropyReferenceSelector | None,
) -> list[Any]:
    """Both sides as arrays that the student accepts and that share no record."""
    if selector is not None:
        if selector.reference is None:
            raise ValueError(
                "Expected `reference` to be a fitted selector. Received: a selector that has not "
                "been fitted; call its `fit` or `select` first"
            )
        reference = selector.reference
    _samples.require_same_columns(student, reference=reference, nonreference=nonreference)
    samples = [
        reference_arrays(x, argument, student)
        for x, argument in ((reference, "reference"), (nonreference, "nonreference"))
    ]
    _samples.require_alike(samples[1], samples[0], "nonreference", "reference", student)
    digests = [_samples.digests(x, student) for x in samples]
    shared = _samples.count_shared(digests[1], digests[0])
    if shared:
        raise ValueError(
            "Expected `reference` and `nonreference` to share no records. Received: "
            f"{shared} of {len(digests[1])} nonreference samples that are in the reference"
        )
    return samples


def _checked_labels(
    labels: Any, samples: list[Any], num_classes: int | None
) -> list[np.ndarray] | None:
    if labels is None:
        return None
    if not isinstance(labels, tuple | list) or len(labels) != 2:
        raise ValueError(
            "Expected `y_true` to be a pair: classes of `reference`, classes of `nonreference`. "
            f"Received: y_true of type {type(labels).__name__}"
        )
    checked = []
    for x, y, argument in zip(samples, labels, ("reference", "nonreference"), strict=True):
        checked.append(sides.labels(y, num_classes, argument, x=x))
    return checked


def _as_selected(
    outputs: list[np.ndarray], kind: OutputKind, selector: EntropyReferenceSelector | None
) -> tuple[np.ndarray, str]:
    """Positions of the nonreference samples that the rule would have chosen, and a note.

    Args:
        outputs: The teacher's for the reference and for all nonreference samples.
        kind: Kind of these outputs.
        selector: Selector whose rule applies; without one the rule is lowest entropy.
    """
    entropies = [probabilities.prediction_entropy(o, from_logits=kind.from_logits) for o in outputs]
    # Groups within which entropy decided: all samples, or those of one predicted class.
    groups = [np.zeros(len(side), dtype=np.int64) for side in outputs]
    if selector is not None and selector.balance_classes:
        groups = [probabilities.predicted_classes(o, from_logits=kind.from_logits) for o in outputs]
    order = "lowest" if selector is None else selector.order
    sign = {"lowest": 1, "highest": -1, "random": 0}[order]
    furthest = np.full(kind.num_classes, -np.inf)
    np.maximum.at(furthest, groups[0], sign * entropies[0])
    kept = np.flatnonzero(sign * entropies[1] <= furthest[groups[1]])
    if len(kept) < _LEAST:
        raise ValueError(
            f"Expected `nonreference` to have at least {_LEAST} samples that selection by the "
            f"teacher would have chosen. Received: {len(kept)} of {len(outputs[1])}; pass more "
            "samples of the pool's distribution"
        )
    by_selection = MembershipScores(-entropies[0], -entropies[1][kept]).auc()
    rule = {"lowest": "low", "highest": "high", "random": "any"}[order]
    return kept, (
        f"nonmembers are the {len(kept):,} of {len(outputs[1]):,} samples whose entropy under the "
        f"teacher is {rule} enough for the reference; that entropy alone distinguishes them with "
        f"an AUC of {by_selection:.3f} (0.5 where the comparison is fair)"
    )


def _attacks(
    outputs: list[np.ndarray], kind: OutputKind, classes: list[np.ndarray] | None
) -> dict[str, MembershipScores]:
    by_logits = {"from_logits": kind.from_logits}
    predicted = [probabilities.predicted_classes(side, **by_logits) for side in outputs]
    wanted = {
        "confidence": (output_scores.confidence_scores, predicted),
        "entropy": (output_scores.entropy_scores, predicted),
        "predicted_margin": (output_scores.margin_scores, predicted),
    }
    if classes is not None:
        wanted |= {
            attack: (attack_table.load(attack_table.ATTACKS[attack].outputs), classes)
            for attack in _LABELED
        }
    return {
        attack: MembershipScores(
            *(score(o, y, **by_logits) for o, y in zip(outputs, labels, strict=True))
        )
        for attack, (score, labels) in wanted.items()
    }


def _facts(found: dict[str, MembershipScores]) -> dict[str, float]:
    """Accuracy and loss of the student on both sides, if there are labels."""
    if "loss" not in found:
        return {}
    return {
        "member_accuracy": float(found["correctness"].member_scores.mean()),
        "nonmember_accuracy": float(found["correctness"].nonmember_scores.mean()),
        "member_loss": -float(found["loss"].member_scores.mean()),
        "nonmember_loss": -float(found["loss"].nonmember_scores.mean()),
    }


def _log_probabilities(outputs: np.ndarray, kind: OutputKind) -> np.ndarray:
    return probabilities.log_probabilities(outputs, from_logits=kind.from_logits)


def _closeness(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Minus KL(teacher || student) of log probabilities, (samples,), in nats."""
    return -np.sum(np.exp(teacher) * (teacher - student), axis=1)

"""Audits: how well membership inference attacks distinguish members from nonmembers."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import outputs
from keras_dmp._classifier.kind import kind_of_all, output_units, resolve_output_kind
from keras_dmp._data import samples
from keras_dmp._validate import shown
from keras_dmp.audit import attack_table
from keras_dmp.audit.attack_table import ATTACKS
from keras_dmp.audit.attacks.engines import Engines, engine_of, require_runnable
from keras_dmp.audit.attacks.observations import observe
from keras_dmp.audit.attacks.sides import has_fixed_order, require_fixed_order
from keras_dmp.audit.blind.baseline import NAMES, grouped, of_sides_or_none
from keras_dmp.audit.report.alarms import joined
from keras_dmp.audit.report.report import AuditReport, versions
from keras_dmp.audit.statistics.persons import Persons
from keras_dmp.audit.statistics.repeated_rows import require_different_sides
from keras_dmp.audit.statistics.results import (
    ENTIRE,
    PERSONS,
    SLICES,
    AttackResult,
    levels,
    notes_on,
)

_NO_POSITIONS = (
    "the most exposed members are not named: `members` is a dataset that yields its samples in "
    "another order each time it is read, so positions mean nothing; pass arrays, or a dataset "
    "that does not shuffle"
)
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
    verbose: int | str = 0,
    most_exposed: int = 20,
    blind_baseline: bool = True,
    groups: tuple[Any, Any] | None = None,
    name: str | None = None,
    class_names: Sequence[str] = (),
) -> AuditReport:
    """Attack a classifier with membership inference attacks, TF-Privacy's and this library's own.

    The attacks see the outputs of the model and the true labels of `members`, on which it was
    trained, and of at least the same number of `nonmembers` from the same distribution, which it
    has not seen. They use no shadow models: a low figure does not prove privacy. Six attacks are
    TF-Privacy's, run by its `run_attacks` where it is installed; the loss (Yeom et al., "Privacy
    risk in machine learning", CSF 2018) and the modified entropy (Song & Mittal, USENIX Security
    2021) that it thresholds are computed in float64. Where it is not installed, as on Python 3.12
    and newer, the library runs the three default attacks itself, with the same figures; the
    report's `provenance["engine"]` states which engine ran. The other attacks do not need
    TF-Privacy.

    Args:
        model: A trained classifier with one output: logits, softmax or one sigmoid unit, which
            stands for two classes. It is not changed.
        members: Training samples of the model: a tuple (x, y) of arrays, or a `tf.data.Dataset`
            or `keras.utils.PyDataset` that yields such batches. `x` is what the model takes; `y`
            are integer classes of shape (n,) or (n, 1), or one-hot (n, classes). Datasets are
            read once and are never held in memory; sample weights are ignored.
        nonmembers: Samples that the model was not trained on, in the same forms.
        attacks: Names of the attacks. TF-Privacy's: `"threshold"` on the loss,
            `"threshold_entropy"`, and the trained `"logistic_regression"`, `"knn"`, `"mlp"` and
            `"random_forest"`, which see outputs and loss and are scored by two-fold
            cross-validation; the last two take minutes on thousands of samples. Scores of one
            output each: `"loss"`, `"confidence"`, `"margin"`, `"entropy"`, `"modified_entropy"`,
            `"correctness"`, `"scaled_logit"`. Attacks that query the model again and are not
            sliced: `"black_box"`, `"white_box"` and `"label_only"`.
        slices: Parts of the samples that are attacked separately, in addition to all samples:
            `"correctness"` (classified correctly or not), `"class"` (each class), or none.
            Defaults to `("correctness",)`.
        slice_trained_attacks: Boolean. Whether trained attacks run on every slice too; otherwise
            on all samples only. Defaults to `False`.
        from_logits: Whether the model returns logits. Defaults to `None`: read from its loss, its
            last activation and its outputs.
        batch_size: Samples per forward call, for arrays. Defaults to the largest that is
            worthwhile.
        seed: Seed of the trained attacks. Defaults to `None`: one is drawn and included in
            the report. A seed that you pass is not in the report, since it may be the one that drew
            the members. NumPy's global generator is not changed.
        verbose: 0, 1, 2 or `"auto"`, as in `keras.Model.predict`. Defaults to 0.
        most_exposed: How many members the report names by position, with their privacy risk.
            Defaults to 20; 0 names none, and none are named for a dataset that shuffles,
            which is found by reading its first samples again.
        blind_baseline: Boolean. Whether to check first that members and nonmembers cannot be told
            apart without the model, see `keras_dmp.audit.blind_baseline`; a few seconds. With fewer
            than 40 samples on a side it is not checked. Defaults to `True`.
        groups: Group of each member, and of each nonmember, such as the person whose record it is,
            in the order in which the samples are read: numbers, strings or dates, with none
            missing. Pass them if the sides were split by persons. The report then has the figures
            of each attack by record and by person, whose records' scores are averaged; intervals
            draw persons, and attacks are trained on some persons and score others. Datasets
            must not shuffle. Defaults to `None`: every record is a person.
        name: Name of the model in the report. Defaults to `None`: no name.
        class_names: Names of the classes, for slices by class. Defaults to none.

    Returns:
        An `AuditReport`.

    Raises:
        ImportError: For `"knn"`, `"mlp"` and `"random_forest"`, where TF-Privacy is missing.
        TypeError: If `model`, `members` or `nonmembers` are of another type.
        ValueError: For unknown attacks or slices; samples or labels that do not fit the model,
            are not finite, too few, or on both sides, also by the model's outputs; a model that is
            not a single-label classifier, or whose kind of outputs is unknown or contradicts
            `from_logits`. For groups of another number than samples, missing ones, ones on both
            sides, or fewer than 20 on a side for trained attacks; for `"knn"`, `"mlp"` and
            `"random_forest"` with groups.

    Example:
    >>> import keras, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(80, 4)), rng.integers(3, size=80)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> report = audit_membership(model, (x[:40], y[:40]), (x[40:], y[40:]), seed=0)
    >>> 0 <= report["threshold"].auc <= 1
    True
    """
    attacks = _names(attacks, attack_table.names(by_audit=True), "attacks")
    slices = _names(slices, SLICES, "slices")
    if not attacks:
        raise ValueError("Expected `attacks` to name at least one attack. Received: attacks=()")
    # A seed that was passed may be that of the split, and the report may be published.
    stated_seed = None
    if seed is None:
        seed = stated_seed = int(np.random.SeedSequence().generate_state(1)[0])
    seed = _checked_seed(seed)
    _validate.boolean(slice_trained_attacks=slice_trained_attacks, blind_baseline=blind_baseline)
    verbose = _validate.verbosity(verbose)
    _validate.integer_at_least(0, most_exposed=most_exposed)
    if batch_size is not None:
        _validate.integer_at_least(1, batch_size=batch_size)
    _require_model(model, from_logits, slices)
    persons = None if groups is None else Persons.of(groups)
    # Before the model is called: on newer Pythons TF-Privacy is missing.
    require_runnable(attacks, persons)

    least = max(ATTACKS[attack].least for attack in attacks)
    blind = tuple(grouped(persons))
    sides = observe(
        model,
        members,
        nonmembers,
        batch_size=batch_size,
        least=least,
        verbose=bool(verbose),
        blind=blind if blind_baseline else (),
        persons=persons,
    )
    fixed = [
        has_fixed_order(data, side.digests, model)
        for data, side in zip((members, nonmembers), sides, strict=True)
    ]
    if persons is not None:
        for side_name, is_fixed in zip(NAMES, fixed, strict=True):
            require_fixed_order(is_fixed, side_name)
    observed = [side.outputs for side in sides]
    kind = kind_of_all(model, "model", observed, from_logits)
    # No record is on both sides: `observe` has compared them.
    require_different_sides(*observed, what="outputs", records_differ=True)
    has_positions = fixed[0] or not most_exposed
    if not has_positions:
        most_exposed = 0
    engines = Engines(
        model=model,
        data=(members, nonmembers),
        sides=sides,
        kind=kind,
        slices=slices,
        slice_trained_attacks=slice_trained_attacks,
        seed=seed,
        verbose=int(verbose),
        persons=persons,
    )
    results, entire = [], {}
    bar = keras.utils.Progbar(len(attacks), verbose=int(verbose), unit_name="attack")
    for attack in attacks:
        for part, scores in engines.run(attack):
            settings = {"slice": part, "most_exposed": most_exposed, "groups": persons}
            results += levels(attack, scores, **settings)
            if part == ENTIRE:
                entire[attack] = scores
        bar.add(1)
    # Without a fixed order, attacks that read the samples again saw other records at a position.
    sizes = tuple(len(side.outputs) for side in sides)
    records, unions, unmatched = joined(entire, persons, sizes) if all(fixed) else (None, (), ())
    notes = (
        samples.padding_note(*(side.lengths for side in sides)),
        None if has_positions else _NO_POSITIONS,
        None if persons is None else persons.note,
    )
    return _report(
        results,
        engines,
        tuple(note for note in notes if note is not None) + unmatched,
        blind_baseline=of_sides_or_none(*blind, any_length=True) if blind_baseline else None,
        num_classes=kind.num_classes,
        seed=stated_seed,
        name=name,
        records=records,
        unions=unions,
        class_names=tuple(class_names),
        provenance=_provenance(kind, engine_of(attacks, persons)),
    )


def _names(names: Iterable[str], known: tuple[str, ...], argument: str) -> tuple[str, ...]:
    if isinstance(names, str):
        names = (names,)
    names = _validate.distinct(argument, names)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"Expected `{argument}` to be among {', '.join(map(repr, known))}. "
            f"Received: {argument}={shown(names)}"
        )
    return names


def _checked_seed(seed: int) -> int:
    """Seed for NumPy's global generator, which takes 32 bits."""
    _validate.integer_at_least(0, seed=seed)
    if seed >= 2**32:
        raise ValueError(f"Expected `seed` to be below 2**32. Received: seed={seed}")
    return int(seed)


def _require_model(model: Any, from_logits: bool | None, slices: tuple[str, ...]) -> None:
    """Refuse, before anything is computed, models whose structure does not fit."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Expected `model` to be a keras.Model. Received: model of type {type(model).__name__}"
        )
    resolve_output_kind(model, "model", from_logits=from_logits, required=False)
    units = output_units(model, "model")
    if "class" in slices and units is not None and units > _MOST_CLASS_SLICES:
        raise ValueError(
            f"Expected at most {_MOST_CLASS_SLICES} classes for slices by class, TF-Privacy's "
            f"limit. Received: {units} classes"
        )


def _report(
    results: list[AttackResult], engines: Engines, notes: tuple[str, ...], **facts: Any
) -> AuditReport:
    views = engines.views
    sizes = {name: tuple(map(len, rows)) for name, rows in engines.rows_by_slice.items()}
    order = [ENTIRE, PERSONS, *sizes]
    results.sort(key=lambda result: order.index(result.slice))
    return AuditReport(
        results=tuple(results),
        num_members=len(views[0].labels),
        num_nonmembers=len(views[1].labels),
        member_accuracy=float(views[0].correct.mean()),
        nonmember_accuracy=float(views[1].correct.mean()),
        member_loss=float(views[0].loss.mean()),
        nonmember_loss=float(views[1].loss.mean()),
        notes=_missing_slices(results, sizes) + notes_on(results) + notes,
        **facts,
    )


def _provenance(kind: outputs.OutputKind, engine: str) -> dict[str, str]:
    """Where the figures come from. No hash of the samples: it would confirm a guess of them."""
    theirs = ("tensorflow-privacy", "scikit-learn") if engine.startswith("TF-Privacy") else ()
    return {
        **versions("tensorflow", "keras", *theirs),
        "engine": engine,
        "outputs": "logits" if kind.from_logits else "probabilities",
    }


def _missing_slices(
    results: list[AttackResult], sizes: dict[str, tuple[int, int]]
) -> tuple[str, ...]:
    """Slices that were requested but not attacked, and why."""
    attacked = {result.slice for result in results}
    missing = [name for name in sizes if name not in attacked]
    notes = [
        f"slice {name!r} was not attacked: {sizes[name][0]} members and {sizes[name][1]} "
        "nonmembers are too few"
        for name in missing[:3]
    ]
    if len(missing) > 3:
        notes.append(f"{len(missing) - 3} more slices were too small to be attacked")
    return tuple(notes)

"""The label-only attack, on models that return only classes."""

import bisect
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import forward, probabilities
from keras_dmp._classifier.kind import num_classes, output_units, resolve_output_kind
from keras_dmp._classifier.outputs import is_one_unit
from keras_dmp._data import arrays, samples
from keras_dmp.audit.attacks import perturbations
from keras_dmp.audit.attacks import sides as _sides
from keras_dmp.audit.statistics.attack_scores import AttackScores

# Share of copies that keep the model's prediction at the strength that "auto" finds. On the grocery
# baskets anything from 0.8 to 0.87 works as well, for noise and for flips; above 0.95 too few
# samples are distinguished, below 0.7 members lose their lead.
_KEPT = 0.85
_PILOT_SAMPLES, _PILOT_QUERIES = 512, 4

_logger = logging.getLogger(__name__)


def label_only_attack(
    model: keras.Model | Callable[[Any], Any],
    members: Any,
    nonmembers: Any,
    *,
    perturbation: str | Callable[[Any, np.random.Generator], Any] = "noise",
    num_queries: int = 32,
    strength: float | str = "auto",
    from_logits: bool | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    verbose: int | str = 0,
) -> AttackScores:
    """Attack a model that returns only classes, by how robustly it predicts the true ones.

    Members lie further from the decision boundary: the model predicts their class even when
    they are perturbed. Choquette-Choo, Tramer, Carlini & Papernot, "Label-only membership
    inference attacks", ICML 2021, arXiv 2007.14321: hiding the scores of a model does not hide
    its members.

    The score of a sample is 1 if the model predicts its class, plus the share of its perturbed
    copies that are predicted as this class: 0 to 2. Without perturbation this is the gap attack.

    The strength is never chosen by the attack's success: that would flatter the attack on the
    samples it is measured on. `"auto"` looks at members and nonmembers together, without knowing
    which is which, and takes the largest strength at which the model still predicts for 85 % of the
    copies the class that it predicts for the sample. All samples can therefore be scored, and an
    attack that finds nothing has AUC 0.5.

    Args:
        model: A trained classifier, of which only the most probable class is used, or any callable
            that takes samples in the form of `members` and returns classes (n,).
        members: Training samples of the model: a tuple (x, y) of arrays, or a `tf.data.Dataset`
            or `keras.utils.PyDataset` that yields such batches, read batch by batch, the first one
            twice with `"auto"`.
        nonmembers: Samples that the model was not trained on, in the same forms.
        perturbation: `"noise"` adds Gaussian noise to numbers, `"flip"` flips binary features
            at random, `"shift"` moves images by whole pixels, `"shift_and_mirror"` also turns
            half of the copies left to right, or a callable (x, rng) -> x that returns perturbed
            samples of the same shape. Defaults to `"noise"`.
        num_queries: Perturbed copies of each sample. Defaults to 32.
        strength: Standard deviation of the noise, in units of the features; probability of a
            flip; largest shift in pixels; or `"auto"`, which spends a few more queries on at
            most 1,024 samples. Defaults to `"auto"`. A callable has its own strength.
        from_logits: Whether a model with one sigmoid unit returns logits. Defaults to `None`:
            read from its loss, its last activation and its outputs.
        seed: Seed of the perturbations. Defaults to `None`: one is drawn
            and stored in the result.
        batch_size: Samples per call, for arrays. Defaults to the largest that is worthwhile.
        verbose: 0, 1, 2 or `"auto"`, as in `keras.Model.predict`. Defaults to 0.

    Returns:
        An `AttackScores` of all samples, in their order.

    Raises:
        TypeError: If `model`, `members` or `nonmembers` are of another type.
        ValueError: For samples that do not fit the model, each other or the perturbation, that
            are on both sides, or for a callable that does not return classes.

    Example:
    >>> import numpy as np
    >>> def classify(x):
    ...     return (x[:, 0] > 0).astype(int)
    >>> far, near = np.full((50, 1), 2.0), np.linspace(0.01, 0.02, 50)[:, None]
    >>> members = far + np.arange(50)[:, None], np.ones(50, int)
    >>> scores = label_only_attack(
    ...     classify, members, (near, np.ones(50, int)), strength=0.5, seed=0
    ... )
    >>> scores.auc()
    1.0
    """
    _validate.integer_at_least(1, num_queries=num_queries)
    verbose = _validate.verbosity(verbose)
    if batch_size is not None:
        _validate.integer_at_least(1, batch_size=batch_size)
    if seed is None:
        seed = np.random.SeedSequence().entropy
    _validate.integer_at_least(0, seed=seed)
    ask = _Answers(model, from_logits)
    disturb = perturbations.resolve(perturbation, strength)
    samples.require_same_columns(ask.keras_model, members=members, nonmembers=nonmembers)
    sides = [
        _sides.open_side(data, name, ask.keras_model)
        for data, name in ((members, "members"), (nonmembers, "nonmembers"))
    ]
    _require_sound(sides, ask.keras_model, disturb, batch_size)
    if disturb.is_undecided:
        chosen = _strength(disturb, ask, sides, batch_size, seed)
        _logger.info("label-only attack by %s of strength %g", disturb.name, chosen)
        disturb = dataclasses.replace(disturb, strength=chosen)

    steps = [side.num_batches(batch_size) for side in sides]
    total = None if None in steps else sum(steps) * (num_queries + 1)
    bar = keras.utils.Progbar(total, verbose=int(verbose), unit_name="query")
    scores, digests = [], []
    for place, side in enumerate(sides):
        rngs = [np.random.default_rng([seed, place, query]) for query in range(num_queries)]
        parts = list(_score(side, ask, disturb, rngs, batch_size, bar))
        scores.append(np.concatenate([score for score, _ in parts]))
        digests.append(np.concatenate([digest for _, digest in parts]))
    _sides.require_disjoint(*digests)
    samples.warn_of_padding(*(side.lengths for side in sides))
    return AttackScores(*scores, seed=seed)


class _Answers:
    """The classes that a model or a callable predicts."""

    def __init__(self, model: Any, from_logits: bool | None):
        self.keras_model = model if isinstance(model, keras.Model) else None
        if self.keras_model is None and not callable(model):
            raise TypeError(
                "Expected `model` to be a keras.Model or a callable x -> classes. Received: "
                f"model of type {type(model).__name__}"
            )
        self._from_logits = from_logits
        self._kind = None
        if self.keras_model is None:
            self._call = model
            self.num_classes = None
        else:
            resolve_output_kind(model, "model", from_logits=from_logits, required=False)
            self._forward = forward.ForwardPass(model)
            self.num_classes = num_classes(model)

    def __call__(self, x: Any) -> np.ndarray:
        """Classes of the samples, (n,) int64."""
        if self.keras_model is None:
            return _classes(self._call(x), arrays.num_samples(x))
        outputs = self._forward(x)
        output_units(self.keras_model, "model", outputs)
        if self._kind is None and is_one_unit(outputs):
            self._kind = resolve_output_kind(
                self.keras_model, "model", from_logits=self._from_logits, outputs=outputs
            )
        return probabilities.predicted_classes(
            outputs, from_logits=self._kind is not None and self._kind.from_logits
        )


def _classes(answers: Any, samples: int) -> np.ndarray:
    classes = np.asarray(answers)
    if classes.shape != (samples,) or classes.dtype.kind not in "iub":
        raise ValueError(
            f"Expected `model(x)` to return classes, {samples} whole numbers of shape "
            f"({samples},), one per sample. Received: shape {classes.shape} dtype "
            f"{classes.dtype}; for scores of classes use `.argmax(axis=1)`"
        )
    return classes.astype(np.int64)


def _score(
    side: Any,
    ask: _Answers,
    disturb: perturbations.Perturbation,
    rngs: list[np.random.Generator],
    batch_size: int | None,
    bar: keras.utils.Progbar,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores and digests of one side, batch by batch."""
    for x, y in side.batches(batch_size):
        disturb.require(x, side.name)
        labels = _sides.labels(y, ask.num_classes, side.name)
        right = ask(x) == labels
        bar.add(1)
        held = np.zeros(len(labels))
        for rng in rngs:
            held += ask(disturb(x, rng)) == labels
            bar.add(1)
        yield right + held / len(rngs), samples.digests(x, ask.keras_model)


def _strength(
    disturb: perturbations.Perturbation,
    ask: _Answers,
    sides: list[Any],
    batch_size: int | None,
    seed: int,
) -> float:
    """Largest strength of the ladder at which the model keeps enough of its predictions.

    Only predictions are compared; neither labels nor memberships are used.
    """
    pilot = []
    for side in sides:
        x, _ = next(iter(side.batches(batch_size)))
        disturb.require(x, side.name)
        pilot.append(arrays.take(x, slice(_PILOT_SAMPLES)))
    answers = [ask(x) for x in pilot]

    def kept(strength):
        trial = dataclasses.replace(disturb, strength=strength)
        same = []
        for place, (x, given) in enumerate(zip(pilot, answers, strict=True)):
            # The same draws at every strength: the share kept falls as the strength grows.
            rng = np.random.default_rng([seed, len(sides) + place])
            same += [ask(trial(x, rng)) == given for _ in range(_PILOT_QUERIES)]
        return np.concatenate(same).mean()

    ladder = disturb.ladder(pilot)
    above = bisect.bisect_left(ladder, True, key=lambda strength: kept(strength) < _KEPT)
    return ladder[max(0, above - 1)].item()


def _require_sound(
    sides: list[Any],
    model: keras.Model | None,
    disturb: perturbations.Perturbation,
    batch_size: int | None,
) -> None:
    """Refuse arrays that do not fit before the model is queried."""
    if not all(isinstance(side, _sides.ArraySide) for side in sides):
        return
    samples.require_alike(sides[1].x, sides[0].x, "nonmembers", "members", model)
    _sides.require_disjoint(sides[0].digests, sides[1].digests)
    for side in sides:
        for x, _ in side.batches(batch_size):
            disturb.require(x, side.name)

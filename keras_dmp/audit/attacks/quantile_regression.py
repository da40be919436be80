"""The quantile-regression attack: how high may a nonmember's score be? No shadow models, no Keras.

Bertran, Tang, Kearns, Morgenstern, Roth & Wu, "Scalable membership inference attacks via quantile
regression", NeurIPS 2023, arXiv 2307.03694.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import special

from keras_dmp import _validate
from keras_dmp._classifier.probabilities import log_probabilities
from keras_dmp.audit.statistics.attack_scores import AttackScores
from keras_dmp.audit.statistics.output_scores import scaled_logits
from keras_dmp.audit.statistics.persons import Persons, random_half

# Half of the nonmembers are too few for a quantile below this.
LEAST = 200
_FEWEST_GROUPS = 20
_MOST_FITTED = 5_000
_MOST_COLUMNS = 600
# The middle and a high quantile: their distance is the spread of a record's scores.
_QUANTILES = (0.5, 0.9)
# Relative to the spread of all nonmembers' scores.
_SMALLEST_SPREAD = 0.05
_OTHERS = 10
# Samples whose outputs are copied at a time.
_CHUNK = 4_096
_LOWEST_LOG = -50.0
# A class counts as much as this many nonmembers of average score.
_PRIOR_SAMPLES = 5
_SETTINGS = {
    "max_iter": 50,
    "max_leaf_nodes": 8,
    "learning_rate": 0.2,
    "max_bins": 32,
    "min_samples_leaf": 20,
    "early_stopping": False,
}


def quantile_attack(
    members: tuple[np.ndarray, np.ndarray],
    nonmembers: tuple[np.ndarray, np.ndarray],
    *,
    from_logits: bool,
    inputs: tuple[Any, Any] | None = None,
    groups: tuple[Any, Any] | None = None,
    seed: int = 0,
) -> AttackScores:
    """Compare the log odds of each sample's class with those expected of a nonmember like it.

    One half of the nonmembers, at most 5,000, fits two regressions (scikit-learn's
    `HistGradientBoostingRegressor`): the median and the 90 % quantile of the log odds of the true
    class, given the sample. A score is the distance from the median in units of the distance
    between the two, so that a threshold means about the same false-positive rate for easy and for
    hard samples. The members and the other half of the nonmembers are scored.

    Args:
        members: Tuple (outputs, labels) of the samples that the model was trained on: outputs
            (samples, units), where one unit is a sigmoid head and stands for two classes; labels
            (samples,), integers.
        nonmembers: The same for samples that it was not trained on, at least 200.
        from_logits: Boolean. Whether the outputs are logits; otherwise they are probabilities.
        inputs: Tuple of the inputs of both sides, arrays of numbers with one entry per sample, as
            in the paper. Beyond 600 columns, those that vary most with the log odds are used.
            Defaults to `None`: the probabilities of the other classes, relative to each other,
            describe the sample.
        groups: Group of each member, and of each nonmember, such as the person whose record it is;
            at least 20 groups on each side. The attack is then fitted on some persons and scores
            others: it would expect too much of persons whose other records it was fitted on.
            Defaults to `None`: every record is a person.
        seed: Integer. Draws the halves. Defaults to 0.

    Returns:
        An `AttackScores` of all members and of half of the nonmembers.

    Raises:
        ImportError: If scikit-learn is missing.
        TypeError: If outputs, labels, inputs or groups are of another type.
        ValueError: For fewer than 200 nonmembers, outputs and labels that do not fit each other, or
            inputs that are not finite numbers, one entry for each sample. For groups that do not
            fit the samples, or are fewer than 20 on a side.

    Example:
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(4000, 1)), np.zeros(4000, np.int64)
    >>> is_member = np.arange(4000) < 2000
    >>> log_odds = 3 * x[:, 0] + is_member + 0.3 * rng.normal(size=4000)
    >>> outputs = np.column_stack([log_odds, np.zeros(4000)])
    >>> sides = [(outputs[side], y[side]) for side in (is_member, ~is_member)]
    >>> scores = quantile_attack(
    ...     *sides, from_logits=True, inputs=(x[is_member], x[~is_member])
    ... )
    >>> scores.num_nonmembers, scores.auc() > 0.9
    (1000, True)
    """
    _validate.integer_at_least(0, seed=seed)
    sides = [_side("members", members, from_logits), _side("nonmembers", nonmembers, from_logits)]
    mine, theirs = sides
    if len(theirs.labels) < LEAST:
        raise ValueError(
            f"Expected `nonmembers` to have at least {LEAST} samples: half of them fit the attack. "
            f"Received: {len(theirs.labels)}"
        )
    fitted, scored = _halves(len(mine.labels), len(theirs.labels), groups, seed)
    known = _described(sides, inputs)
    means = _class_means(theirs.log_odds[fitted], theirs.labels[fitted])
    ours, others = (
        np.column_stack([features, means[np.minimum(side.labels, len(means) - 1)]])
        for features, side in zip(known, sides, strict=True)
    )
    columns = _varying(others[fitted], theirs.log_odds[fitted])
    member_scores, nonmember_scores = _distances(
        (others[fitted][:, columns], theirs.log_odds[fitted]),
        (ours[:, columns], mine.log_odds),
        (others[scored][:, columns], theirs.log_odds[scored]),
    )
    return AttackScores(member_scores, nonmember_scores, nonmember_indices=scored, seed=seed)


def _halves(members: int, nonmembers: int, groups: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the nonmembers that fit the attack, and of those scored, whole persons each."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(nonmembers)
    half = nonmembers // 2
    if groups is None:
        return order[:half][:_MOST_FITTED], np.sort(order[half:])
    persons = Persons.of(groups)
    persons.require_size("members", members)
    persons.require_size("nonmembers", nonmembers)
    persons.require_groups(_FEWEST_GROUPS)
    fits = random_half(persons.nonmembers, np.zeros(nonmembers, dtype=bool), rng)
    return order[fits[order]][:_MOST_FITTED], np.flatnonzero(~fits)


class _Side(NamedTuple):
    """Outputs of one side, with the log odds of the true classes."""

    outputs: np.ndarray
    labels: np.ndarray
    log_odds: np.ndarray
    from_logits: bool


def _side(name: str, side: Any, from_logits: bool) -> _Side:
    if not isinstance(side, tuple) or len(side) != 2:
        raise TypeError(
            f"Expected `{name}` to be a tuple (outputs, labels). Received: {type(side).__name__}"
        )
    log_odds = scaled_logits(*side, from_logits=from_logits)
    return _Side(np.asarray(side[0]), np.asarray(side[1]), log_odds, from_logits)


def _described(sides: list[_Side], inputs: Any) -> list[np.ndarray]:
    """What is known of each sample besides its log odds, (samples, features) on each side."""
    if inputs is None:
        return [_other_classes(side) for side in sides]
    if not isinstance(inputs, tuple) or len(inputs) != 2:
        raise TypeError(
            "Expected `inputs` to be a tuple of the members' and the nonmembers' inputs. "
            f"Received: {type(inputs).__name__}"
        )
    found = [
        _checked_inputs(values, name, len(side.labels))
        for name, values, side in zip(("member", "nonmember"), inputs, sides, strict=True)
    ]
    if found[0].shape[1] != found[1].shape[1]:
        raise ValueError(
            "Expected `inputs` to have the same number of columns on both sides. Received: "
            f"{found[0].shape[1]} and {found[1].shape[1]}"
        )
    return found


def _checked_inputs(inputs: Any, name: str, samples: int) -> np.ndarray:
    values = np.asarray(inputs)
    if values.dtype.kind not in "biuf" or values.ndim < 1 or not np.isfinite(values).all():
        raise ValueError(
            f"Expected the {name}s' `inputs` to be finite numbers. Received: dtype "
            f"{values.dtype} of shape {values.shape}"
        )
    if len(values) != samples:
        raise ValueError(
            f"Expected `inputs` to have one entry for each {name}. Received: {len(values)} "
            f"inputs and {samples} outputs"
        )
    return values.reshape(samples, -1).astype(np.float32)


def _other_classes(side: _Side) -> np.ndarray:
    """The highest log probabilities among the other classes, relative to them, and their entropy.

    They do not depend on the probability of the true class, which the attack is about.
    """
    found = []
    for start in range(0, len(side.labels), _CHUNK):
        rows = slice(start, start + _CHUNK)
        log_p = log_probabilities(side.outputs[rows], from_logits=side.from_logits)
        classes = np.arange(log_p.shape[1])
        others = log_p[classes != side.labels[rows, None]].reshape(len(log_p), -1)
        others = others - special.logsumexp(others, axis=1, keepdims=True)
        entropy = special.entr(np.exp(others)).sum(axis=1)
        highest = -np.partition(-others, min(_OTHERS, others.shape[1]) - 1, axis=1)[:, :_OTHERS]
        highest = np.maximum(-np.sort(-highest, axis=1), _LOWEST_LOG)
        found.append(np.column_stack([highest, entropy]))
    return np.concatenate(found).astype(np.float32)


def _class_means(log_odds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of each class, drawn to that of all by a few samples; the last is of unseen classes."""
    classes = int(labels.max()) + 2
    count = np.bincount(labels, minlength=classes)
    total = np.bincount(labels, log_odds, minlength=classes)
    return (total + _PRIOR_SAMPLES * log_odds.mean()) / (count + _PRIOR_SAMPLES)


def _varying(features: np.ndarray, log_odds: np.ndarray) -> np.ndarray:
    """Positions of the features that vary most with the log odds, at most 600."""
    if features.shape[1] <= _MOST_COLUMNS:
        return np.arange(features.shape[1])
    centered = features - features.mean(axis=0)
    spread = np.maximum(np.sqrt(np.square(centered).mean(axis=0)), np.finfo(np.float32).tiny)
    strength = np.abs((log_odds - log_odds.mean()) @ centered) / spread
    return np.sort(np.argsort(-strength, kind="stable")[:_MOST_COLUMNS])


def _distances(
    fitted: tuple[np.ndarray, np.ndarray], *sides: tuple[np.ndarray, np.ndarray]
) -> list[np.ndarray]:
    """Log odds of each side relative to the median and the spread expected of nonmembers."""
    # Imported here: everything else works where scikit-learn is missing.
    try:
        import threadpoolctl
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError as error:
        raise ImportError(
            "Expected scikit-learn for the quantile-regression attack. Received: no module named "
            "sklearn; install it with `python3 -m pip install scikit-learn`, or omit the attack"
        ) from error

    features, log_odds = fitted
    # Threads that wait for each other take longer than one on a busy machine.
    with threadpoolctl.threadpool_limits(1):
        models = [
            HistGradientBoostingRegressor(
                loss="quantile", quantile=quantile, random_state=0, **_SETTINGS
            ).fit(features, log_odds)
            for quantile in _QUANTILES
        ]
        expected = [[model.predict(features) for model in models] for features, _ in sides]
    least = _SMALLEST_SPREAD * float(log_odds.std()) or 1.0
    return [
        (values - middle) / np.maximum(high - middle, least)
        for (_, values), (middle, high) in zip(sides, expected, strict=True)
    ]

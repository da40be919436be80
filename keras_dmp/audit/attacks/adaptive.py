"""The adaptive attack, with knowledge of the public pool and of how the reference was chosen."""

from typing import Any

import keras
import numpy as np
from scipy.optimize import minimize

from keras_dmp import _validate
from keras_dmp._classifier import forward, probabilities
from keras_dmp._classifier.kind import kind_of_all, require_model, resolve_output_kind
from keras_dmp._classifier.outputs import OutputKind, require_outputs
from keras_dmp._data import arrays, samples
from keras_dmp.audit.attacks import sides as _sides
from keras_dmp.audit.statistics import output_scores
from keras_dmp.audit.statistics.attack_scores import AttackScores
from keras_dmp.reference.pool import reference_arrays

_LEAST = 20
# Distances computed at a time: 32 MiB.
_CHUNK_VALUES = 1 << 23
_PENALTY = 1.0


def adaptive_attack(
    model: keras.Model,
    members: Any,
    nonmembers: Any,
    reference: Any,
    *,
    size: int | None = None,
    num_neighbors: int = 10,
    from_logits: bool | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    verbose: int | str = 0,
) -> AttackScores:
    """Attack a student with the help of its public pool.

    The adaptive attacker of Shejwalkar & Houmansadr (AAAI 2021) knows the defence: the pool of
    reference samples is public, and the samples of lowest entropy were chosen. The method here is
    this library's own, based on the difficulty calibration of Watson et al. (ICLR 2022). The
    teacher is not public, so the attacker takes the `size` samples of the pool on which the student
    itself has the lowest entropy for the reference. For each sample z the attacker sees the
    student's log odds of its label, the entropy of the student's prediction and its rank among
    those on the pool, the distance from z to its nearest neighbours in that reference, the
    student's log odds of the label of z on these neighbours, and by how much z exceeds them: the
    part explained by the neighbours is difficulty, the rest may be membership. A logistic
    regression on these and their squares is fitted to half of the members and the same number of
    nonmembers; the rest is scored.

    Compare it with the loss attack on the same samples, given by `member_indices`
    and `nonmember_indices`. The attacker trains no shadow models; those that repeat the
    whole defence may find more.

    Args:
        model: The released student, a classifier with one output: logits, softmax or one sigmoid
            unit. It is not changed.
        members: Training samples of the teacher: a tuple (x, y) of arrays, or a
            `tf.data.Dataset` or `keras.utils.PyDataset` that yields such batches.
        nonmembers: Samples that neither teacher nor student saw, in the same forms.
        reference: The public pool, without labels: arrays, or a dataset, which is held in
            memory. It shares no records with `members` and `nonmembers`.
        size: Number of pool samples that the attacker takes for the reference. Defaults to a third
            of the pool, at least `num_neighbors`.
        num_neighbors: Number of neighbours to compare with, by Euclidean distance over all
            features as passed to the model. Defaults to 10.
        from_logits: Whether the model returns logits. Defaults to `None`: read from its loss, its
            last activation and its outputs.
        seed: Seed of the halves. Defaults to `None`: one is drawn and stored in the result.
        batch_size: Samples per forward call, for arrays. Defaults to the largest that is
            worthwhile.
        verbose: 0, 1, 2 or `"auto"`, as in `keras.Model.predict`. Defaults to 0.

    Returns:
        An `AttackScores`; the scores are log odds of membership.

    Raises:
        TypeError: If `model`, `members` or `nonmembers` are of another type.
        ValueError: For samples that do not fit the model or each other, are not numbers, are
            fewer than 20 per side, or are on both sides or in the pool; for fewer reference
            samples than neighbours.

    Example:
    >>> import keras, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(80, 4)), rng.integers(3, size=80)
    >>> student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> pool = rng.normal(size=(60, 4))
    >>> result = adaptive_attack(student, (x[:40], y[:40]), (x[40:], y[40:]), pool, seed=0)
    >>> result
    AttackScores(num_members=20, num_nonmembers=20)
    """
    require_model(model, "model")
    resolve_output_kind(model, "model", from_logits=from_logits, required=False)
    _validate.integer_at_least(1, num_neighbors=num_neighbors)
    verbose = _validate.verbosity(verbose)
    for name, value in (("size", size), ("batch_size", batch_size)):
        if value is not None:
            _validate.integer_at_least(1, **{name: value})
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    _validate.integer_at_least(0, seed=seed)
    samples.require_same_columns(model, reference=reference, members=members, nonmembers=nonmembers)
    sides = [
        _sides.open_side(data, name, model)
        for data, name in ((members, "members"), (nonmembers, "nonmembers"))
    ]
    pool = reference_arrays(reference, "reference", model)
    size = _checked_size(size, num_neighbors, arrays.num_samples(pool))
    for side in sides:
        if isinstance(side, _sides.ArraySide):
            samples.require_alike(side.x, pool, side.name, "reference", model)
            samples.require_enough(len(side.labels), side.name, _LEAST)

    outputs = forward.predict(model, pool, batch_size=batch_size, verbose=bool(verbose))
    kind = kind_of_all(model, "model", [outputs], from_logits)
    attacker = _Attacker(model, kind, pool, outputs, size, num_neighbors)
    evidence, digests = zip(
        *(attacker.look_at(side, batch_size, verbose) for side in sides), strict=True
    )
    _require_apart(*digests, samples.digests(pool, model))
    return _fit_and_score(*evidence, int(seed))


class _Attacker:
    """The attacker's knowledge: the student, the pool, and the selection rule."""

    def __init__(
        self,
        model: keras.Model,
        kind: OutputKind,
        pool: Any,
        outputs: np.ndarray,
        size: int,
        num_neighbors: int,
    ):
        self._model = model
        self._kind = kind
        self._forward = forward.ForwardPass(model)
        self._records = samples.Records(model)
        self._k = num_neighbors
        entropy = probabilities.prediction_entropy(outputs, from_logits=kind.from_logits)
        guessed = np.argsort(entropy, kind="stable")[:size]
        self._entropies = np.sort(entropy)
        self._outputs = outputs[guessed]
        self._reference = _flat(arrays.take(pool, guessed), "reference")

    def look_at(
        self, side: Any, batch_size: int | None, verbose: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Evidence (samples, figures) and digests of one side, batch by batch."""
        bar = keras.utils.Progbar(
            side.num_batches(batch_size), verbose=int(verbose), unit_name="batch"
        )
        evidence, digests = [], []
        for x, y in side.batches(batch_size):
            outputs = self._forward(x)
            require_outputs(outputs, self._kind, "model outputs")
            labels = _sides.labels(y, self._kind.num_classes, side.name)
            flat = _flat(x, side.name)
            if flat.shape[1] != self._reference.shape[1]:
                raise ValueError(
                    f"Expected `{side.name}` and `reference` to have the same length, since "
                    "distances are computed: pad all data to one length. Received: samples of "
                    f"{flat.shape[1]} and {self._reference.shape[1]} features"
                )
            evidence.append(self._evidence(flat, outputs, labels))
            digests.append(self._records.digests(x))
            bar.add(1)
        samples.require_enough(sum(map(len, digests)), side.name, _LEAST)
        return np.concatenate(evidence), np.concatenate(digests)

    def _evidence(self, x: np.ndarray, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        from_logits = self._kind.from_logits
        own = output_scores.scaled_logits(outputs, labels, from_logits=from_logits)
        entropy = probabilities.prediction_entropy(outputs, from_logits=from_logits)
        distances, neighbors = nearest(x, self._reference, self._k)
        theirs = output_scores.scaled_logits(
            self._outputs[neighbors.ravel()],
            np.repeat(labels, self._k),
            from_logits=from_logits,
        )
        theirs = theirs.reshape(-1, self._k).mean(axis=1)
        columns = (
            own,
            entropy,
            np.searchsorted(self._entropies, entropy) / len(self._entropies),
            distances.mean(axis=1),
            theirs,
            own - theirs,
        )
        return np.stack(columns, axis=1)


def nearest(x: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distances to the `k` nearest rows of `others`, and their positions.

    Args:
        x: Query rows, (rows, features), float32.
        others: Rows to search, (others, features), float32, at least `k`.
        k: Number of neighbours per row; they are not sorted.

    Returns:
        Two arrays (rows, k), float32 and int64.
    """
    distances = np.empty((len(x), k), dtype=np.float32)
    positions = np.empty((len(x), k), dtype=np.int64)
    norms = np.square(others).sum(axis=1)
    rows_at_once = max(1, _CHUNK_VALUES // len(others))
    for start in range(0, len(x), rows_at_once):
        rows = slice(start, start + rows_at_once)
        # |x|^2 is the same for all neighbours of x, and added last.
        squares = norms - 2 * (x[rows] @ others.T)
        closest = np.argpartition(squares, k - 1, axis=1)[:, :k]
        own = np.square(x[rows]).sum(axis=1, keepdims=True)
        found = np.take_along_axis(squares, closest, axis=1) + own
        distances[rows] = np.sqrt(np.maximum(found, 0))
        positions[rows] = closest
    return distances, positions


def _fit_and_score(members: np.ndarray, nonmembers: np.ndarray, seed: int) -> AttackScores:
    """Fit on half of the members and the same number of nonmembers, score the rest."""
    rng = np.random.default_rng(seed)
    half = min(len(members), len(nonmembers)) // 2
    fitted, scored = [], []
    for side in (members, nonmembers):
        order = rng.permutation(len(side))
        fitted.append(side[order[:half]])
        scored.append(np.sort(order[half:]))
    log_odds = _logistic_regression(np.concatenate(fitted), np.arange(2 * half) < half)
    return AttackScores(
        log_odds(members[scored[0]]),
        log_odds(nonmembers[scored[1]]),
        member_indices=scored[0],
        nonmember_indices=scored[1],
        seed=seed,
    )


def _logistic_regression(evidence: np.ndarray, is_member: np.ndarray) -> Any:
    """Function from evidence to log odds of membership, (samples,)."""
    center, spread = evidence.mean(axis=0), evidence.std(axis=0)
    spread[spread == 0] = 1.0

    def columns(evidence):
        # Clipped: a single outlier would otherwise bend the whole curve.
        z = np.clip((evidence - center) / spread, -4, 4)
        return np.concatenate([z, z**2, np.ones((len(z), 1))], axis=1)

    design, sign = columns(evidence), np.where(is_member, 1.0, -1.0)

    def objective(weights):
        margins = sign * (design @ weights)
        penalised = np.append(weights[:-1], 0.0)
        loss = np.logaddexp(0, -margins).sum() + _PENALTY * np.square(penalised).sum() / 2
        wrong = np.exp(-np.logaddexp(0, margins))
        return loss, _PENALTY * penalised - design.T @ (sign * wrong)

    found = minimize(objective, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B")
    return lambda evidence: columns(evidence) @ found.x


def _flat(x: Any, name: str) -> np.ndarray:
    """All features of each sample in one row, (samples, features), float32."""
    leaves = keras.tree.flatten(x)
    if any(leaf.dtype.kind not in "fiub" for leaf in leaves):
        raise ValueError(
            f"Expected `{name}` to be numbers, as distances are computed. "
            f"Received: {arrays.describe(x)}"
        )
    rows = [leaf.reshape(len(leaf), -1).astype(np.float32) for leaf in leaves]
    return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)


def _checked_size(size: int | None, num_neighbors: int, samples: int) -> int:
    if num_neighbors > samples:
        raise ValueError(
            f"Expected `num_neighbors` to be at most the {samples} samples of `reference`. "
            f"Received: num_neighbors={num_neighbors}"
        )
    if size is None:
        return max(num_neighbors, samples // 3)
    if not num_neighbors <= size <= samples:
        raise ValueError(
            f"Expected `size` to be at least num_neighbors={num_neighbors} and at most the "
            f"{samples} samples of `reference`. Received: size={size}"
        )
    return size


def _require_apart(members: np.ndarray, nonmembers: np.ndarray, pool: np.ndarray) -> None:
    _sides.require_disjoint(members, nonmembers)
    for name, digests in (("members", members), ("nonmembers", nonmembers)):
        shared = samples.count_shared(digests, pool)
        if shared:
            raise ValueError(
                f"Expected `reference` and `{name}` to share no records: the student was trained "
                f"on such a record. Received: {shared} of {len(digests)} {name} that are in "
                "`reference`"
            )

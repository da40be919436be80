"""Selection of the reference samples by the entropy of the teacher's predictions."""

import dataclasses
import logging
import warnings
from typing import Any

import keras
import numpy as np

from keras_dmp import _arrays, _forward, _heads, _numerics, _validate
from keras_dmp._reference_data import reference_arrays

_ORDERS = ("lowest", "highest", "random")
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceSummary:
    """What a selection chose, without the samples.

    Attributes:
        size: Samples chosen.
        pool_size: Samples to choose from.
        mean_entropy: Mean entropy of the teacher's predictions on the chosen samples, in nats.
        pool_mean_entropy: The same over the whole pool.
        class_counts: Chosen samples by the class that the teacher predicts.
    """

    size: int
    pool_size: int
    mean_entropy: float
    pool_mean_entropy: float
    class_counts: tuple[int, ...]

    def __str__(self) -> str:
        """Return one line for people."""
        used = sum(count > 0 for count in self.class_counts)
        return (
            f"{self.size} of {self.pool_size} reference samples, mean entropy "
            f"{self.mean_entropy:.3f} nats (pool {self.pool_mean_entropy:.3f}), "
            f"{used} of {len(self.class_counts)} classes"
        )


class EntropyReferenceSelector(keras.callbacks.Callback):
    """Chooses the reference samples on which the teacher's predictions have the lowest entropy.

    Second phase of DMP (Shejwalkar & Houmansadr, AAAI 2021): a student distilled on samples
    with low prediction entropy H(p) = -sum p log p betrays less about the teacher's members.
    The entropy is that of the teacher's prediction at temperature 1, in nats, whatever the
    temperature of the distillation.

    Three ways to use it:

    - `DistillationTrainer.fit(x_pool, callbacks=[selector])` narrows the reference to the
      chosen samples before the first step; `reference_entropy` and `reference_size` are in
      every epoch's logs.
    - `teacher.fit(x, y, callbacks=[selector])` with a `pool` chooses when training ends; both
      are in the logs of `on_train_end`.
    - `selector.select(teacher, pool)` chooses at once.

    Args:
        size: Number of samples to choose.
        fraction: Share of the pool to choose, above 0 and at most 1; exclusive with `size`.
        max_entropy: Only samples with at most this entropy, in nats, are candidates. With
            `size` or `fraction` these are upper limits then.
        order: `"lowest"`, or one of the controls `"highest"` and `"random"`. Defaults to
            `"lowest"`.
        balance_classes: Boolean. Whether the chosen samples keep the pool's mix of predicted
            classes; entropy then ranks within each class. Defaults to `False`.
        pool: Reference samples to choose from when the callback is given to a classifier's
            own `fit`: arrays, `tf.data.Dataset` or `PyDataset`; labels in it are ignored.
        seed: Seed of `order="random"`. Defaults to 0.
        from_logits: Whether the teacher returns logits. Defaults to `None`: read from its
            loss, its last activation or its values.
        batch_size: Samples a forward call of the teacher. Defaults to the largest that pays.

    Attributes:
        indices_: Positions of the chosen samples in the pool, ascending, (size,) int64.
        entropy_: Their prediction entropies in nats, (size,) float64.
        pool_entropy_: Entropies of the whole pool, (pool_size,) float64.
        reference: The chosen samples.
        summary: A `ReferenceSummary`.

    Raises:
        ValueError: For a missing or contradictory criterion, and, when it selects, for a size
            above the pool's or a `max_entropy` that no sample meets.

    Example:
    >>> import keras, numpy as np
    >>> teacher = keras.Sequential([keras.Input((3,)), keras.layers.Activation("softmax")])
    >>> selector = EntropyReferenceSelector(size=3)
    >>> certain, torn = np.eye(3), np.zeros((4, 3))
    >>> selector.select(teacher, np.concatenate([torn, certain])).shape
    (3, 3)
    >>> selector.indices_.tolist(), selector.summary.class_counts
    ([4, 5, 6], (1, 1, 1))
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        max_entropy: float | None = None,
        order: str = "lowest",
        balance_classes: bool = False,
        pool: Any = None,
        *,
        seed: int = 0,
        from_logits: bool | None = None,
        batch_size: int | None = None,
    ):
        super().__init__()
        if size is not None and fraction is not None:
            raise ValueError(
                "Expected at most one of `size` and `fraction`. "
                f"Received: size={size!r}, fraction={fraction!r}"
            )
        if size is None and fraction is None and max_entropy is None:
            raise ValueError(
                "Expected one of `size`, `fraction` and `max_entropy`. Received: none of them"
            )
        if size is not None:
            _validate.integer_at_least(1, size=size)
        if fraction is not None:
            _validate.fraction(fraction=fraction)
        if max_entropy is not None:
            _validate.non_negative(max_entropy=max_entropy)
        if batch_size is not None:
            _validate.integer_at_least(1, batch_size=batch_size)
        _validate.integer_at_least(0, seed=seed)
        _validate.one_of(_ORDERS, order=order)
        _validate.boolean(balance_classes=balance_classes)
        self.size = size
        self.fraction = fraction
        self.max_entropy = max_entropy
        self.order = order
        self.balance_classes = balance_classes
        self.pool = pool
        self.seed = seed
        self.from_logits = from_logits
        self.batch_size = batch_size
        # Whether the `fit` about to begin, and the one that runs, is a distillation.
        self._narrows_fit = self._narrowed = False
        self._pool_samples = None
        self._forget()

    def select(self, teacher: keras.Model, pool: Any = None, verbose: bool = False) -> Any:
        """Choose from `pool` by the teacher's predictions, one pass over it.

        Args:
            teacher: A trained classifier; it is not changed.
            pool: Arrays, `tf.data.Dataset` or `PyDataset`. Defaults to the `pool` of the
                constructor.
            verbose: Whether to show a progress bar.

        Returns:
            The chosen samples, in the pool's order.
        """
        pool = self.pool if pool is None else pool
        if pool is None:
            raise ValueError("Expected a `pool` to select from. Received: pool=None")
        x = reference_arrays(pool, "pool", teacher)
        self.require_pool_size(_arrays.num_samples(x))
        outputs = _forward.predict(teacher, x, batch_size=self.batch_size, verbose=verbose)
        kind = _heads.resolve_output_kind(
            teacher, "teacher", from_logits=self.from_logits, outputs=outputs
        )
        return self.select_by_outputs(outputs, x, kind)

    def select_by_outputs(self, outputs: np.ndarray, x: Any, kind: _heads.OutputKind) -> Any:
        """Choose from `x` by outputs (samples, units) that the teacher has given for it."""
        self._forget()
        samples = len(outputs)
        self.require_pool_size(samples)
        _heads.require_outputs(outputs, kind, "teacher outputs")
        entropy = _numerics.prediction_entropy(outputs, from_logits=kind.from_logits)
        classes = _numerics.predicted_classes(outputs, from_logits=kind.from_logits)
        candidates = np.arange(samples)
        if self.max_entropy is not None:
            candidates = np.flatnonzero(entropy <= self.max_entropy)
            if not len(candidates):
                raise ValueError(
                    "Expected `max_entropy` to admit at least one sample; the lowest entropy in "
                    f"the pool is {entropy.min():.4g} nats. "
                    f"Received: max_entropy={self.max_entropy!r}"
                )
        size = min(self._wanted(samples), len(candidates))
        ranked = candidates[self._rank(entropy[candidates])]
        if self.balance_classes:
            chosen = _balanced_head(ranked, classes[ranked], size)
        else:
            chosen = ranked[:size]
        self._remember(np.sort(chosen), entropy, classes, x, kind.num_classes)
        return self.reference

    def require_pool_size(self, samples: int) -> None:
        """Raise ValueError if more samples are wanted than the pool has."""
        if self.size is not None and self.size > samples:
            raise ValueError(
                f"Expected `size` to be at most the {samples} samples of the pool. "
                f"Received: size={self.size}"
            )

    def require_narrows(self, samples: int) -> None:
        """Raise ValueError if this selector cannot narrow a reference of so many samples."""
        if self.pool is not None:
            raise ValueError(
                "Expected the selector to have no `pool` of its own: the reference given to "
                "`fit` is the pool. Received: a selector with a `pool`"
            )
        self.require_pool_size(samples)

    def narrow_fit(self, outputs: np.ndarray, x: Any, kind: _heads.OutputKind) -> np.ndarray:
        """Choose for the `fit` about to run; `DistillationTrainer` calls this.

        Returns:
            The positions of the chosen samples.
        """
        self.require_narrows(len(outputs))
        self.select_by_outputs(outputs, x, kind)
        self._narrows_fit = True
        return self.indices_

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Refuse to run where nothing could be selected."""
        del logs
        # Settled here: a `fit` that breaks off never reaches `on_train_end`.
        self._narrowed, self._narrows_fit = self._narrows_fit, False
        if not self._narrowed and self.pool is None:
            raise ValueError(
                "Expected the selector to have a `pool` when it is given to a classifier's own "
                "`fit`. Received: pool=None"
            )
        if not self._narrowed:
            # Read now, so that what is wrong with it does not come after the training.
            self._pool_samples = reference_arrays(self.pool, "pool", self.model)
            self.require_pool_size(_arrays.num_samples(self._pool_samples))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Put `reference_entropy` and `reference_size` into the logs of a distillation."""
        del epoch
        if self._narrowed:
            self._log(logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Select from `pool` with the classifier that has just been trained."""
        if not self._narrowed:
            self.select(self.model, self._pool_samples)
            self._pool_samples = None
        self._log(logs)

    def _log(self, logs: dict | None) -> None:
        if logs is not None:
            logs["reference_entropy"] = self.summary.mean_entropy
            logs["reference_size"] = self.summary.size

    def _wanted(self, samples: int) -> int:
        if self.fraction is not None:
            return max(1, round(self.fraction * samples))
        return samples if self.size is None else self.size

    def _rank(self, entropy: np.ndarray) -> np.ndarray:
        """Positions from most to least wanted; ties go to the earlier sample."""
        if self.order == "random":
            return np.random.default_rng(self.seed).permutation(len(entropy))
        return np.argsort(entropy if self.order == "lowest" else -entropy, kind="stable")

    def _forget(self) -> None:
        self.indices_ = self.entropy_ = self.pool_entropy_ = None
        self.reference = self.summary = None

    def _remember(self, chosen, entropy, classes, x, num_classes) -> None:
        counts = np.bincount(classes[chosen], minlength=num_classes)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            warnings.warn(
                f"No chosen reference sample is predicted as class {_listed(empty)}: the student "
                "cannot learn what it never sees. Choose more samples, or set balance_classes=True",
                stacklevel=4,
            )
        self.indices_ = chosen
        self.entropy_ = entropy[chosen]
        self.pool_entropy_ = entropy
        self.reference = _arrays.take(x, chosen)
        self.summary = ReferenceSummary(
            size=len(chosen),
            pool_size=len(entropy),
            mean_entropy=float(entropy[chosen].mean()),
            pool_mean_entropy=float(entropy.mean()),
            class_counts=tuple(int(count) for count in counts),
        )
        _logger.info("selected %s", self.summary)


def selector_among(
    callbacks: list[keras.callbacks.Callback],
) -> EntropyReferenceSelector | None:
    """The one selector among callbacks, or None; two are an error."""
    selectors = [c for c in callbacks if isinstance(c, EntropyReferenceSelector)]
    if len(selectors) > 1:
        raise ValueError(
            "Expected at most one EntropyReferenceSelector among the callbacks. "
            f"Received: {len(selectors)}"
        )
    return selectors[0] if selectors else None


def _balanced_head(ranked: np.ndarray, classes: np.ndarray, size: int) -> np.ndarray:
    """First `size` of `ranked` with each class in proportion to its share of `ranked`.

    Seats that the proportions leave fractional go to the largest remainders, ties to the
    lower class (Hamilton's method), so no class exceeds its supply.
    """
    counts = np.bincount(classes)
    exact = counts * (size / len(ranked))
    seats = np.floor(exact).astype(np.int64)
    left = size - int(seats.sum())
    seats[np.argsort(seats - exact, kind="stable")[:left]] += 1
    taken = [ranked[classes == label][:count] for label, count in enumerate(seats)]
    return np.concatenate(taken)


def _listed(classes: np.ndarray, most: int = 10) -> str:
    named = ", ".join(str(label) for label in classes[:most])
    return named if len(classes) <= most else f"{named} and {len(classes) - most} more"

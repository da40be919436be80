"""A Keras callback that names the members at risk from one training, without shadow models."""

from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import probabilities
from keras_dmp._classifier.forward import ForwardPass
from keras_dmp._classifier.kind import output_kind
from keras_dmp._data import arrays, samples
from keras_dmp._validate import shown
from keras_dmp.audit.attacks import sides
from keras_dmp.audit.statistics.output_scores import loss_scores
from keras_dmp.distillation.distillation_trainer import DistillationTrainer

# Samples whose values show whether outputs are logits or probabilities.
_KIND_SAMPLES = 256
# Fewer losses have no quartiles.
_FEWEST_EPOCHS = 4


class LossTraces(keras.callbacks.Callback):
    """Records the loss of each member over the epochs, and ranks members by its range.

    A record that any model would classify well has a low loss from the first epochs on. The loss
    of a record that is memorised begins high and falls late: its inter-quantile range over the
    epochs is large. Of 1 % of CIFAR-10 with the largest ranges, 92 % were among those that LiRA
    recognised with hundreds of shadow models (Pollock, Shilov, Dodd & de Montjoye, "Free
    record-level privacy risk evaluation through artifact-based methods", arXiv 2411.05743). The
    ranking comes with the training; how much an attacker recognises is for an audit to say.

    Most useful for a training that runs until the losses are low. In the `fit` of a
    `DistillationTrainer` or `DMPTrainer`, the losses are those of the student, which never sees the
    members: their ranges say little. The callback costs one forward pass over the members for each
    epoch recorded, four bytes for each of its losses, and changes nothing.

    Args:
        members: Tuple (x, y) of arrays: training samples of the model, in the order of the ranking.
        every: Integer. Epochs 0, `every`, 2 `every` and so on are recorded. Defaults to 1.
        from_logits: Whether the model returns logits. Defaults to `None`: read from its loss, its
            last activation or its outputs.
        batch_size: Samples per forward call. Defaults to the largest that is worthwhile.

    Raises:
        TypeError: If `members` is not a tuple of arrays.
        ValueError: For settings out of range, and labels that are missing or are not classes; in
            `fit`, for data that does not fit the model and outputs of unknown kind.

    Example:
    >>> import keras, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(200, 20)), np.arange(200) % 2
    >>> x[:, 0] += 4 * y
    >>> y[7] = 1 - y[7]  # a wrong label, which only memory explains
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(64, "relu"),
    ...                           keras.layers.Dense(2)])
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile(keras.optimizers.Adam(0.01), loss)
    >>> traces = LossTraces((x, y))
    >>> history = model.fit(x, y, epochs=20, callbacks=[traces], verbose=0)
    >>> traces.losses.shape, traces.most_exposed(1)[0][0]
    ((20, 200), 7)
    """

    def __init__(
        self,
        members: tuple[Any, Any],
        *,
        every: int = 1,
        from_logits: bool | None = None,
        batch_size: int | None = None,
    ):
        super().__init__()
        _validate.integer_at_least(1, every=every)
        if batch_size is not None:
            _validate.integer_at_least(1, batch_size=batch_size)
        _validate.one_of((True, False, None), from_logits=from_logits)
        if not isinstance(members, tuple):
            raise TypeError(
                "Expected `members` to be a tuple (x, y) of arrays, whose positions are ranked. "
                f"Received: {type(members).__name__}"
            )
        self.every = every
        self.from_logits = from_logits
        self.batch_size = batch_size
        self._side = sides.open_side(members, "members")
        self._recorded: list[np.ndarray] = []
        self._forward = self._kind = None

    @property
    def losses(self) -> np.ndarray:
        """Cross-entropy of each member after each recorded epoch, (epochs, members), float32.

        NaN in epochs whose outputs were not finite.
        """
        return np.stack(self._recorded) if self._recorded else np.empty((0, self.num_members))

    @property
    def num_members(self) -> int:
        """Members whose losses are recorded."""
        return len(self._side.labels)

    def interquantile_range(self, low: float = 0.25, high: float = 0.75) -> np.ndarray:
        """How far the loss of each member ranged over the epochs; higher means more at risk.

        Args:
            low: Float in [0, 1], the lower quantile. Defaults to 0.25.
            high: Float in [0, 1], the upper quantile. Defaults to 0.75.

        Returns:
            (members,), float64, in nats.

        Raises:
            ValueError: If fewer than four epochs with finite losses were recorded, or the quantiles
                are not in order.
        """
        if not 0 <= low < high <= 1:
            raise ValueError(
                "Expected `low` and `high` to satisfy 0 <= low < high <= 1. "
                f"Received: low={shown(low)}, high={shown(high)}"
            )
        losses = self.losses
        finite = losses[np.isfinite(losses).all(axis=1)]
        if len(finite) < _FEWEST_EPOCHS:
            raise ValueError(
                f"Expected finite losses of at least {_FEWEST_EPOCHS} epochs: call `fit` first, "
                f"with more epochs or a smaller `every`. Received: {len(finite)} epochs"
            )
        lower, upper = np.quantile(finite, (low, high), axis=0)
        return (upper - lower).astype(np.float64)

    def most_exposed(self, count: int = 20) -> tuple[tuple[int, float], ...]:
        """Positions of the members with the largest inter-quartile range, and the ranges.

        Treat them as confidential: they show who is exposed.

        Args:
            count: Number of members to name. Defaults to 20.
        """
        _validate.integer_at_least(1, count=count)
        ranges = self.interquantile_range()
        order = np.argsort(-ranges, kind="stable")[:count]
        return tuple((int(row), float(ranges[row])) for row in order)

    def get_state(self) -> dict:
        """Return the losses, for a training run that is resumed in another process."""
        return {"losses": self.losses}

    def set_state(self, state: dict) -> None:
        """Restore what `get_state` returned."""
        self._recorded = list(state["losses"])

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Check that the members fit the model, before the first step."""
        del logs
        model, from_logits = self.model, self.from_logits
        if isinstance(model, DistillationTrainer):
            from_logits = model.from_logits if from_logits is None else from_logits
            model = model.student
        sides.require_stateless(model)
        x, _ = next(self._side.batches(None))
        first = samples.checked(arrays.take(x, slice(0, _KIND_SAMPLES)), "members", model)
        self._kind = output_kind(model, "model", first, from_logits)
        sides.labels(self._side.labels, self._kind.num_classes, "members")
        self._forward = ForwardPass(model)
        self._recorded = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Record the losses, if it is one of the epochs."""
        del logs
        if epoch % self.every == 0:
            parts = [self._losses(x, y) for x, y in self._side.batches(self.batch_size)]
            self._recorded.append(np.concatenate(parts).astype(np.float32))

    def _losses(self, x: Any, y: np.ndarray) -> np.ndarray:
        outputs = self._forward(x)
        if not np.isfinite(outputs).all():
            return np.full(len(y), np.nan)
        labels = sides.labels(y, self._kind.num_classes, "members")
        # Logits of a small batch can look like probabilities; logs of probabilities cannot.
        log_p = probabilities.log_probabilities(outputs, from_logits=self._kind.from_logits)
        return -loss_scores(log_p, labels, from_logits=True)

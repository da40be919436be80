"""A Keras callback that scores the canaries of one training, for a bound of epsilon."""

from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import forward
from keras_dmp._classifier.kind import resolve_output_kind
from keras_dmp._classifier.outputs import require_outputs
from keras_dmp._data import arrays, samples
from keras_dmp.audit.attacks.sides import require_stateless
from keras_dmp.audit.shadow.canaries import Canaries
from keras_dmp.audit.statistics.output_scores import loss_scores
from keras_dmp.distillation.distillation_trainer import DistillationTrainer


class CanaryScores(keras.callbacks.Callback):
    """Scores of the canaries of one `fit`: how far the training lowered the loss of each.

    A callback for any `fit` of a classifier. Canaries that were in the training data have high
    scores if the model has memorised them; `epsilon_one_run` turns the scores and the coin flips
    into a bound of epsilon (Steinke, Nasr & Jagielski 2023, Section 6: the black-box attack). In
    the `fit` of a `DistillationTrainer` or `DMPTrainer`, the student is scored. The callback costs
    two forward passes over the canaries and changes nothing.

    Args:
        canaries: `Canaries` that were planted with `coin_flip=True`. The model has to be trained
            on their `training_data()`.
        from_logits: Whether the model returns logits. Defaults to `None`: read from its loss, its
            last activation or its outputs.
        batch_size: Samples per forward call. Defaults to the largest that is worthwhile.

    Attributes:
        scores_: Scores after the last `fit`, (canaries,) float64, in the order of
            `canaries.included`; higher for likelier members. `None` before.

    Raises:
        TypeError: If `canaries` are of another type.
        ValueError: If they were planted without coin flips; in `fit`, if they do not fit the model
            or its outputs are not finite.

    Example:
    >>> import keras, numpy as np
    >>> from keras_dmp.audit import epsilon_one_run, plant_canaries
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(200, 100)).astype("float32"), rng.integers(2, size=200)
    >>> planted = plant_canaries(x, y, count=100, coin_flip=True, seed=0)
    >>> model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(2)])
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile(keras.optimizers.Adam(0.1), loss)
    >>> scores = CanaryScores(planted)
    >>> history = model.fit(*planted.training_data(), epochs=20, callbacks=[scores], verbose=0)
    >>> epsilon_one_run(scores.scores_, planted.included) > 0.5
    True
    """

    def __init__(
        self,
        canaries: Canaries,
        *,
        from_logits: bool | None = None,
        batch_size: int | None = None,
    ):
        super().__init__()
        if not isinstance(canaries, Canaries):
            raise TypeError(
                "Expected `canaries` to be the Canaries that `plant_canaries` returns. Received: "
                f"{type(canaries).__name__}"
            )
        if canaries.included is None:
            raise ValueError(
                "Expected `canaries` to be planted with coin_flip=True, which decides if they are "
                "in the training data. Received: canaries without coin flips"
            )
        if batch_size is not None:
            _validate.integer_at_least(1, batch_size=batch_size)
        _validate.one_of((True, False, None), from_logits=from_logits)
        self.from_logits = from_logits
        self.batch_size = batch_size
        self.scores_ = None
        self._x = arrays.take(canaries.x, canaries.indices)
        self._labels = samples.checked_labels(canaries.y, None, "canaries")[canaries.indices]
        self._before = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Compute the losses before the first step."""
        del logs
        self.scores_, self._before = None, self._log_probabilities()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Compute the losses after the last step, and from these the scores."""
        del logs
        self.scores_ = self._log_probabilities() - self._before

    def _log_probabilities(self) -> np.ndarray:
        """Log probability of each canary's label, (canaries,) float64."""
        model, from_logits = self.model, self.from_logits
        if isinstance(model, DistillationTrainer):
            from_logits = model.from_logits if from_logits is None else from_logits
            model = model.student
        require_stateless(model)
        x: Any = samples.checked(self._x, "canaries", model)
        outputs = forward.predict(model, x, batch_size=self.batch_size)
        kind = resolve_output_kind(model, "model", from_logits=from_logits, outputs=outputs)
        require_outputs(outputs, kind, "model outputs")
        samples.checked_labels(self._labels, kind.num_classes, "canaries")
        return loss_scores(outputs, self._labels, from_logits=kind.from_logits)

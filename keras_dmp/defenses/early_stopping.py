"""Early stopping: the control that costs nothing."""

import dataclasses
from typing import ClassVar

import keras

from keras_dmp import _validate
from keras_dmp.defenses._contract import Defense, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStopping(Defense):
    """Ordinary training that stops early; keeps the weights of the best epoch.

    Stops when the loss on the split's validation data has not fallen for `patience` epochs, or
    after `max_epochs`, whichever comes first.

    Args:
        patience: Epochs without a lower validation loss. `None` uses no validation data.
            Defaults to 1.
        max_epochs: Maximum number of epochs, also if the `epochs` of `protect` are more. Defaults
            to `None`: the `epochs` of `protect`.

    Raises:
        ValueError: For settings out of range, or if nothing stops the training.

    Example:
    >>> EarlyStopping(patience=None, max_epochs=3)
    EarlyStopping(patience=None, max_epochs=3)
    """

    name: ClassVar[str] = "early_stopping"

    patience: int | None = 1
    max_epochs: int | None = None

    def __post_init__(self):
        if self.patience is None and self.max_epochs is None:
            raise ValueError(
                "Expected `patience` or `max_epochs` to be a number. Received: patience=None, "
                "max_epochs=None"
            )
        if self.patience is not None:
            _validate.integer_at_least(1, patience=self.patience)
        if self.max_epochs is not None:
            _validate.integer_at_least(1, max_epochs=self.max_epochs)

    @property
    def parts(self) -> tuple[str, ...]:
        """Validation data, unless the epochs are fixed."""
        return () if self.patience is None else ("validation",)

    def _protect(self, run: Run) -> keras.Model:
        epochs = min(run.epochs, self.max_epochs or run.epochs)
        watched = {}
        if self.patience is not None:
            stopping = keras.callbacks.EarlyStopping(
                "val_loss", mode="min", patience=self.patience, restore_best_weights=True
            )
            watched = {"callbacks": [stopping], "validation_data": run.validation}
        run.fit(run.model, epochs=epochs, **watched)
        return run.released(run.model)

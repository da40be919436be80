"""Arguments of `fit`, checked before a training: Keras checks them late or not at all."""

from typing import Any

from keras_dmp import _validate
from keras_dmp._validate import shown

_COUNTS = ("batch_size", "steps_per_epoch", "validation_steps", "validation_batch_size")


def require_fit(
    *,
    shuffle: Any = True,
    validation_freq: Any = 1,
    validation_split: Any = 0.0,
    epochs: Any = 1,
    initial_epoch: Any = 0,
    verbose: Any = "auto",
    **others: Any,
) -> None:
    """Raise ValueError for arguments of `keras.Model.fit` that are out of range.

    Args:
        shuffle: As in `keras.Model.fit`.
        validation_freq: As in `keras.Model.fit`.
        validation_split: As in `keras.Model.fit`.
        epochs: As in `keras.Model.fit`.
        initial_epoch: As in `keras.Model.fit`.
        verbose: As in `keras.Model.fit`.
        **others: Numbers of at least 1, such as `batch_size`, or None if they are not set; other
            arguments are ignored.
    """
    _validate.integer_at_least(0, epochs=epochs, initial_epoch=initial_epoch)
    _validate.verbosity(verbose)
    for name, value in others.items():
        if value is not None and name.endswith((*_COUNTS, "_epochs")):
            _validate.integer_at_least(1, **{name: value})
    if not isinstance(shuffle, str) or shuffle != "batch":
        _validate.boolean(shuffle=shuffle)
    _validate.non_negative(validation_split=validation_split)
    if not validation_split < 1:
        raise ValueError(
            "Expected `validation_split` to be below 1. Received: "
            f"validation_split={shown(validation_split)}"
        )
    is_list = isinstance(validation_freq, list | tuple | set | range)
    try:
        for epoch in validation_freq if is_list else [validation_freq]:
            _validate.integer_at_least(1, validation_freq=epoch)
    except ValueError as error:
        raise ValueError(
            "Expected `validation_freq` to be an integer of at least 1, or a list of the epochs, "
            f"from 1, after which to validate. Received: validation_freq={shown(validation_freq)}"
        ) from error

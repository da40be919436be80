"""What `validation_data` and `evaluate` are given: samples with true labels."""

from typing import Any

import keras
import numpy as np

from keras_dmp import _arrays, _batches, _heads, _inputs


def checked_validation(validation_data: Any, model: keras.Model, kind: _heads.OutputKind) -> Any:
    """Validation data with labels that fit the classes, integers where it is arrays.

    A dataset is read once, or its first batch if it never ends.
    """
    if validation_data is None:
        return None
    if _batches.is_dataset(validation_data):
        source = (validation_data, "validation_data", model)
        endless = _batches.is_endless(validation_data)
        for batch in [_batches.first_batch(*source)] if endless else _batches.iterate(*source):
            _checked_samples(batch.x, batch.y, model, kind)
            _check_weights(batch.sample_weight, batch.x)
        return validation_data
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(validation_data)
    x = _arrays.as_arrays(x, "validation_data")
    y = _checked_samples(x, y, model, kind)
    if sample_weight is None:
        return x, y
    sample_weight = np.asarray(sample_weight)
    _check_weights(sample_weight, x)
    return x, y, sample_weight


def _check_weights(sample_weight: np.ndarray | None, x: Any) -> None:
    if sample_weight is not None:
        name = "validation_data weights"
        _arrays.require_same_length(x, sample_weight, "validation_data samples", name)
        _arrays.require_finite(sample_weight, name)


def _checked_samples(x: Any, y: Any, model: keras.Model, kind: _heads.OutputKind) -> np.ndarray:
    _inputs.require_model_input(x, model, "validation_data")
    _arrays.require_finite(x, "validation_data")
    if y is None:
        raise ValueError(
            "Expected `validation_data` and `evaluate` to have true labels. Received: y=None"
        )
    labels = _arrays.class_ids(y, kind.num_classes, "validation_data labels")
    _arrays.require_same_length(x, labels, "validation_data samples", "validation_data labels")
    return labels

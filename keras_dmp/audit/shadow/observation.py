"""What an attacker with shadow models sees of a model: statistics of its outputs for records."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_dmp._classifier import forward, probabilities
from keras_dmp._classifier.kind import resolve_output_kind
from keras_dmp._classifier.outputs import require_outputs
from keras_dmp._data import samples
from keras_dmp.audit.attacks.sides import require_stateless
from keras_dmp.audit.statistics.output_scores import scaled_logits


def observe(
    model: keras.Model,
    x: Any,
    labels: np.ndarray,
    *,
    queries: Sequence[Callable[[], Any]] = (),
    from_logits: bool | None = None,
    batch_size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Query a model with records, and with altered records.

    Args:
        model: The model.
        x: The records, a structure of arrays.
        labels: Their classes, (records,), int64.
        queries: Callables without arguments that return altered records. Defaults to none.
        from_logits: Whether the model returns logits. Defaults to `None`: read from the model.
        batch_size: Records per forward call. Defaults to the largest that is worthwhile.

    Returns:
        log(p / (1 - p)) of each record's true class, (records, 1 + queries), float64; and whether
        the record itself is classified correctly, (records,), bool.

    Raises:
        ValueError: If the model is no classifier of these records, or its outputs are not finite.
    """
    require_stateless(model)
    samples.checked(x, "x", model)
    columns, correct = [], None
    for query in (lambda: x, *queries):
        outputs = forward.predict(model, query(), batch_size=batch_size)
        kind = resolve_output_kind(model, "model", from_logits=from_logits, outputs=outputs)
        require_outputs(outputs, kind, "model outputs")
        samples.checked_labels(labels, kind.num_classes, "y")
        columns.append(scaled_logits(outputs, labels, from_logits=kind.from_logits))
        if correct is None:
            predicted = probabilities.predicted_classes(outputs, from_logits=kind.from_logits)
            correct = predicted == labels
    return np.stack(columns, axis=1), correct

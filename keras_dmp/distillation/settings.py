"""Settings of a distillation, which both trainers take."""

from typing import Any

from keras_dmp import _validate
from keras_dmp.reference.label_format import require_format

_LABELS = ("soft", "hard")


def require_settings(temperature: Any, labels: Any, compensate_temperature: Any) -> None:
    """Raise ValueError for settings of a distillation that are out of range."""
    _validate.positive(temperature=temperature)
    _validate.one_of(_LABELS, labels=labels)
    _validate.boolean(compensate_temperature=compensate_temperature)
    if labels == "hard" and temperature != 1:
        raise ValueError(
            "Expected `temperature` to be 1 with labels='hard': a most probable class has no "
            f"temperature. Received: temperature={temperature!r}"
        )


def require_storage(label_format: Any, memory_limit: Any) -> None:
    """Raise ValueError for settings of how labels are kept that are out of range."""
    require_format(label_format)
    if memory_limit is not None:
        _validate.integer_at_least(0, memory_limit=memory_limit)

"""Checks of distillation settings and Keras arguments that both trainers take.

Keras checks most of its own arguments during training, or not at all: `steps_per_execution=-1`
trains nothing, and `validation_freq=0` divides by zero after the first epoch.
"""

from typing import Any

from keras_dmp import _validate
from keras_dmp._validate import shown
from keras_dmp.losses import require_temperatures
from keras_dmp.reference.label_format import require_format

_LABELS = ("soft", "hard")


def require_settings(
    temperature: Any, label_temperature: Any, labels: Any, compensate_temperature: Any
) -> None:
    """Raise ValueError for settings of a distillation that are out of range."""
    temperatures = {"temperature": temperature, "label_temperature": label_temperature}
    require_temperatures(**temperatures)
    _validate.one_of(_LABELS, labels=labels)
    _validate.boolean(compensate_temperature=compensate_temperature)
    for name, value in temperatures.items():
        if labels == "hard" and value != 1:
            raise ValueError(
                f"Expected `{name}` to be 1 with labels='hard', which are also those of a "
                "consensus of votes: hard labels do not depend on a temperature. "
                f"Received: {name}={shown(value)}"
            )


def checked_storage(label_format: Any, memory_limit: Any) -> tuple[str | int | None, int | None]:
    """Storage settings of labels as plain values, since NumPy's integers cannot be saved.

    Raises:
        ValueError: For settings out of range.
    """
    require_format(label_format)
    if memory_limit is not None:
        _validate.integer_at_least(0, memory_limit=memory_limit)
    is_text = label_format is None or isinstance(label_format, str)
    return (
        label_format if is_text else int(label_format),
        None if memory_limit is None else int(memory_limit),
    )


def require_compile(
    *,
    run_eagerly: Any = False,
    steps_per_execution: Any = None,
    jit_compile: Any = "auto",
    auto_scale_loss: Any = True,
    fast_loop: Any = True,
) -> None:
    """Raise ValueError for arguments of `compile` that Keras would not check."""
    _validate.boolean(run_eagerly=run_eagerly, auto_scale_loss=auto_scale_loss, fast_loop=fast_loop)
    if steps_per_execution is not None:
        _validate.integer_at_least(1, steps_per_execution=steps_per_execution)
    if not isinstance(jit_compile, bool | str) or jit_compile not in (True, False, "auto"):
        raise ValueError(
            "Expected `jit_compile` to be True, False or 'auto'. "
            f"Received: jit_compile={shown(jit_compile)}"
        )

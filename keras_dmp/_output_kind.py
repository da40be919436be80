"""What a model returns for given samples, from all that can be known of it."""

from typing import Any

import keras

from keras_dmp import _forward, _heads


def output_kind(
    model: keras.Model,
    name: str,
    sample: Any,
    from_logits: bool | None,
    *,
    loss: Any = None,
    required: bool = True,
) -> _heads.OutputKind | None:
    """`_heads.resolve_output_kind` by the outputs for a few samples, which must be finite."""
    outputs = _forward.call(model, sample)
    kind = _heads.resolve_output_kind(
        model, name, from_logits=from_logits, loss=loss, outputs=outputs, required=required
    )
    if kind is not None:
        _heads.require_outputs(outputs, kind, f"{name} outputs")
    return kind

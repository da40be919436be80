"""Everything a run depends on, by name, so that directories of other runs are refused.

Data is included as hashes. Names of layers are not, since they depend on the layers that the
process has built before.
"""

import dataclasses
import hashlib
import json
import math
from typing import Any

import keras
import numpy as np

from keras_dmp._data import keras_private
from keras_dmp._training import callback_state
from keras_dmp.reference.selector import EntropyReferenceSelector
from keras_dmp.trainer.consensus import Consensus
from keras_dmp.trainer.plan import Plan


def of_data(plan: Plan) -> dict[str, str]:
    """Size, batches and hash of each part of the data."""
    parts = {}
    for name, digests in plan.digests.items():
        part = getattr(plan, name)
        content = hashlib.blake2b(np.ascontiguousarray(digests).tobytes(), digest_size=8)
        content.update(getattr(part, "labels_digest", b""))
        content.update(getattr(part, "weights_digest", b""))
        batches = "" if part.batch_size is None else f" in batches of {part.batch_size}"
        if isinstance(getattr(part, "x", None), keras.utils.PyDataset):
            # Only the order of its batches is random.
            batches += " of a PyDataset"
        parts[name] = f"{len(digests)} samples{batches} {content.hexdigest()}"
    return parts


def of_callbacks(callbacks: list[keras.callbacks.Callback]) -> list[Any]:
    """Types of callbacks, with their settings if these are available."""
    found = []
    for callback in callbacks:
        settings = {}
        if not isinstance(callback, EntropyReferenceSelector):
            settings = of_object(callback_state.settings_of(callback))
        found.append([type(callback).__name__, settings])
    return found


def of_model(model: keras.Model) -> str:
    """Size of a model and hash of its architecture."""
    try:
        text = json.dumps(_plain(model.get_config()), sort_keys=True)
    except NotImplementedError:
        text = type(model).__name__
    layers = [model, *keras_private.inner_layers(model)]
    names = sorted((layer.name for layer in layers), key=len, reverse=True)
    for name in names:
        text = text.replace(f'"{name}"', '""')
    shapes = [(tuple(variable.shape), variable.dtype) for variable in model.variables]
    text += str((shapes, [variable.trainable for variable in model.variables]))
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{model.count_params()} parameters {digest}"


def of_consensus(consensus: Consensus | None) -> Any:
    """The settings of a consensus."""
    return None if consensus is None else dataclasses.asdict(consensus)


def of_groups(groups: dict[str, Any] | None) -> str | None:
    """Hash of the partition of the members into groups."""
    if groups is None:
        return None
    _, numbers = np.unique(groups["members"], return_inverse=True)
    return hashlib.blake2b(numbers.astype(np.int64).tobytes(), digest_size=8).hexdigest()


def of_selector(selector: EntropyReferenceSelector | None) -> Any:
    """The rule of a selector."""
    if selector is None:
        return None
    names = ("size", "fraction", "max_entropy", "order", "balance_classes", "seed")
    return {name: getattr(selector, name) for name in names}


def of_weights(model: keras.Model) -> str:
    """Hash of a trained model's variables."""
    content = hashlib.blake2b(digest_size=8)
    for variable in model.variables:
        content.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return content.hexdigest()


def of_object(value: Any) -> Any:
    """Settings, an optimizer, a loss or metrics as JSON values without generated names."""
    if isinstance(value, dict):
        return {str(key): of_object(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [of_object(entry) for entry in value]
    try:
        config = keras.saving.serialize_keras_object(value)
    except (TypeError, ValueError, NotImplementedError):
        config = type(value).__name__
    return _plain(config)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(of) for key, of in value.items() if key != "name"}
    if isinstance(value, list | tuple | set):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such numbers.
        return repr(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(type(value).__name__)

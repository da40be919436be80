"""Everything a run depends on, by name, so that directories of other runs are refused.

Data is included as hashes. Names of layers are not, since they depend on the layers that the
process has built before; where they connect layers, positions take their place.
"""

import codecs
import dataclasses
import hashlib
import json
import marshal
import math
import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_dmp._data import keras_private
from keras_dmp._training import callback_state
from keras_dmp.reference.selector import EntropyReferenceSelector
from keras_dmp.trainer.consensus import Consensus
from keras_dmp.trainer.plan import Plan

# What Keras raises for objects whose configuration, or lambdas whose source, it does not know.
_NOT_SERIALIZED = (TypeError, ValueError, NotImplementedError, OSError)


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
    """Size of a model and hash of its architecture, or of its layers if it has no configuration."""
    layers = [*keras_private.inner_layers(model)]
    try:
        config = _plain(keras.saving.serialize_keras_object(model.get_config()))
    except _NOT_SERIALIZED:
        config = [type(model).__name__, [of_object(layer) for layer in layers]]
    variables = [(one.shape, one.dtype, one.trainable) for one in model.variables]
    # A policy has nothing but its name, which `_plain` leaves out as it does those of layers.
    policies = [layer.dtype_policy.name for layer in (model, *layers)]
    text = json.dumps([config, str(variables), policies], sort_keys=True)
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
    if isinstance(value, types.FunctionType) and value.__name__ == "<lambda>":
        # Keras would look for its source, which a terminal does not keep, and warn of files.
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return _plain([value.__name__, value.__code__, value.__defaults__, cells])
    try:
        config = keras.saving.serialize_keras_object(value)
    except _NOT_SERIALIZED:
        config = type(value).__name__
    return _plain(config)


def _plain(value: Any, layers: Mapping[str, int] = types.MappingProxyType({})) -> Any:
    """JSON values without names.

    Args:
        value: What `get_config` or Keras' serialization has returned, or a part of it.
        layers: Position of each layer of the surrounding model by its name.
    """
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":
            value = {**value, "config": _with_code(value["config"])}
        layers = {**layers, **_positions(value.get("layers"))}
        return {str(key): _plain(of, layers) for key, of in value.items() if key != "name"}
    if isinstance(value, list | tuple):
        match value:
            case [str(name), int(), int()] if name in layers:
                # The output of a layer, as Keras' models name what connects their layers.
                value = [layers[name], *value[1:]]
        return [_plain(entry, layers) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, types.CodeType):
        # Not its file and lines, which a notebook changes.
        return _plain([value.co_code.hex(), value.co_names, value.co_varnames, value.co_consts])
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such numbers.
        return repr(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(type(value).__name__)


def _positions(layers: Any) -> dict[str, int]:
    """Position of each of a model's serialized layers by its name."""
    entries = layers if isinstance(layers, list) else []
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    return {name: position for position, name in enumerate(names) if isinstance(name, str)}


def _with_code(config: dict[str, Any]) -> list[Any]:
    """The code, defaults and closure of a lambda that Keras has serialized."""
    # A layer names the three, all else lists them.
    code, *others = config.get("value") or config.values()
    return [marshal.loads(codecs.decode(code.encode(), "base64")), *others]

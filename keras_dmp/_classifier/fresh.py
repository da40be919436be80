"""Fresh models: a student must never start from the teacher's initial weights."""

import hashlib
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dmp._classifier import forward, kind
from keras_dmp._data import keras_private
from keras_dmp._warnings import PrivacyWarning, warn


def fresh_model(model: keras.Model | Callable[[], keras.Model], name: str = "model") -> keras.Model:
    """A new model: the callable's result, or a clone of the model with newly drawn weights.

    Args:
        model: The callable or the model.
        name: Its name in error messages.

    Raises:
        TypeError: If `model` is neither a callable nor a model, or the callable does not return a
            model.
        ValueError: If the model cannot be cloned, or preprocesses in its `fit`.
    """
    if isinstance(model, keras.Model):
        kind.require_plain_fit(model, name)
        _require_trainable(model, name)
        return fresh_clone(model, name)
    if not callable(model):
        raise TypeError(
            f"Expected `{name}` to be a keras.Model or a callable that builds one. Received: "
            f"{name} of type {type(model).__name__}"
        )
    built = model()
    if not isinstance(built, keras.Model):
        raise TypeError(
            f"Expected the callable `{name}` to return a keras.Model. Received: "
            f"a return value of type {type(built).__name__}"
        )
    kind.require_plain_fit(built, name)
    _require_trainable(built, name)
    return built


def fresh_clone(model: keras.Model, name: str = "model") -> keras.Model:
    """Clone `model` with newly drawn weights, regardless of the seeds of its initializers.

    State that preprocessing layers have adapted to data is kept: a plain
    `keras.models.clone_model` resets it silently. Frozen layers stay frozen, but their weights are
    redrawn with a warning: there is no way to know whether a model instance was trained on members
    before a part of it was frozen.

    Raises:
        ValueError: If the model cannot be cloned.
    """
    try:
        if isinstance(model, keras.Sequential) or hasattr(model, "operations"):
            inputs = _inputs_of_any_batch(model)
            clone = keras.models.clone_model(model, inputs, clone_function=_fresh_layer)
        else:
            clone = type(model).from_config(_without_seeds(model.get_config()))
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected `{name}` to be a model that Keras can clone. Received: model {model.name!r} "
            f"of type {type(model).__name__} ({error}); pass a callable that builds the model"
        ) from error
    layers, twins = list(_adaptable_layers(model)), list(_adaptable_layers(clone))
    if len(layers) != len(twins):
        raise ValueError(
            f"Expected `{name}` to be a model whose adapted layers Keras can clone. Received: "
            f"{model.name!r}, whose clone has {len(twins)} of {len(layers)} adapted layers; pass a "
            "callable that builds the model instead"
        )
    for layer, twin in zip(layers, twins, strict=True):
        _copy_state(layer, twin)
    _keep_frozen(model, clone)
    return clone


def teacher_and_student(
    model: keras.Model | Callable[[], keras.Model],
    teacher: keras.Model | None,
    student: keras.Model,
    x: Any,
) -> tuple[keras.Model, keras.Model]:
    """Teacher and student, both built, with different initial weights.

    Args:
        model: The model or callable that builds them.
        teacher: A trained teacher, or None to build a new one.
        student: A student built from `model`.
        x: A few samples.

    Raises:
        ValueError: If `model` returns models that share variables, or always the same weights.
    """
    teacher = teacher or fresh_model(model)
    require_separate(student, teacher, "teacher", name="student")
    for part in (teacher, student):
        ensure_built(part, x)
    if shared_share(student, teacher) == 1.0:
        # A seed in the callable gives both the same weights; such a student leaks more.
        warn(
            "`model` gave teacher and student the same initial weights, through a fixed seed or by "
            "loading them. The student's weights were redrawn, since a student that starts where "
            "its teacher started leaks more about the members",
            PrivacyWarning,
        )
        student = fresh_clone(student)
        ensure_built(student, x)
    share = shared_share(student, teacher)
    if share == 1.0:
        raise ValueError(
            "Expected teacher and student to have different initial weights. Received: a `model` "
            "that always starts from the same weights; remove fixed weights from the callable"
        )
    if share:
        warn(
            f"Teacher and student share {share:.0%} of their initial weights: a student that "
            "starts where its teacher started leaks more about the members",
            PrivacyWarning,
        )
    return teacher, student


def require_separate(
    model: keras.Model, other: keras.Model, other_name: str, name: str = "a further model"
) -> None:
    """Raise ValueError if two models that a callable has built share variables.

    Args:
        model: A model.
        other: Another one.
        other_name: What it is called.
        name: What the first is called.
    """
    shared = shared_state(model, other)
    if shared:
        raise ValueError(
            "Expected the callable `model` to build a new model on every call, from new layers; "
            "only layers with an `adapt` method may be built once and used again. Received: "
            f"{other_name} and {name} that share {', '.join(map(repr, shared[:3]))}"
            + (f" and {len(shared) - 3} more variables" if len(shared) > 3 else "")
        )


def require_alike(model: keras.Model, student: keras.Model) -> None:
    """Raise ValueError unless a further model has variables of the shapes of the student's."""
    shapes, own = ([tuple(of.shape) for of in one.variables] for one in (student, model))
    if shapes != own:
        raise ValueError(
            "Expected the callable `model` to build models of one architecture. Received: a "
            f"student of {student.count_params()} parameters and a further model of "
            f"{model.count_params()}, whose variables differ in number or shape"
        )


def warn_of_adapted_layers(model: keras.Model) -> None:
    """Warn that statistics in adapted preprocessing layers are released with the model."""
    names = [layer.name for layer in _adaptable_layers(model) if _is_adapted(layer)]
    if names:
        warn(
            f"The statistics of the adapted layers {', '.join(names)} are part of the released "
            "model. Adapt them to reference data, never to members",
            PrivacyWarning,
        )


def ensure_built(model: keras.Model, x: Any) -> None:
    """Create the variables of a model that waits for its first call."""
    forward.build(model, x)


def shared_share(model: keras.Model, other: keras.Model) -> float:
    """Share of the model's random parameters, 0 to 1, whose values are equal in `other`.

    Variables that hold a single value, such as zero biases, carry no information and are ignored.
    """
    theirs = {digest for digest, _ in _random_weights(other)}
    mine = list(_random_weights(model))
    total = sum(size for _, size in mine)
    return sum(size for digest, size in mine if digest in theirs) / total if total else 0.0


def shared_state(model: keras.Model, other: keras.Model) -> list[str]:
    """Paths of the variables of both models that a training may change.

    What a preprocessing layer has adapted to stays as it is, so that one layer may serve both.
    """
    constant = {id(weight) for layer in _adaptable_layers(model) for weight in layer.weights}
    theirs = {id(variable) for variable in other.variables} - constant
    return [variable.path for variable in model.variables if id(variable) in theirs]


def _random_weights(model: keras.Model):
    """Digest and size of each weight that holds different values, including frozen ones."""
    adapted = {id(variable) for layer in _adaptable_layers(model) for variable in layer.variables}
    for variable in model.weights:
        values = keras.ops.convert_to_numpy(variable)
        if id(variable) not in adapted and values.size > 1 and np.any(values != values.flat[0]):
            yield hashlib.blake2b(values.tobytes()).digest(), values.size


def _fresh_layer(layer: keras.Layer) -> keras.Layer:
    if isinstance(layer, keras.Sequential) and (inputs := _inputs_of_any_batch(layer)) is not None:
        return keras.models.clone_model(layer, inputs, clone_function=_fresh_layer)
    return type(layer).from_config(_without_seeds(layer.get_config()))


def _inputs_of_any_batch(model: keras.Model) -> Any:
    """Inputs for a clone of a model that its first batch has given a batch size, else None."""
    inputs = getattr(model, "inputs", None)
    # A layer with a state for each place in the batch needs the size.
    stateful = any(getattr(layer, "stateful", False) for layer in model.layers)
    if not isinstance(model, keras.Sequential) or not inputs or stateful:
        return None
    (tensor,) = inputs
    if tensor.shape[0] is None:
        return None
    return keras.Input(tuple(tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name)


def _without_seeds(config: Any) -> Any:
    """The configuration with the seeds of its initializers removed."""
    if isinstance(config, list | tuple):
        return type(config)(_without_seeds(entry) for entry in config)
    if not isinstance(config, dict):
        return config
    result = {key: _without_seeds(value) for key, value in config.items()}
    if str(config.get("module", "")).startswith("keras.initializers"):
        result["config"] = (
            {**result["config"], "seed": None} if "seed" in result["config"] else (result["config"])
        )
    return result


def _adaptable_layers(layer: keras.Layer):
    """Preprocessing layers with an `adapt` method, at any depth."""
    for inner in keras_private.inner_layers(layer, recursive=False):
        if hasattr(inner, "adapt"):
            yield inner
        else:
            yield from _adaptable_layers(inner)


def _is_adapted(layer: keras.Layer) -> bool:
    """Whether a preprocessing layer holds statistics of data rather than constants only."""
    if not layer.built:
        return False
    config = layer.get_config()
    if isinstance(layer, keras.layers.Normalization):
        # Without `adapt` the layer is the identity, as in an EfficientNet with fresh weights.
        untouched = all(
            np.all(keras.ops.convert_to_numpy(weight) == ("variance" in weight.name))
            for weight in layer.weights
        )
        given = np.asarray(config["mean"], dtype=object)
        return not untouched and given.ndim == 0 and given.item() is None
    if isinstance(layer, keras.layers.Discretization):
        return config["num_bins"] is not None and config["bin_boundaries"] is not None
    return config.get("vocabulary") is None


def _require_trainable(model: keras.Model, name: str) -> None:
    """Raise ValueError for a model with quantized layers, of which only biases can be trained."""
    policies = keras.dtype_policies
    names = [
        layer.name
        for layer in keras_private.inner_layers(model)
        if isinstance(layer.dtype_policy, policies.QuantizedDTypePolicy)
        and not isinstance(layer.dtype_policy, policies.QuantizedFloat8DTypePolicy)
    ]
    if names:
        raise ValueError(
            f"Expected `{name}` to be a model that can be trained: quantize the student after "
            f"`fit`. Received: {model.name!r} with the quantized layers {', '.join(names)}"
        )


def _keep_frozen(model: keras.Model, clone: keras.Model) -> None:
    """Freeze the clone's layers like the model's, and warn about weights that were lost."""
    layers, twins = ([each, *keras_private.inner_layers(each)] for each in (model, clone))
    adapted = {id(variable) for layer in _adaptable_layers(model) for variable in layer.variables}
    frozen = [
        layer.name
        for layer in layers
        # A layer with LoRA trains two small factors beside its own, frozen weights.
        if (not layer.trainable or getattr(layer, "lora_enabled", False))
        and any(id(variable) not in adapted for variable in layer.weights)
        and not any(keras_private.inner_layers(layer))
    ]
    if not frozen:
        return
    if len(layers) != len(twins):
        raise ValueError(
            "Expected `model` to be a model whose frozen layers Keras can clone. Received: "
            f"{model.name!r}, whose clone has {len(twins)} of {len(layers)} layers; pass a "
            "callable that builds it instead"
        )
    # Outer layers come first: freezing them freezes the layers inside them.
    for layer, twin in zip(layers, twins, strict=True):
        if twin.trainable != layer.trainable:
            twin.trainable = layer.trainable
    warn(
        f"The weights of the frozen layers {', '.join(frozen)} were redrawn, since the weights of "
        f"a model instance may have been trained on members: {model.name!r} would train on top of "
        "random layers. Instead of the instance, pass a callable that builds the model and loads "
        "its pretrained weights",
        PrivacyWarning,
    )


def _copy_state(layer: keras.Layer, twin: keras.Layer) -> None:
    """Copy weights and assets the way Keras saves them."""
    if layer.built and not twin.built:
        twin.build_from_config(layer.get_build_config())
    if hasattr(layer, "save_assets"):
        # Vocabularies are private until released; this folder is readable by its owner only.
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            twin.load_assets(folder)
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    twin.load_own_variables({name: np.asarray(value) for name, value in store.items()})

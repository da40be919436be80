"""The network of a trained attack: one part for each kind of evidence, and one that joins them."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_dmp._classifier import forward, probabilities
from keras_dmp._classifier.outputs import num_classes as classes_of_outputs
from keras_dmp._training.resident import ResidentBatches
from keras_dmp.audit.attacks.white_box_features import DenseGradients
from keras_dmp.audit.statistics.output_scores import loss_and_entropy, scaled_logits

# Rows processed at a time: the float64 working copies stay small.
_CHUNK_ROWS = 16_384
_UNITS = 64
_DROPOUT = 0.2
# From so few numbers, such as the loss, none can be dropped without harm.
_FEW = 8
_LEARNING_RATE = 1e-3
_PATIENCE = 5
# Beyond this many standard deviations a value carries no further information.
_FARTHEST = 10.0


def output_evidence(
    outputs: np.ndarray, labels: np.ndarray, *, from_logits: bool
) -> dict[str, np.ndarray]:
    """The evidence of a black-box attacker for each sample: outputs, label and loss.

    Args:
        outputs: Outputs of the classifier, (samples, units).
        labels: Classes, (samples,), int64.
        from_logits: Whether the outputs are logits.
    """
    log_p = np.empty((len(outputs), classes_of_outputs(outputs)), dtype=np.float32)
    for start in range(0, len(outputs), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        log_p[rows] = probabilities.log_probabilities(outputs[rows], from_logits=from_logits)
    loss, entropy = loss_and_entropy(outputs, labels, from_logits=from_logits)
    log_odds = scaled_logits(outputs, labels, from_logits=from_logits)
    return {
        "outputs": log_p,
        "label": labels[:, None],
        "loss": np.stack([log_odds, loss, entropy], axis=1).astype(np.float32),
    }


def layer_evidence(gradients: list[DenseGradients]) -> dict[str, np.ndarray]:
    """Further evidence of a white-box attacker for each sample: activations and gradients.

    A gradient is passed as its two factors. Those of members and nonmembers differ by orders of
    magnitude, so their sizes are passed as logarithms, separately from the direction.
    """
    evidence = {}
    for number, layer in enumerate(gradients, start=1):
        direction, width = _direction_and_size(layer.deltas)
        height = _direction_and_size(layer.inputs)[1]
        evidence[f"activations_{number}"] = layer.inputs
        evidence[f"gradient_{number}"] = direction
        evidence[f"gradient_size_{number}"] = np.concatenate([height, width], axis=1)
    return evidence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """Rows used by an attack network for training, early stopping and scoring."""

    training: np.ndarray
    validation: np.ndarray
    scored: np.ndarray


def membership_scores(
    evidence: dict[str, np.ndarray],
    is_member: np.ndarray,
    parts: Parts,
    *,
    num_classes: int,
    epochs: int,
    batch_size: int,
    seed: int,
    verbose: int,
) -> np.ndarray:
    """Train a network to recognise members, and return its logits for the scored rows.

    All random numbers come from the seed: no global generator is read or set.

    Args:
        evidence: Arrays (samples, ...) by name.
        is_member: Whether each sample is a member, (samples,), bool.
        parts: Rows for training, stopping and scoring.
        num_classes: Classes of the attacked model.
        epochs: Maximum number of passes over the training rows.
        batch_size: Rows per step.
        seed: Integer seed.
        verbose: As in `keras.Model.fit`.
    """
    evidence = {
        name: array if name == "label" else _standardised(array, parts.training)
        for name, array in evidence.items()
    }

    def rows(indices):
        return {name: array[indices] for name, array in evidence.items()}

    rng = np.random.default_rng(seed)
    network = _network(evidence, num_classes, rng)
    network.compile(
        keras.optimizers.Adam(_LEARNING_RATE),
        keras.losses.BinaryCrossentropy(from_logits=True),
        # Compiling such a small network takes longer than training it.
        jit_compile=False,
    )
    target = is_member.astype(np.float32)[:, None]
    batches = ResidentBatches(
        (rows(parts.training), target[parts.training]),
        batch_size=batch_size,
        shuffle=True,
        seed=_seed(rng),
    )
    stopping = keras.callbacks.EarlyStopping(
        "val_loss", mode="min", patience=_PATIENCE, restore_best_weights=True
    )
    network.fit(
        **batches.for_fit(network),
        epochs=epochs,
        validation_data=(rows(parts.validation), target[parts.validation]),
        validation_batch_size=len(parts.validation),
        callbacks=[batches, stopping],
        verbose=verbose,
    )
    return forward.predict(network, rows(parts.scored))[:, 0]


def _network(
    evidence: dict[str, np.ndarray], num_classes: int, rng: np.random.Generator
) -> keras.Model:
    inputs = {name: keras.Input(array.shape[1:], name=name) for name, array in evidence.items()}
    joined = []
    for name, tensor in inputs.items():
        if name == "label":
            tensor = layers.CategoryEncoding(num_classes, output_mode="one_hot")(tensor)
        joined.append(_dense(_UNITS, rng)(_dropout(tensor, rng)))
    joined = layers.Concatenate(dtype="float32")(joined)
    hidden = _dense(_UNITS, rng)(_dropout(joined, rng))
    return keras.Model(inputs, _dense(1, rng, activation=None)(hidden))


def _dropout(tensor: Any, rng: np.random.Generator) -> Any:
    if tensor.shape[1] <= _FEW:
        return tensor
    return layers.Dropout(_DROPOUT, seed=_seed(rng), dtype="float32")(tensor)


def _dense(
    units: int, rng: np.random.Generator, activation: str | None = "relu"
) -> keras.layers.Dense:
    initializer = keras.initializers.HeNormal(seed=_seed(rng))
    # The caller's policy may be half precision.
    return layers.Dense(units, activation, kernel_initializer=initializer, dtype="float32")


def _standardised(array: np.ndarray, training: np.ndarray) -> np.ndarray:
    mean, deviation = array[training].mean(axis=0), array[training].std(axis=0)
    scaled = (array - mean) / np.where(deviation > 1e-6, deviation, 1.0)
    return np.clip(scaled, -_FARTHEST, _FARTHEST).astype(np.float32)


def _direction_and_size(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (samples, n) scaled to a root mean square of 1, and the logarithm of the scale."""
    size = np.sqrt(np.mean(np.square(vectors, dtype=np.float64), axis=1, keepdims=True))
    size = np.maximum(size, np.finfo(np.float32).tiny)
    return (vectors / size).astype(np.float32), np.log(size).astype(np.float32)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))

"""The attack networks of Nasr, Shokri & Houmansadr, black-box and white-box, in Keras."""

from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._classifier import outputs
from keras_dmp._classifier.kind import (
    kind_of_all,
    require_model,
    require_scale_unless_known,
    resolve_output_kind,
)
from keras_dmp.audit.attacks import attack_network
from keras_dmp.audit.attacks.observations import observe, observe_layers
from keras_dmp.audit.attacks.white_box_features import DenseTail
from keras_dmp.audit.statistics.attack_scores import AttackScores
from keras_dmp.audit.statistics.persons import Persons

# Half of each side trains, and a fifth of that stops the training: two samples.
_LEAST = 20
_VALIDATION_SHARE = 0.2
# The white-box attack needs logits, so it does not take `from_logits`.
_DECLARE = "compile the model with a loss that has from_logits=True"


def black_box_attack(
    model: keras.Model,
    members: Any,
    nonmembers: Any,
    *,
    from_logits: bool | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    seed: int | None = None,
    verbose: int | str = 0,
    groups: tuple[Any, Any] | None = None,
) -> AttackScores:
    """Attack a classifier with a network that sees outputs, label and loss of a sample.

    The black-box attack of Nasr, Shokri & Houmansadr, "Comprehensive privacy analysis of deep
    learning" (IEEE S&P 2019), section III. The attacker knows half of the members (at most half
    of the nonmembers, if there are fewer of these) and the same number of nonmembers; a fifth of
    them is used to stop the training when the network begins to overfit. The rest is scored. The
    network sees log-probabilities, one-hot label, and loss, log-odds of the true class and modified
    entropy, standardised; it has fewer and smaller layers than the paper's, which overfits
    within two epochs.

    Args:
        model: A trained classifier with one output: logits, softmax or one sigmoid unit. It is
            not changed.
        members: Training samples of the model: a tuple (x, y) of arrays, or a `tf.data.Dataset`
            or `keras.utils.PyDataset` that yields such batches, which is read once.
        nonmembers: Samples that the model was not trained on, in the same forms.
        from_logits: Whether the model returns logits. Defaults to `None`: read from its loss, its
            last activation and its outputs.
        epochs: Integer, maximum number of epochs of the attack network. Defaults to 100.
        batch_size: Integer, batch size of the attack network. Defaults to 128.
        seed: Seed of the halves, the network and its batches. Defaults to `None`: one is drawn
            and stored in the result. No global generator is set or read.
        verbose: 0, 1, 2 or `"auto"`, as in `keras.Model.predict`. Defaults to 0.
        groups: Group (person) of each member, and of each nonmember. The network is then trained on
            some persons and scores others. Defaults to `None`: every sample for itself.

    Returns:
        An `AttackScores` of the samples that the network was not trained on.

    Raises:
        TypeError: If `model`, `members` or `nonmembers` are of another type.
        ValueError: For samples or labels that do not fit the model, are not finite, fewer than
            20 per side, or on both sides; for models that are not single-label classifiers; and
            for groups of another number, on both sides, or fewer than 20 per side.

    Example:
    >>> import keras, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(80, 4)), rng.integers(3, size=80)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> result = black_box_attack(model, (x[:40], y[:40]), (x[40:], y[40:]), epochs=2, seed=0)
    >>> result
    AttackScores(num_members=20, num_nonmembers=20)
    """
    settings = _settings(model, epochs, batch_size, seed, verbose)
    persons = _persons(groups)
    resolve_output_kind(model, "model", from_logits=from_logits, required=False)
    sides = observe(
        model, members, nonmembers, batch_size=None, least=_LEAST, verbose=bool(verbose)
    )
    kind = kind_of_all(model, "model", [side.outputs for side in sides], from_logits)
    evidence = [
        attack_network.output_evidence(side.outputs, side.labels, from_logits=kind.from_logits)
        for side in sides
    ]
    return _attack(*evidence, kind.num_classes, settings, persons)


def white_box_attack(
    model: keras.Model,
    members: Any,
    nonmembers: Any,
    *,
    num_layers: int = 1,
    epochs: int = 100,
    batch_size: int = 128,
    seed: int | None = None,
    verbose: int | str = 0,
    groups: tuple[Any, Any] | None = None,
) -> AttackScores:
    """Attack a classifier with a network that also sees inside its last layers.

    The white-box attack of Nasr, Shokri & Houmansadr (see `black_box_attack`, whose settings it
    shares): besides outputs, label and loss, the network sees the inputs of each of the last dense
    layers, and the gradient of the sample's own loss with respect to that layer's kernel and
    bias. The kernel's gradient is an outer product and is passed as its two factors, where the
    paper uses convolutions over the matrix: nothing is lost, and memory grows with the layers'
    widths, not with their product.

    Args:
        model: A trained classifier that returns logits, exposes its layers (Sequential with an
            Input, or functional) and ends in a chain of layers with `num_layers`
            `keras.layers.Dense` in it. It is not changed.
        members: As for `black_box_attack`.
        nonmembers: As for `black_box_attack`.
        num_layers: Integer, number of last dense layers to inspect. Defaults to 1.
        epochs: Integer, maximum number of epochs of the attack network. Defaults to 100.
        batch_size: Integer, batch size of the attack network. Defaults to 128.
        seed: As for `black_box_attack`.
        verbose: 0, 1, 2 or `"auto"`, as in `keras.Model.predict`. Defaults to 0.
        groups: As for `black_box_attack`.

    Returns:
        An `AttackScores` of the samples that the network was not trained on.

    Raises:
        TypeError: If `model`, `members` or `nonmembers` are of another type.
        ValueError: As `black_box_attack`; and for models without logits or whose last dense
            layers cannot be reached.

    Example:
    >>> import keras, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(80, 4)), rng.integers(3, size=80)
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
    >>> model = keras.Sequential(layers)
    >>> result = white_box_attack(model, (x[:40], y[:40]), (x[40:], y[40:]), epochs=2, seed=0)
    >>> result
    AttackScores(num_members=20, num_nonmembers=20)
    """
    settings = _settings(model, epochs, batch_size, seed, verbose)
    persons = _persons(groups)
    _validate.integer_at_least(1, num_layers=num_layers)
    tail = DenseTail(model, num_layers)
    sides = observe_layers(
        model, tail.trunk, members, nonmembers, least=_LEAST, verbose=bool(verbose)
    )
    evidence, all_logits = [], []
    for activations, labels in sides:
        logits, gradients = tail.gradients(activations, labels)
        all_logits.append(logits)
        kind = resolve_output_kind(model, "model", from_logits=True, outputs=logits)
        outputs.require_outputs(logits, kind, "model outputs")
        evidence.append(
            attack_network.output_evidence(logits, labels, from_logits=True)
            | attack_network.layer_evidence(gradients)
        )
    require_scale_unless_known(model, "model", all_logits, way_out=_DECLARE)
    return _attack(*evidence, kind.num_classes, settings, persons)


def _settings(
    model: Any, epochs: int, batch_size: int, seed: int | None, verbose: int
) -> dict[str, int]:
    require_model(model, "model")
    _validate.integer_at_least(1, epochs=epochs, batch_size=batch_size)
    verbose = _validate.verbosity(verbose)
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    _validate.integer_at_least(0, seed=seed)
    return {"epochs": epochs, "batch_size": batch_size, "seed": int(seed), "verbose": int(verbose)}


def _attack(
    members: dict[str, np.ndarray],
    nonmembers: dict[str, np.ndarray],
    num_classes: int,
    settings: dict[str, int],
    persons: Persons | None,
) -> AttackScores:
    num_members, num_nonmembers = len(members["label"]), len(nonmembers["label"])
    groups = (None, None)
    if persons is not None:
        persons.require_size("members", num_members)
        persons.require_size("nonmembers", num_nonmembers)
        groups = (persons.members, persons.nonmembers)
    rng = np.random.default_rng(settings["seed"])
    half = min(num_members, num_nonmembers) // 2
    own = [
        _halves(count, half, rng, numbers)
        for count, numbers in zip((num_members, num_nonmembers), groups, strict=True)
    ]
    training, validation, scored = (
        np.concatenate([mine, theirs + num_members]) for mine, theirs in zip(*own, strict=True)
    )
    scores = attack_network.membership_scores(
        {name: np.concatenate([members[name], nonmembers[name]]) for name in members},
        np.arange(num_members + num_nonmembers) < num_members,
        attack_network.Parts(training=training, validation=validation, scored=scored),
        num_classes=num_classes,
        **settings,
    )
    scored_members, scored_nonmembers = own[0][2], own[1][2]
    return AttackScores(
        scores[: len(scored_members)],
        scores[len(scored_members) :],
        member_indices=scored_members,
        nonmember_indices=scored_nonmembers,
        seed=settings["seed"],
    )


def _persons(groups: Any) -> Persons | None:
    if groups is None:
        return None
    persons = Persons.of(groups)
    persons.require_groups(_LEAST)
    return persons


def _halves(
    count: int, half: int, rng: np.random.Generator, groups: np.ndarray | None
) -> tuple[np.ndarray, ...]:
    """Positions to train on, to stop by and to score, each ascending."""
    stop = max(1, round(_VALIDATION_SHARE * half))
    if groups is None:
        order = rng.permutation(count)
    else:
        order, stop, half = _whole_groups(groups, stop, half, rng)
    parts = order[stop:half], order[:stop], order[half:]
    return tuple(np.sort(part) for part in parts)


def _whole_groups(
    groups: np.ndarray, stop: int, half: int, rng: np.random.Generator
) -> tuple[np.ndarray, int, int]:
    """Samples in a random order of their groups, and ends of groups at or after two positions."""
    _, number = np.unique(groups, return_inverse=True)
    rank = rng.permutation(int(number.max()) + 1)[number.ravel()]
    order = np.argsort(rank, kind="stable")
    ends = np.flatnonzero(np.diff(rank[order], append=-1)) + 1
    # Each part has a group at least, however large the groups are.
    first = min(int(np.searchsorted(ends, stop)), len(ends) - 3)
    second = min(max(int(np.searchsorted(ends, half)), first + 1), len(ends) - 2)
    return order, int(ends[first]), int(ends[second])

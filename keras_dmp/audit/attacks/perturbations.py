"""Perturbed copies of samples: noise, flips of binary features, shifts of images."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dmp import _validate
from keras_dmp._data import arrays, samples
from keras_dmp._validate import shown

# From imperceptible for any model to devastating for any model.
_NOISE_IN_DEVIATIONS = np.geomspace(1e-3, 10, 128)
_FLIP_PROBABILITIES = np.geomspace(1e-4, 0.5, 128)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One way to perturb samples.

    Attributes:
        name: Its name; `"callable"` for the caller's own.
        strength: How much it perturbs; `None` until it is chosen, or for a callable.
        apply: Function (x, rng, strength) -> perturbed x.
        require: Function (x, name) that raises ValueError for samples of the wrong kind.
        ladder: Function x -> strengths to choose from, ascending; `None` if there is no choice.
    """

    name: str
    strength: float | None
    apply: Callable[[Any, np.random.Generator, float], Any]
    require: Callable[[Any, str], None]
    ladder: Callable[[Any], np.ndarray] | None

    def __call__(self, x: Any, rng: np.random.Generator) -> Any:
        """Return a perturbed copy of `x`."""
        return self.apply(x, rng, self.strength)

    @property
    def is_undecided(self) -> bool:
        """Whether its strength has still to be chosen."""
        return self.strength is None and self.ladder is not None


def resolve(perturbation: Any, strength: Any) -> Perturbation:
    """The requested perturbation, checked as far as possible without samples.

    Raises:
        ValueError: For an unknown perturbation, or a strength that is not valid for it.
    """
    if callable(perturbation):
        if strength != "auto":
            raise ValueError(
                "Expected `strength` to be left out with a callable `perturbation`, which has "
                f"its own strength. Received: strength={shown(strength)}"
            )
        return Perturbation(
            name="callable",
            strength=None,
            apply=lambda x, rng, _: _called(perturbation, x, rng),
            require=lambda x, name: None,
            ladder=None,
        )
    if not isinstance(perturbation, str) or perturbation not in _NAMED:
        listed = ", ".join(map(repr, _NAMED))
        raise ValueError(
            f"Expected `perturbation` to be one of {listed}, or a callable (x, rng) -> x. "
            f"Received: perturbation={shown(perturbation)}"
        )
    named = _NAMED[perturbation]
    if isinstance(strength, str) and strength == "auto":
        return named
    if perturbation == "flip":
        _validate.non_negative(strength=strength)
        if strength > 1:
            raise ValueError(
                "Expected `strength` to be a probability of flips, at most 1. "
                f"Received: strength={shown(strength)}"
            )
    elif perturbation == "noise":
        _validate.non_negative(strength=strength)
    else:
        _validate.integer_at_least(0, strength=strength)
    return dataclasses.replace(named, strength=strength)


def _noisy(x: Any, rng: np.random.Generator, strength: float) -> Any:
    def add(leaf):
        noise = rng.standard_normal(leaf.shape, dtype=np.float32)
        noise *= np.float32(strength)
        noise += leaf
        return noise

    return keras.tree.map_structure(add, x)


def _flipped(x: Any, rng: np.random.Generator, strength: float) -> Any:
    def flip(leaf):
        flips = rng.random(leaf.shape, dtype=np.float32) < strength
        return np.where(flips, 1 - leaf.astype(np.int8), leaf).astype(leaf.dtype)

    return keras.tree.map_structure(flip, x)


def _shifted(x: Any, rng: np.random.Generator, strength: int, *, mirror: bool = False) -> Any:
    """Images moved by up to `strength` pixels along both axes; pixels moved in repeat the edge."""

    def shift(leaf):
        height, width = leaf.shape[1:3]
        by = rng.integers(-strength, strength + 1, size=(len(leaf), 2))
        rows = np.clip(np.arange(height) + by[:, :1], 0, height - 1)
        columns = np.clip(np.arange(width) + by[:, 1:], 0, width - 1)
        if mirror:
            turned = rng.integers(2, size=(len(leaf), 1)) == 1
            columns = np.where(turned, columns[:, ::-1], columns)
        return leaf[np.arange(len(leaf))[:, None, None], rows[:, :, None], columns[:, None, :]]

    return keras.tree.map_structure(shift, x)


def _mirrored(x: Any, rng: np.random.Generator, strength: int) -> Any:
    return _shifted(x, rng, strength, mirror=True)


def _called(perturbation: Callable, x: Any, rng: np.random.Generator) -> Any:
    # A copy: the caller's function may work in place.
    copies = perturbation(keras.tree.map_structure(np.copy, x), rng)
    return samples.checked_like(copies, x, "perturbation(x, rng)", "x", one_each=True)


def _require_numbers(x: Any, name: str) -> None:
    for leaf in keras.tree.flatten(x):
        if leaf.dtype.kind not in "fiub":
            raise ValueError(
                f"Expected `{name}` to be numbers for perturbation='noise'. "
                f"Received: {arrays.describe(x)}"
            )


def _require_binary(x: Any, name: str) -> None:
    for leaf in keras.tree.flatten(x):
        if leaf.dtype.kind not in "fiub" or not np.all((leaf == 0) | (leaf == 1)):
            raise ValueError(
                f"Expected `{name}` to have binary features, 0 or 1, for perturbation='flip'. "
                f"Received: other values, {arrays.describe(x)}; use perturbation='noise'"
            )


def _require_images(x: Any, name: str) -> None:
    for leaf in keras.tree.flatten(x):
        if leaf.ndim not in (3, 4):
            raise ValueError(
                f"Expected `{name}` to be images of shape (n, height, width) or (n, height, "
                f"width, channels) for shifts. Received: {arrays.describe(x)}"
            )


def _noise_ladder(x: Any) -> np.ndarray:
    spread = max(float(leaf.std(dtype=np.float64)) for leaf in keras.tree.flatten(x))
    return _NOISE_IN_DEVIATIONS * (spread or 1.0)


def _shift_ladder(x: Any) -> np.ndarray:
    side = min(min(leaf.shape[1:3]) for leaf in keras.tree.flatten(x))
    return np.arange(1, max(2, side // 2))


_NAMED = {
    named.name: named
    for named in (
        Perturbation(
            name="noise",
            strength=None,
            apply=_noisy,
            require=_require_numbers,
            ladder=_noise_ladder,
        ),
        Perturbation(
            name="flip",
            strength=None,
            apply=_flipped,
            require=_require_binary,
            ladder=lambda x: _FLIP_PROBABILITIES,
        ),
        Perturbation(
            name="shift",
            strength=None,
            apply=_shifted,
            require=_require_images,
            ladder=_shift_ladder,
        ),
        Perturbation(
            name="shift_and_mirror",
            strength=None,
            apply=_mirrored,
            require=_require_images,
            ladder=_shift_ladder,
        ),
    )
}

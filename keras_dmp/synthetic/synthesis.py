"""Synthetic reference data, drawn from a generator trained on the members."""

import dataclasses
import numbers
from typing import Any

import numpy as np

from keras_dmp import _validate
from keras_dmp._data import arrays, samples
from keras_dmp.synthetic.generators import ImageGenerator, TableGenerator
from keras_dmp.synthetic.nearest import nearest_distances

__all__ = ["SyntheticReference", "synthesize"]

_KINDS = ("auto", "image", "tabular")
_GENERATORS = {"image": ImageGenerator, "tabular": TableGenerator}
_AXES = {4: "image", 2: "tabular"}
_FEWEST_MEMBERS = 10
# By default, samples are near copies up to this quantile of the members' distances to the nearest
# other member.
_NEAR_SHARE = 0.01
_MOST_ROUNDS = 20


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticReference:
    """A reference pool drawn from a generator, and its distances to the members.

    All of it is derived from the members: protect it as you protect them.

    Attributes:
        x: Samples, (samples, ...), with the sample shape and dtype of the members.
        distances: Distance of each sample to the nearest member, (samples,), all above
            `min_distance`.
        member_distances: Distance of each member to the nearest other member, (members,), for
            comparison.
        min_distance: Samples at this distance from a member or nearer were removed as near copies.
        num_near_copies: Number of near copies that were removed and drawn again.
        kind: `"image"` or `"tabular"`.
        seed: Seed of the generator and its draws.
    """

    x: np.ndarray
    distances: np.ndarray
    member_distances: np.ndarray
    min_distance: float
    num_near_copies: int
    kind: str
    seed: int

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.x)

    def __str__(self) -> str:
        """Return a summary in one line."""
        return (
            f"{len(self)} synthetic samples ({self.kind}), {self.num_near_copies} near copies "
            f"removed; distance to the nearest member: smallest {self.distances.min():.3g}, "
            f"median {np.median(self.distances):.3g}; of members to each other: median "
            f"{np.median(self.member_distances):.3g}"
        )


def synthesize(
    x_members: Any,
    size: float | int = 1.0,
    *,
    kind: str = "auto",
    epochs: int = 60,
    batch_size: int = 64,
    min_distance: float | None = None,
    seed: int | None = None,
    verbose: int | str = 0,
) -> SyntheticReference:
    """Train a generator on the members and draw a reference pool from it.

    For private data without public samples: Shejwalkar & Houmansadr (AAAI 2021) distill with
    images from a generator that was trained on the members. Here the generator is a small
    variational autoencoder, convolutional for images. In tables, columns that contain only 0 and 1
    remain binary, and adjacent binary columns that form a one-hot code remain one-hot. Other
    columns are normal given the latent code, clipped to the range of the members, and rounded if
    the members' values are whole numbers.

    The generator is not private. Near copies of members are removed, which keeps members'
    records themselves out of the pool, but proves nothing about what the samples reveal. See
    `docs/protect/synthetic.md`.

    The distance between two records is the root mean square, over their features, of the difference
    divided by the standard deviation: that of the column in a table (1 for binary columns), or
    that of all pixels in images.

    Args:
        x_members: The members' samples, one array of numbers: (members, columns), or
            (members, height, width, channels).
        size: Number of samples to draw: an integer, or a float as a multiple of the number of
            members (0.5, 1.0 and 1.5 in the paper). Defaults to 1.0.
        kind: String, `"image"`, `"tabular"`, or `"auto"` to decide by the number of axes. Defaults
            to `"auto"`.
        epochs: Integer, the generator's passes over the members. Defaults to 60.
        batch_size: Integer, samples per training step of the generator. Defaults to 64.
        min_distance: Number of at least 0. Samples at this distance from a member or nearer are
            removed as near copies; 0 removes exact copies only. Defaults to `None`, the 1 %
            quantile of the members' distances to the nearest other member.
        seed: Integer that makes the pool reproducible. No global random generator is used.
            Defaults to `None`, an unpredictable seed.
        verbose: 0, 1, 2 or `"auto"`, as in `keras.Model.fit`. Defaults to 0.

    Returns:
        A `SyntheticReference`.

    Raises:
        ValueError: If `x_members` is neither a table nor images, contains values that are not
            finite or has fewer than 10 samples, or another argument is out of range; after
            training, if nearly all draws are near copies.

    Example:
    >>> import numpy as np
    >>> x = (np.random.default_rng(0).random((40, 6)) < 0.3).astype("float32")
    >>> pool = synthesize(x, 0.5, epochs=2, min_distance=0, seed=1)
    >>> pool.x.shape, sorted(set(pool.x.ravel().tolist()))
    ((20, 6), [0.0, 1.0])
    """
    x, kind = _checked_members(x_members, kind)
    count = synthetic_size(size, len(x))
    _validate.integer_at_least(1, epochs=epochs, batch_size=batch_size)
    seed = _validate.seed_or_fresh(seed)
    verbose = _validate.verbosity(verbose)
    if min_distance is not None:
        _validate.non_negative(min_distance=min_distance)
    generator = _GENERATORS[kind](x, seed)
    among_members = nearest_distances(x, x, generator.scale, same=True)
    if min_distance is None:
        min_distance = float(np.quantile(among_members, _NEAR_SHARE, method="lower"))
    generator.fit(x, epochs=epochs, batch_size=batch_size, verbose=verbose)
    samples, distances, removed = _far_draws(generator, x, count, min_distance)
    return SyntheticReference(
        x=samples,
        distances=distances,
        member_distances=among_members,
        min_distance=float(min_distance),
        num_near_copies=removed,
        kind=kind,
        seed=seed,
    )


def synthetic_size(size: float | int, members: int, name: str = "size") -> int:
    """Number of samples for a size: an integer, or a float as a multiple of `members`.

    Raises:
        ValueError: If `size` is neither a float above 0 nor a whole number of at least 1.
    """
    if isinstance(size, numbers.Integral):
        _validate.integer_at_least(1, **{name: size})
        return int(size)
    _validate.positive(**{name: size})
    return max(1, round(size * members))


def _checked_members(x_members: Any, kind: str) -> tuple[np.ndarray, str]:
    _validate.one_of(_KINDS, kind=kind)
    x = samples.checked(x_members, "x_members")
    axes = {axes: its_kind for axes, its_kind in _AXES.items() if kind in ("auto", its_kind)}
    if not isinstance(x, np.ndarray) or x.ndim not in axes or x.dtype.kind not in "biuf":
        expected = {"image": "images (members, height, width, channels)", "tabular": "a table"}
        listed = " or ".join(expected[each] for each in axes.values())
        raise ValueError(
            f"Expected `x_members` to be one array of numbers: {listed}. Received: "
            f"{arrays.describe(x)}"
        )
    samples.require_enough(len(x), "x_members", _FEWEST_MEMBERS)
    return x, axes[x.ndim]


def _far_draws(
    generator: Any, members: np.ndarray, count: int, min_distance: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Draws without near copies, their distances to members, and the number of near copies."""
    kept, distances, removed, missing = [], [], 0, count
    for _ in range(_MOST_ROUNDS):
        drawn = generator.draw(missing)
        distance = nearest_distances(drawn, members, generator.scale)
        is_far = distance > min_distance
        kept.append(drawn[is_far])
        distances.append(distance[is_far])
        removed += int(np.count_nonzero(~is_far))
        missing -= int(np.count_nonzero(is_far))
        if not missing:
            return np.concatenate(kept), np.concatenate(distances), removed
    raise ValueError(
        f"Expected {count} samples farther than {min_distance:.3g} from every member. Received: "
        f"{count - missing} samples and {removed} near copies after {_MOST_ROUNDS} rounds; reduce "
        "`min_distance` or `epochs`"
    )

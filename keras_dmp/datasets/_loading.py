"""Loading of all data sets by name."""

import importlib
import os
from typing import TYPE_CHECKING

from keras_dmp import _validate

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

# Data sets that TFDS' own builders prepare, with nothing to add.
_STOCK_NAMES = ("cifar10", "cifar100")
# Each other name is also that of the module which contains the builder of the data set.
_NAMES = (
    *("grocery_baskets", "latent_shoppers", "fashion_mnist", "adult"),
    *("twenty_newsgroups", "digits"),
    *("purchase100", "texas100", "location30", *_STOCK_NAMES),
)
_NAMES_WITH_GROUPS = ("grocery_baskets",)
# The others come with a package or are generated.
_NAMES_WITH_DOWNLOAD = (
    *("fashion_mnist", "adult"),
    *("purchase100", "texas100", "location30", *_STOCK_NAMES),
)


def names() -> tuple[str, ...]:
    """Names of the data sets that `load` accepts.

    Returns:
        Tuple of strings.

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
    download: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
) -> "tuple[np.ndarray, ...] | tf.data.Dataset":
    """Load all records of a data set, ready for `keras_dmp.split_private`.

    The first call for a data set prepares it with TensorFlow Datasets and writes it to `data_dir`;
    later calls read these files. Records have a fixed order: if a data set is published in parts,
    the training part comes first, then the test part. The parts are not returned separately,
    because `keras_dmp.split_private` decides which records are members, and should draw them at
    random: adjacent records are often related.

    | name | x, per record | classes | records | prepared from |
    |---|---|---|---|---|
    | `grocery_baskets` | (600,), 0 or 1 | 100 | 51,536 | a package |
    | `latent_shoppers` | (600,), 0 or 1 | 100 | 40,000 | a seed |
    | `fashion_mnist` | (28, 28, 1), in [0, 1] | 10 | 70,000 | a package and a command, or files |
    | `adult` | (91,), in [0, 1] | 2 | 48,842 | a package, or OpenML |
    | `twenty_newsgroups` | (), text | 20 | 18,821 | a package |
    | `digits` | (64,), in [0, 1] | 10 | 1,797 | scikit-learn |
    | `purchase100` | (600,), 0 or 1 | 100 | 197,324 | `dataset_purchase.tgz` |
    | `texas100` | (6169,), 0 or 1 | 100 | 67,330 | `dataset_texas.tgz` |
    | `location30` | (446,), 0 or 1 | 30 | 5,010 | `dataset_location.tgz` |
    | `cifar10` | (32, 32, 3), in [0, 1] | 10 | 60,000 | `cifar-10-binary.tar.gz` |
    | `cifar100` | (32, 32, 3), in [0, 1] | 100 | 60,000 | `cifar-100-binary.tar.gz` |

    `load` uses the network only with `download=True`. Without it, files that are not part of a
    package must be in `<data_dir>/downloads/manual`, where TFDS looks for them; if they are not,
    the error says where to get them.

    Args:
        name: String, one of `names()`.
        as_supervised: Boolean, whether to return a `tf.data.Dataset` of single pairs `(x, y)`,
            like `tfds.load`, instead of arrays. Defaults to `False`.
        with_groups: Boolean, whether to return the group of every record as well, for
            `keras_dmp.split_private(groups=)`: records of one group come from one source and
            should all be members or all be nonmembers. Only `grocery_baskets` has groups, its
            households. Defaults to `False`.
        download: Boolean, whether files that are missing may be downloaded. It has no effect on
            data that is prepared, generated or in a package. Defaults to `False`.
        data_dir: Path of the folder that TFDS reads and writes. Defaults to `None`, the default
            of TFDS: the environment variable `TFDS_DATA_DIR` if set, otherwise
            `~/tensorflow_datasets`.

    Returns:
        A tuple of NumPy arrays: `x`, float32 of shape `(records, ...)` or, for texts, `str`
        objects of shape `(records,)`, and `y`, int64 of shape `(records,)`, counted from 0; with
        `with_groups=True` also `groups`, int64 of shape `(records,)`. With
        `as_supervised=True`, an unbatched `tf.data.Dataset` of the same `(x, y)` in the same
        order.

    Raises:
        TypeError: If `data_dir` is not a path.
        ValueError: If the name is unknown, an option is not a boolean, `with_groups=True` is used
            for a data set without groups, `with_groups` and `as_supervised` are both `True`, or a
            file that the data is prepared from is damaged.
        ImportError: If an optional package is missing; the message shows how to install it.
        FileNotFoundError: If files are missing; the message shows how to get them.

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
            f"Expected `name` to be one of {', '.join(map(repr, _NAMES))}. Received: name={name!r}"
        )
    _validate.boolean(as_supervised=as_supervised, with_groups=with_groups, download=download)
    if data_dir is not None:
        _validate.path(data_dir=data_dir)
    if with_groups and name not in _NAMES_WITH_GROUPS:
        raise ValueError(
            f"Expected `with_groups` to be True only for data sets with groups: "
            f"{', '.join(map(repr, _NAMES_WITH_GROUPS))}. Received: name={name!r}, "
            f"with_groups=True. Omit `with_groups`: the records of {name!r} are not grouped."
        )
    if with_groups and as_supervised:
        raise ValueError(
            "Expected at most one of `as_supervised` and `with_groups` to be True: a supervised "
            "dataset contains pairs (x, y). Received: as_supervised=True, with_groups=True. "
            "Load arrays to get the groups."
        )
    # These import TensorFlow, so only now.
    from keras_dmp.datasets import _reading, _stock_builder

    permission = {"download": download} if name in _NAMES_WITH_DOWNLOAD else {}
    if name in _STOCK_NAMES:
        builder = _stock_builder.prepared(name, data_dir, **permission)
    else:
        module = importlib.import_module(f"keras_dmp.datasets.{name}")
        builder = module.prepared_builder(data_dir, **permission)
    if as_supervised:
        return _reading.supervised_dataset(builder)
    return _reading.arrays(builder, with_groups=with_groups)

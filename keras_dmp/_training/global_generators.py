"""The global random generators of Python, NumPy, Keras and TensorFlow, and their state.

`keras.utils.set_random_seed` makes TensorFlow discard all compiled functions, which costs more
than an epoch of a small model. It is therefore called only once, when a phase begins, and the
state of the generators is saved with the checkpoints and restored from them.
"""

import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._warnings import warn

# Largest number of TensorFlow's seeds to search for the saved position; takes some seconds.
_MOST_SEEDS = 1 << 22


class GlobalGenerators:
    """Seeds all global generators, and saves and restores their state.

    The counters of TensorFlow's stateful operations (`tf.random.normal` and similar) inside
    compiled functions cannot be read and are not part of the state; `keras.random` has none.

    Args:
        seed: Integer, the seed of all generators.
    """

    def __init__(self, seed: int):
        self._seed = seed
        keras.utils.set_random_seed(seed)
        # Keras creates its generator on first use, and offers no other way to get at it.
        made: list[tf.Variable] = []

        def remember(next_creator: Any, **arguments: Any) -> tf.Variable:
            made.append(next_creator(**arguments))
            return made[-1]

        with tf.variable_creator_scope(remember):
            keras.random.uniform(())
        (self._of_keras,) = made

    def state(self) -> dict[str, Any]:
        """The state of all generators as plain values."""
        version, words, gauss = random.getstate()
        name, keys, *rest = np.random.get_state()  # noqa: NPY002
        return {
            "python": [version, np.array(words, np.uint64), gauss],
            "numpy": [name, keys, *rest],
            "keras": keras.ops.convert_to_numpy(self._of_keras),
            "tensorflow": [_next_seed(), _next_seed()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state.

        Raises:
            ValueError: If it is not a state of these generators.
        """
        try:
            version, words, gauss = state["python"]
            if not isinstance(gauss, float | None):
                raise TypeError("the state of Python's generator")
            random.setstate((version, tuple(map(int, words)), gauss))
            np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
            self._of_keras.assign(np.asarray(state["keras"]).astype("int64").reshape(2))
            _seek(list(map(int, state["tensorflow"])))
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                "Expected the state of the random generators in the checkpoint. Received: other "
                f"values ({error}); remove the checkpoint's file"
            ) from error


def _next_seed() -> int:
    """Draw the seed of TensorFlow's next stateful operation."""
    return int(tf.compat.v1.random.get_seed(None)[1])


def _seek(last: list[int]) -> None:
    """Advance TensorFlow's seed generator until it has drawn these two seeds."""
    before = now = -1
    for _ in range(_MOST_SEEDS):
        before, now = now, _next_seed()
        if [before, now] == last:
            return
    warn(
        "The seeds of TensorFlow's random operations, such as `tf.random.normal`, could not be "
        "restored: `tf.random.set_seed` was called during training, or millions of seeds were "
        "drawn. If a callback uses these operations, the student may differ from that of an "
        "uninterrupted run; `keras.random` has no such limit",
    )

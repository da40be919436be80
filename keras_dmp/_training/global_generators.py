"""The global random generators of Python, NumPy, Keras and TensorFlow, and their state.

`keras.utils.set_random_seed` makes TensorFlow forget all that it has compiled, which costs more
than an epoch of a small model. So it is called once, when a phase begins, and what the generators
have come to since is kept with the checkpoints and put back.
"""

import random
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Beyond these, which takes some seconds, TensorFlow's place among its seeds is not looked for.
_MOST_SEEDS = 1 << 22


class GlobalGenerators:
    """Seeds all of them, and takes down what they have come to.

    What TensorFlow's stateful operations (`tf.random.normal` and its like) count inside compiled
    functions cannot be read, and does not belong to the state; `keras.random` has no such counts.

    Args:
        seed: Integer.
    """

    def __init__(self, seed: int):
        self._seed = seed
        keras.utils.set_random_seed(seed)
        # Keras' generator is made when it is first used, and nothing else gives it away.
        made: list[tf.Variable] = []

        def remember(next_creator: Any, **arguments: Any) -> tf.Variable:
            made.append(next_creator(**arguments))
            return made[-1]

        with tf.variable_creator_scope(remember):
            keras.random.uniform(())
        (self._of_keras,) = made

    def state(self) -> dict[str, Any]:
        """Plain values."""
        version, words, gauss = random.getstate()
        name, keys, *rest = np.random.get_state()  # noqa: NPY002
        return {
            "python": [version, np.array(words, np.uint64), gauss],
            "numpy": [name, keys, *rest],
            "keras": keras.ops.convert_to_numpy(self._of_keras),
            "tensorflow": [_next_seed(), _next_seed()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Put a state back.

        Raises:
            ValueError: If it is not of these generators.
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
            raise ValueError(f"Expected the state of the random generators ({error})") from error


def _next_seed() -> int:
    """The seed that the next stateful operation of TensorFlow would have had."""
    return int(tf.compat.v1.random.get_seed(None)[1])


def _seek(last: list[int]) -> None:
    """Go to where two seeds have been drawn, from where the generator stands."""
    before = now = -1
    for _ in range(_MOST_SEEDS):
        before, now = now, _next_seed()
        if [before, now] == last:
            return
    warnings.warn(
        "The seeds of TensorFlow's random operations, such as `tf.random.normal`, could not be put "
        "back: something has called `tf.random.set_seed` while training, or drawn millions of "
        "them. If a callback uses them, the student may differ from that of a run that was not "
        "broken off; `keras.random` has no such limit",
        stacklevel=2,
    )

"""Operations of a model that keep something of its inputs where Keras does not see it."""

import re
from typing import Any

import keras
import tensorflow as tf

from keras_dmp.defenses._dp import stateless

# Operations that change variables, tables or queues, or that run Python code, which may do so.
# Generators of random numbers are not among them: their state depends on no input.
_WRITES = re.compile(
    r"Assign\w*|Resource(?!Gather)\w+|LookupTable(Insert|Import|Remove)\w*|\w*Enqueue\w*"
    r"|(Eager)?PyFunc\w*"
)


def hidden_writes(model: keras.Model, x: Any) -> set[str]:
    """Types of the operations that change anything but the variables that Keras knows.

    The model is traced with values in place of its variables. What still writes in that graph
    writes elsewhere, for example to a `tf.Variable` that a layer keeps.

    Args:
        model: A built classifier.
        x: Samples, a structure of arrays.

    Raises:
        ValueError: If the model cannot be traced.
    """
    weights = stateless.values_of(model.trainable_variables)
    state = stateless.values_of(model.non_trainable_variables)
    leaves = [tf.convert_to_tensor(leaf) for leaf in keras.tree.flatten(x)]

    def calls(*leaves):
        inputs = keras.tree.pack_sequence_as(x, list(leaves))
        # Training steps use both modes.
        for training in (True, False):
            stateless.call(model, weights, state, inputs, training=training)

    try:
        graph = tf.function(calls, autograph=False).get_concrete_function(*leaves).graph
    except Exception as error:  # A user's own layer may raise anything.
        raise ValueError(
            "Expected `classifier` to be callable in a graph, where all state that it keeps is "
            f"visible. Received: model {model.name!r}, for which tracing raised "
            f"{type(error).__name__}"
        ) from error
    definition = graph.as_graph_def()
    nodes = [
        *definition.node,
        *(node for of in definition.library.function for node in of.node_def),
    ]
    return {node.op for node in nodes if _WRITES.fullmatch(node.op)}

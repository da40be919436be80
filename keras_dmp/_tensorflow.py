"""The one sentence about Keras' backend: what trains or asks a model needs TensorFlow."""

import keras


def require() -> None:
    """Raise ImportError if Keras runs on another backend than TensorFlow.

    Modules that compute with TensorFlow call this when they are imported: names of the package
    load when they are first used, so that everything else works on all backends.
    """
    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            "This part of keras_dmp trains models or asks them, and needs Keras on TensorFlow: set "
            "KERAS_BACKEND=tensorflow before Keras is imported, or audit saved predictions, which "
            "works on every backend (`python -m keras_dmp audit`, `MembershipScores`). "
            f"Received: KERAS_BACKEND={keras.backend.backend()}"
        )

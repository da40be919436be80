"""The `callbacks` argument of `fit`, in all forms that Keras takes."""

from typing import Any

import keras


def as_list(callbacks: Any) -> list[keras.callbacks.Callback]:
    """A flat list from None, one callback, nested lists or a `CallbackList`.

    History and progress bar of a `CallbackList` are left out: `fit` adds its own.
    """
    if callbacks is None:
        return []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        of_fit = (keras.callbacks.History, keras.callbacks.ProgbarLogger)
        return [entry for entry in callbacks.callbacks if not isinstance(entry, of_fit)]
    flat = keras.tree.flatten(callbacks)
    for entry in flat:
        if not isinstance(entry, keras.callbacks.Callback):
            raise TypeError(
                "Expected `callbacks` to be Keras callbacks. Received: one of type "
                f"{type(entry).__name__}"
            )
    return flat

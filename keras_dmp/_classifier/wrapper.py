"""A model in a model that is not part of it."""

import keras


class Untracked:
    """Holds a model where Keras neither tracks nor saves it."""

    def __init__(self, model: keras.Model | None):
        self.model = model

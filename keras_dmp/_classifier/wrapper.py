"""Base class of the models that wrap a classifier."""

from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_dmp._classifier import class_weights, fresh
from keras_dmp._classifier.fit_arguments import require_fit
from keras_dmp._classifier.forward import single
from keras_dmp._classifier.kind import output_kind, require_model, resolve_output_kind
from keras_dmp._classifier.labels import (
    checked_data,
    fitted,
    for_validation,
    in_form,
    label_form,
)
from keras_dmp._classifier.losses import fitting_metrics, is_one_logit, single_loss
from keras_dmp._classifier.outputs import OutputKind
from keras_dmp._data import arrays, samples
from keras_dmp._data.batches import is_dataset
from keras_dmp._validate import shown
from keras_dmp.distribution.replicas import strategy_of

# Samples whose outputs show whether a model returns logits or probabilities.
_SAMPLE = slice(0, 256)
_NAMES = samples.Names("x", "y", "sample_weight")


class Untracked:
    """Holds a model or data so that Keras neither tracks nor saves it."""

    def __init__(self, held: Any):
        self.held = held


class ClassifierWrapper(keras.Model):
    """Base class of the models that wrap a classifier.

    It builds and calls the classifier under the classifier's dtype policy, accepts a classifier
    whose only output is in a dictionary, rebuilds itself from its configuration, rejects a loss
    that contradicts the outputs, and converts labels to the form that the loss expects. Losses that
    the classifier's layers add through `add_loss` and regularizers are in `losses`, as in any Keras
    model; Keras' training step adds them and scales the loss under mixed_float16. A subclass with
    its own training step uses `descend`, which also scales the loss.

    Args:
        models: The models that are arguments of the subclass, by argument name; the first one is
            the classifier.
        from_logits: Whether the classifier's outputs are logits, or None to find out.
        **kwargs: `name` and `dtype` of the model.

    Raises:
        TypeError: If one of the models is not a Keras model.
    """

    # Names of arguments of `__init__`: models, and other settings to save with the model.
    _MODELS: ClassVar[tuple[str, ...]] = ("classifier",)
    _SETTINGS: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, models: dict[str, keras.Model], *, from_logits: bool | None = None, **kwargs: Any
    ):
        for name, model in models.items():
            require_model(model, name)
        kwargs.setdefault("dtype", models[self._MODELS[0]].dtype_policy)
        super().__init__(**kwargs)
        for name, model in models.items():
            setattr(self, name, model)
        self.from_logits = from_logits
        self._kind: OutputKind | None = None
        # The arguments of `compile`, and the kind of outputs that metrics were chosen for.
        self._compiled_with, self._compiled_for = Untracked({}), Untracked(None)
        self.built = all(model.built for model in models.values())

    @property
    def wrapped(self) -> keras.Model:
        """The classifier, under whatever name the subclass stores it."""
        return getattr(self, self._MODELS[0])

    def build(self, input_shape: Any) -> None:
        """Build the classifier."""
        if not self.wrapped.built:
            self.wrapped.build(input_shape)
        self.built = True

    def call(self, inputs, training=None):
        """Return the classifier's outputs."""
        return single(self.wrapped(inputs, training=training))

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configure training like `keras.Model.compile`, for one output.

        Args:
            optimizer: As in `keras.Model.compile`.
            loss: A loss, or a list or dictionary with one entry.
            loss_weights: A number, or a list or dictionary with one entry.
            metrics: Metrics, or a dictionary with one entry. For a single logit, `"accuracy"`
                is the accuracy of the classes, with a threshold of 0.
            weighted_metrics: The same for weighted metrics.
            **kwargs: As in `keras.Model.compile`.

        Raises:
            ValueError: If there are several losses, or the loss contradicts the classifier's
                outputs.
        """
        loss = single_loss(loss)
        kind = self._resolved_kind(loss)
        self._compiled_with.held = {
            "loss": loss,
            "loss_weights": single_loss(loss_weights, "loss_weights"),
            "metrics": _of_one_output(metrics, "metrics"),
            "weighted_metrics": _of_one_output(weighted_metrics, "weighted_metrics"),
            **kwargs,
        }
        self._compile(optimizer, self._kind or kind)

    def compile_from_config(self, config: dict) -> None:
        """Compile a loaded model with its saved configuration."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: list[keras.callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train the classifier like `keras.Model.fit`, after checking all data.

        Args:
            x: Arrays, or a dataset, which is read once before the training; of an infinite one,
                the first batch is.
            y: Labels in any form; None for a dataset.
            batch_size: As in `keras.Model.fit`.
            epochs: As in `keras.Model.fit`.
            verbose: As in `keras.Model.fit`.
            callbacks: As in `keras.Model.fit`.
            validation_split: As in `keras.Model.fit`.
            validation_data: `(x, y)`, `(x, y, sample_weight)` or a dataset of them.
            shuffle: As in `keras.Model.fit`.
            class_weight: Weights by class number; other classes have the weight 1. With
                `sample_weight` the two are multiplied.
            sample_weight: One weight per sample; None for a dataset.
            **kwargs: As in `keras.Model.fit`.

        Returns:
            The `History` of the training.

        Raises:
            ValueError: Before the first step, for data that does not fit the classifier.
        """
        self.require_compiled()
        require_fit(
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            validation_split=validation_split,
            shuffle=shuffle,
            **kwargs,
        )
        samples.require_same_columns(self.wrapped, x=x, validation_data=validation_data)
        self.settle(samples.first(x, "x", self.wrapped))
        x, y, sample_weight = self._checked_data(x, y, sample_weight, names=_NAMES)
        if class_weight is not None:
            x, sample_weight = self._with_class_weight(
                x, y, sample_weight, class_weight, validation_split
            )
        return self.fit_checked(
            x,
            y,
            batch_size,
            epochs,
            verbose,
            callbacks,
            validation_split,
            validation_data=self.checked_validation(validation_data),
            shuffle=shuffle,
            sample_weight=sample_weight,
            **kwargs,
        )

    def fit_checked(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """`keras.Model.fit` on data that has been checked."""
        return super().fit(*args, **kwargs)

    def train_step(self, data: Any) -> dict:
        """Train on one batch, with labels in the form that the loss expects."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return super().train_step((x, self.labels_in_form(y), sample_weight))

    def test_step(self, data: Any) -> dict:
        """Evaluate one batch, with labels in the form that the loss expects."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return super().test_step((x, self.labels_in_form(y), sample_weight))

    def get_config(self) -> dict:
        """Return the arguments that rebuild this model."""
        config = super().get_config()
        for name in self._MODELS:
            config[name] = keras.saving.serialize_keras_object(getattr(self, name))
        config |= {name: getattr(self, name) for name in self._SETTINGS}
        if self._kind is not None and "from_logits" in config:
            config["from_logits"] = self._kind.from_logits
        return config

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None):
        """Rebuild a model from the result of `get_config`."""
        models = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in cls._MODELS
        }
        return cls(**{**config, **models})

    def require_compiled(self) -> None:
        """Raise ValueError unless the model is compiled with a loss and an optimizer."""
        if not self.compiled:
            raise ValueError(
                "Expected the model to be compiled. Received: "
                f"{type(self).__name__} {self.name!r}, which is not compiled; call `compile` "
                "before `fit`"
            )

    def use_kind(self, kind: OutputKind) -> None:
        """Set the kind of the outputs, and discard what was made for another kind."""
        self.built = True
        if kind == self._kind:
            return
        self._kind = kind
        self.train_function = self.test_function = None
        if self.compiled and is_one_logit(kind) != is_one_logit(self._compiled_for.held):
            self._compile(self.optimizer, kind)

    def settle(self, x: Any) -> OutputKind:
        """Build the classifier and determine the kind of its outputs, before the first step.

        Args:
            x: Validated samples, a structure of arrays.

        Raises:
            ValueError: If the kind is unknown, or the loss, the last activation and the values of
                the outputs contradict each other.
        """
        sample = arrays.take(x, _SAMPLE)
        fresh.ensure_built(self.wrapped, sample)
        kind = output_kind(self.wrapped, self._MODELS[0], sample, self.from_logits, loss=self.loss)
        self.use_kind(kind)
        self.from_logits = kind.from_logits
        return kind

    def fitted_labels(self, y: Any, name: str, *, x: Any, x_name: str = "x") -> Any:
        """The result of `fitted` for the loss; call `settle` first."""
        form = label_form(self.loss, self._kind)
        return fitted(y, form, self._kind, name, x=x, x_name=x_name)

    def checked_validation(self, validation_data: Any) -> Any:
        """Validation data that fits classifier and loss, for `fit_checked`; call `settle` first.

        Raises:
            ValueError: If it does not fit.
        """
        if validation_data is None:
            return None
        columns = (
            (validation_data,)
            if is_dataset(validation_data)
            else keras.utils.unpack_x_y_sample_weight(validation_data)
        )
        return for_validation(
            *self._checked_data(*columns, names=samples.Names.of("validation_data"))
        )

    def labels_in_form(self, y: Any) -> Any:
        """Labels of a batch in the form that the loss expects; unchanged if it is unknown."""
        kind = self._kind or self._resolved_kind(self.loss)
        if y is None or kind is None:
            return y
        return in_form(y, label_form(self.loss, kind), kind)

    def descend(self, compute: Callable[[], tuple[Any, Any]]) -> Any:
        """Take one gradient step on a loss, which is scaled under mixed_float16.

        Args:
            compute: Returns the loss and a second value.

        Returns:
            The second value.
        """
        weights = self.trainable_weights
        with tf.GradientTape() as tape:
            loss, found = compute()
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return found

    def track_loss(self, loss: Any, num_samples: Any) -> None:
        """Add the loss of a batch to the running mean in the logs."""
        mean = next(metric for metric in self.metrics if metric.name == "loss")
        mean.update_state(loss, sample_weight=num_samples)

    def _compile(self, optimizer: Any, kind: OutputKind | None) -> None:
        """Compile with the accuracy that fits the outputs, as far as their kind is known."""
        self._compiled_for.held = kind
        arguments = {**self._compiled_with.held}
        for name in ("metrics", "weighted_metrics"):
            arguments[name] = fitting_metrics(arguments[name], kind)
        with strategy_of(self.wrapped).scope():
            super().compile(optimizer, **arguments)

    def _checked_data(self, *columns: Any, names: samples.Names) -> tuple[Any, Any, Any]:
        form = label_form(self.loss, self._kind)
        return checked_data(*columns, names=names, model=self.wrapped, kind=self._kind, form=form)

    def _with_class_weight(
        self, x: Any, y: Any, sample_weight: Any, class_weight: Any, validation_split: float
    ) -> tuple[Any, Any]:
        """Checked samples and weights, or a dataset, with the weights of classes."""
        num_classes = self._kind.num_classes
        class_weights.require_class_weight(class_weight, num_classes)
        if is_dataset(x):
            return class_weights.weighted(x, class_weight, num_classes), None
        rows = y.ndim == 2 and y.shape[1] > 1
        classes = y.argmax(axis=1) if rows else samples.checked_labels(y, num_classes, "y")
        if validation_split:
            # The last samples, which validate, keep their weights, as in Keras.
            classes = classes[: int(len(y) * (1 - validation_split))]
        weights = np.ones(len(y), np.float32) if sample_weight is None else sample_weight.copy()
        weights[: len(classes)] = class_weights.sample_weights(
            classes, weights[: len(classes)], class_weight, num_classes
        )
        return x, weights

    def _resolved_kind(self, loss: Any) -> OutputKind | None:
        """Kind of the outputs, if it is known without samples; otherwise None."""
        return resolve_output_kind(
            self.wrapped, self._MODELS[0], from_logits=self.from_logits, loss=loss, required=False
        )


def _of_one_output(metrics: Any, name: str) -> Any:
    """The metrics in a dictionary with one entry; other structures are returned unchanged."""
    if not isinstance(metrics, dict):
        return metrics
    if len(metrics) != 1:
        raise ValueError(
            f"Expected `{name}` to be a list, or a dictionary with one entry, since a classifier "
            f"has one output. Received: {name}={shown(metrics)}"
        )
    (found,) = metrics.values()
    return found if isinstance(found, list | tuple) else [found]

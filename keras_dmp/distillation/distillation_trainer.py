"""The student phase: a Keras model that trains its student on a teacher's predictions."""

import os
from typing import Any

import keras
import tensorflow as tf

from keras_dmp import _validate
from keras_dmp._classifier import kind as kinds
from keras_dmp._classifier.fit_arguments import require_fit
from keras_dmp._classifier.forward import single
from keras_dmp._classifier.labels import one_hot_labels
from keras_dmp._classifier.logits import harden, one_hot_choice
from keras_dmp._classifier.losses import cross_entropy
from keras_dmp._classifier.pair import require_separate
from keras_dmp._classifier.wrapper import ClassifierWrapper, Untracked
from keras_dmp._data import samples
from keras_dmp._data.batches import is_dataset, require_readable
from keras_dmp._training import callback_state
from keras_dmp._training.labeled_data import checked_validation
from keras_dmp._training.loop import ResidentLoop
from keras_dmp._training.resident import ResidentBatches, new_seed
from keras_dmp._validate import shown
from keras_dmp.distillation.labeler import Labeler
from keras_dmp.distillation.metrics import for_one_hot_labels, require_metrics
from keras_dmp.distillation.settings import checked_storage, require_compile, require_settings
from keras_dmp.distribution import replicas
from keras_dmp.losses import SoftTargetKLDivergence
from keras_dmp.reference import labeling
from keras_dmp.reference.labeled_reference import LabeledReference
from keras_dmp.reference.selector import EntropyReferenceSelector, selector_among


@keras.saving.register_keras_serializable(package="keras_dmp")
class DistillationTrainer(ClassifierWrapper):
    """Trains a student only on a teacher's predictions for reference data.

    Third phase of DMP (Shejwalkar & Houmansadr, AAAI 2021): minimises
    `SoftTargetKLDivergence` between the teacher's and the student's prediction on each
    reference sample. It uses no labels.

    `fit(x_reference)` queries the teacher once per sample before the first step and keeps its
    outputs for that call. The teacher is not changed, and no file that the trainer or a callback
    writes contains it: after loading, call `attach_teacher`, or pass precomputed outputs,
    `fit(x_reference, teacher_outputs)`.

    Metrics see labels as one-hot rows. While training, the label of a sample is the teacher's
    most probable class, so `accuracy` is agreement with the teacher; with `validation_data`
    and in `evaluate` it is the true label. `loss` is the divergence from the teacher,
    `val_loss` the cross-entropy with the true labels; both include the student's
    regularizers.

    Args:
        student: Classifier to train, with one output `(batch, classes)` or, for a sigmoid
            head, `(batch, 1)`.
        teacher: Trained classifier with outputs of the same kind. Defaults to `None`: `fit`
            then needs its outputs.
        temperature: Number from 1e-6 to 1e6 that divides the logits of both. Defaults to 1.
        label_temperature: Number from 1e-6 to 1e6 that divides the teacher's logits alone, besides
            `temperature`: its probabilities are sharpened below 1 and softened above, and the
            student learns the result. A selector still ranks by the teacher's own probabilities.
            Defaults to 1.
        labels: `"soft"` for the teacher's probabilities, `"hard"` for its most probable class,
            which reveals less about the members and reduces accuracy. Defaults to `"soft"`.
        compensate_temperature: Boolean. Whether to multiply the loss by `temperature ** 2`.
            Defaults to `False`.
        from_logits: Whether the outputs are logits. Defaults to `None`: read from the compiled
            loss, the last activation or the values.
        cache: Boolean. Whether the teacher labels every sample once, before the first step.
            Otherwise it labels each batch during training, for pipelines that augment, at the
            cost of one forward pass per step; only the first samples are then checked. Defaults
            to `True`.
        drop_labels: Boolean. Whether the labels of a dataset of `(x, y)` are ignored; otherwise
            such a dataset is refused. Defaults to `False`.
        label_format: How the teacher's outputs are stored: `"float32"`, `"float16"`, or a whole
            number k for the k most probable classes, with the remaining probability spread evenly
            over the others. Defaults to `None`: float32 in memory, float16 on disk.
        memory_limit: Bytes of samples and outputs to keep in memory; if there are more, they go to
            temporary files. Defaults to `None`: a quarter of the machine's memory.
        distribution_strategy: The `tf.distribute.Strategy` in whose scope the student was built.
            Optimizers and metrics are created there too. Defaults to `None`: the student's.
        **kwargs: `name` and `dtype` of the model.

    Raises:
        TypeError: For models that are not Keras models.
        ValueError: For arguments out of range, and in `fit`, before the first step, for data or
            models that do not fit together.

    Example:
    >>> import keras, numpy as np
    >>> net = lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> trainer = DistillationTrainer(net(), teacher=net())
    >>> trainer.compile("adam")
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> list(trainer.fit(x, epochs=2, verbose=0).history)
    ['loss']
    """

    _MODELS = ("student",)
    _SETTINGS = (
        "temperature",
        "label_temperature",
        "labels",
        "compensate_temperature",
        "from_logits",
        "cache",
        "drop_labels",
        "label_format",
        "memory_limit",
    )

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | None = None,
        *,
        temperature: float = 1.0,
        label_temperature: float = 1.0,
        labels: str = "soft",
        compensate_temperature: bool = False,
        from_logits: bool | None = None,
        cache: bool = True,
        drop_labels: bool = False,
        label_format: str | int | None = None,
        memory_limit: int | None = None,
        distribution_strategy: tf.distribute.Strategy | None = None,
        **kwargs: Any,
    ):
        kinds.require_model(student, "student")
        require_settings(temperature, label_temperature, labels, compensate_temperature)
        kinds.require_from_logits(from_logits)
        _validate.boolean(cache=cache, drop_labels=drop_labels)
        storage = checked_storage(label_format, memory_limit)
        with replicas.chosen({"student": student}, distribution_strategy).scope():
            super().__init__({"student": student}, from_logits=from_logits, **kwargs)
        self.temperature = float(temperature)
        self.label_temperature = float(label_temperature)
        self.labels = labels
        self.compensate_temperature = compensate_temperature
        self.cache = cache
        self.drop_labels = drop_labels
        self.label_format, self.memory_limit = storage
        self._loop = ResidentLoop()
        self._source = Untracked(None)
        self._validation = Untracked(None)
        if teacher is not None:
            self.attach_teacher(teacher)

    def attach_teacher(self, teacher: keras.Model) -> None:
        """Set the teacher that `fit` queries; it is not saved with the trainer."""
        kinds.require_model(teacher, "teacher")
        require_separate(self.student, teacher)
        self._source = Untracked(teacher)
        # A traced step may contain the previous teacher.
        self.train_function = None

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        *,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int | None = None,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
        fast_loop: bool = True,
    ) -> None:
        """Configure the training; the loss is fixed.

        Args:
            optimizer: As in `keras.Model.compile`.
            loss: Must be `None`: it is `SoftTargetKLDivergence` with the trainer's temperature.
            metrics: Metrics of one-hot labels; Keras' sparse metrics are translated.
            weighted_metrics: The same, weighted by `sample_weight`.
            run_eagerly: As in `keras.Model.compile`.
            steps_per_execution: As in `keras.Model.compile`. Defaults to `None`: 1.
            jit_compile: As in `keras.Model.compile`. With `fast_loop`, `"auto"` also compiles
                steps, or the optimizer's updates, on a CPU where the training is long enough.
            auto_scale_loss: As in `keras.Model.compile`.
            fast_loop: Boolean. Whether steps of operations known to be pure may gather batches
                from memory, in one replica on a CPU; results agree up to rounding. Everything else
                uses Keras' loop, which on a GPU compiles and prefetches. Defaults to `True`.

        Raises:
            ValueError: If a loss is passed, or an argument is out of range.
        """
        of_keras = {
            "run_eagerly": run_eagerly,
            "steps_per_execution": 1 if steps_per_execution is None else steps_per_execution,
            "jit_compile": jit_compile,
            "auto_scale_loss": auto_scale_loss,
        }
        require_compile(fast_loop=fast_loop, **of_keras)
        require_metrics(metrics, "metrics")
        require_metrics(weighted_metrics, "weighted_metrics")
        if loss is not None:
            raise ValueError(
                "Expected `loss` to be None: DistillationTrainer minimises "
                f"SoftTargetKLDivergence(temperature={self.temperature}). "
                f"Received: loss={shown(loss)}"
            )
        self.fast_loop = fast_loop
        self._loop.compiles = jit_compile == "auto"
        with replicas.scope_for(self, optimizer=optimizer, metrics=[metrics, weighted_metrics]):
            super().compile(
                optimizer=optimizer,
                metrics=for_one_hot_labels(metrics),
                weighted_metrics=for_one_hot_labels(weighted_metrics),
                **of_keras,
            )

    def get_compile_config(self) -> dict | None:
        """Return the arguments of `compile`, serialized."""
        config = super().get_compile_config() or {}
        config.pop("loss_weights", None)
        return {**config, "fast_loop": self.fast_loop} if config else None

    def make_train_function(self, force: bool = False) -> Any:
        """Create the function that `fit` calls for each step; `force` replaces an existing one."""
        if self.train_function is None or force:
            super().make_train_function(force=True)
            if self.fast_loop:
                self.train_function = self._loop.train_function(self, self.train_function)
        return self.train_function

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        *,
        verbose: Any = "auto",
        callbacks: list[keras.callbacks.Callback] | None = None,
        validation_data: Any = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
    ) -> keras.callbacks.History:
        """Train the student on reference samples.

        Args:
            x: Reference samples: arrays, `tf.data.Dataset` or `PyDataset`, without labels, or a
                `LabeledReference`. With `cache=True` a dataset is read once and stored.
            y: The teacher's outputs for `x`, (samples, units), if the trainer has no teacher.
            batch_size: Samples per step. Defaults to the dataset's, or 32.
            epochs: As in `keras.Model.fit`.
            verbose: As in `keras.Model.fit`.
            callbacks: As in `keras.Model.fit`. An `EntropyReferenceSelector` among them narrows
                the reference before the first step.
            validation_data: `(x, labels)`, `(x, labels, sample_weight)` or a dataset of them,
                with true labels: integers, a column or one-hot.
            shuffle: Boolean. Whether each epoch has its own order; a cached dataset is shuffled
                too. Without `cache` a dataset keeps its own order.
            sample_weight: One weight per reference sample; a dataset contains its own.
            initial_epoch: As in `keras.Model.fit`.
            steps_per_epoch: The same, only without `cache`.
            validation_steps: As in `keras.Model.fit`.
            validation_batch_size: As in `keras.Model.fit`.
            validation_freq: As in `keras.Model.fit`.

        Returns:
            The `History` of the training.

        Raises:
            ValueError: Before the first step, for anything that cannot be trained on.
        """
        self.require_compiled()
        _validate.boolean(shuffle=shuffle)
        require_fit(
            epochs=epochs,
            initial_epoch=initial_epoch,
            validation_freq=validation_freq,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
        )
        verbose = _validate.verbosity(verbose)
        callbacks = callback_state.as_list(callbacks)
        selector = selector_among(callbacks)
        arguments = {
            "epochs": epochs,
            "verbose": verbose,
            "initial_epoch": initial_epoch,
            "validation_steps": validation_steps,
            "validation_batch_size": validation_batch_size or batch_size,
            "validation_freq": validation_freq,
        }
        labeler = self._labeler()
        if not self.cache and is_dataset(x):
            x, kind = labeler.while_training(x, y, sample_weight, selector)
            self.use_kind(kind)
            if steps_per_epoch is None:
                require_readable(x, "x")
            arguments["validation_data"] = self._checked(validation_data)
            return self.fit_checked(
                x, steps_per_epoch=steps_per_epoch, callbacks=callbacks, shuffle=False, **arguments
            )
        if steps_per_epoch is not None:
            raise ValueError(
                "Expected `steps_per_epoch` to be None: an epoch is one pass over the chosen "
                f"samples. Received: steps_per_epoch={shown(steps_per_epoch)}"
            )
        source, kind = labeler.open(x, y, sample_weight)
        self.use_kind(kind)
        arguments["validation_data"] = self._checked(validation_data)
        data = labeler.narrowed(source, kind, selector, verbose=verbose == 1)
        batches = ResidentBatches(
            data.columns(),
            batch_size=batch_size or data.batch_size or 32,
            shuffle=shuffle,
            seed=replicas.agreed(self.distribute_strategy, new_seed()),
            decode=data.decode,
        )
        return self._loop.fit(self, batches, self.fit_checked, callbacks=callbacks, **arguments)

    def label(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        selector: EntropyReferenceSelector | None = None,
        directory: str | os.PathLike | None = None,
        num_samples: int | None = None,
        verbose: int | str = 0,
    ) -> LabeledReference:
        """Label reference samples with the teacher, once, for several trainings.

        A dataset of any size is read once: with a selector, only the best samples so far are
        kept, and data that exceeds `memory_limit` is written to files.

        Args:
            x: Arrays, `tf.data.Dataset` or `PyDataset`, as in `fit`.
            y: As in `fit`.
            sample_weight: As in `fit`.
            selector: Chooses from the samples. Defaults to `None`: all of them.
            directory: Folder for files. Defaults to the folder for temporary files.
            num_samples: Number of samples of a dataset, if known: `fraction` and
                `balance_classes` then keep fewer samples while it is read.
            verbose: 0, 1, 2 or `"auto"`, as in `keras.Model.predict`. Defaults to 0.

        Returns:
            A `LabeledReference` for `fit`.

        Raises:
            OSError: If the disk is full.
            ValueError: As in `fit`.
        """
        options = {"directory": directory, "num_samples": num_samples, "verbose": verbose}
        return self.label_many(x, y, sample_weight, selectors=[selector], **options)[0]

    def label_many(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        selectors: list[EntropyReferenceSelector | None],
        num_samples: int | None = None,
        **options: Any,
    ) -> list[LabeledReference]:
        """Label once, in one pass, for several selectors; otherwise like `label`."""
        labeler = self._labeler()
        source, kind = labeler.open(x, y, sample_weight, num_samples)
        self.use_kind(kind)
        return labeler.label(source, kind, selectors, **options)

    def evaluate(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        """Return loss and metrics of the student on true labels, as in `keras.Model.evaluate`.

        The loss is the cross-entropy with the labels: integers, a column or one-hot.
        """
        if not self._is_checked(x):
            if self._kind is None:
                sample = samples.first(x, "x", self.student)
                self.use_kind(kinds.output_kind(self.student, "student", sample, self.from_logits))
            given = x if is_dataset(x) else (x, y)
            data = checked_validation(given, self.student, self._kind)
            x, y = (x, y) if is_dataset(x) else data
        return super().evaluate(x, y, **kwargs)

    def train_step(self, data: Any) -> dict:
        """Take one step on a batch of reference samples."""
        x, outputs, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if self._kind is None:  # `train_on_batch` before any `fit`
            self._kind = kinds.resolve_output_kind(
                self.student, "student", from_logits=self.from_logits
            )
        if outputs.shape[-1] == 0:
            outputs = single(self._source.held(x, training=False))
        if self.labels == "hard":
            outputs = harden(outputs, from_logits=self._kind.from_logits)
        return super().train_step((x, outputs, sample_weight))

    def test_step(self, data: Any) -> dict:
        """Evaluate a batch with true labels."""
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        one_hot = one_hot_labels(labels, self._kind)
        return super().test_step((x, one_hot, sample_weight))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the divergence from the teacher, or, in evaluation, the labels' cross-entropy."""
        if training:
            loss = SoftTargetKLDivergence(
                self.temperature,
                label_temperature=self.label_temperature,
                compensate_temperature=self.compensate_temperature,
                from_logits=self._kind.from_logits,
            )
        else:
            loss = cross_entropy(self._kind, one_hot=True, dtype="float32")
        samples = keras.ops.shape(y_pred)[0] if training else None
        return replicas.with_penalties(loss(y, y_pred, sample_weight), self.losses, samples)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Update the metrics with one-hot labels: the true ones, or the teacher's choice."""
        if y is not None:
            y = one_hot_choice(y, from_logits=self._kind.from_logits)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _labeler(self) -> Labeler:
        return Labeler(
            student=self.student,
            teacher=self._source.held,
            from_logits=self.from_logits,
            cache=self.cache,
            drop_labels=self.drop_labels,
            storage=labeling.Storage(self.label_format, self.memory_limit),
        )

    def _checked(self, validation_data: Any) -> Any:
        """Validation data, checked once for all epochs: Keras' `fit` passes it to `evaluate`."""
        self._validation = Untracked(checked_validation(validation_data, self.student, self._kind))
        return self._validation.held

    def _is_checked(self, x: Any) -> bool:
        data = self._validation.held
        return x is not None and x is (data[0] if isinstance(data, tuple) else data)

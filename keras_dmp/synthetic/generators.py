"""Small variational autoencoders in Keras that generate images or records of a table."""

import abc
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dmp._classifier import forward
from keras_dmp._training.resident import ResidentBatches
from keras_dmp.synthetic.table_columns import TableColumns

_LEARNING_RATE = 1e-3
_LATENT = 16
_WIDTHS = (256, 128)
_FILTERS = (32, 64)
_IMAGE_WIDTH = 128
# Log variances are clipped to this range, beyond which their exponential is useless.
_LOG_VARIANCES = (-8.0, 8.0)


class Generator(abc.ABC):
    """Learns the distribution of samples, and draws new samples.

    Kingma & Welling, "Auto-encoding variational Bayes", ICLR 2014. New samples are decoded from
    codes drawn from the standard normal distribution. The seed determines everything; no global
    random generator is used.

    Args:
        seed: Integer, the seed of weights, training and draws.
    """

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)
        self._decoder: keras.Model | None = None

    def fit(self, x: np.ndarray, *, epochs: int, batch_size: int, verbose: int) -> None:
        """Train on samples, (samples, ...)."""
        data = self._encode(x)
        encoder, self._decoder = self._networks()
        model = _Autoencoder(encoder, self._decoder, _seed(self._rng))
        model.compile(keras.optimizers.Adam(_LEARNING_RATE), self._loss(), jit_compile=False)
        # Creating the optimizer's variables in the first step would trace it twice.
        model.optimizer.build(model.trainable_variables)
        batches = ResidentBatches(
            (data, data), batch_size=batch_size, shuffle=True, seed=_seed(self._rng)
        )
        model.fit(**batches.for_fit(model), epochs=epochs, callbacks=[batches], verbose=verbose)

    def draw(self, count: int) -> np.ndarray:
        """Draw new samples, (count, ...), with the shape and dtype of the training samples."""
        codes = self._rng.standard_normal((count, _LATENT)).astype(np.float32)
        return self._decode(forward.predict(self._decoder, codes))

    @property
    @abc.abstractmethod
    def scale(self) -> np.ndarray | float:
        """Scale of the features, used for distances."""

    @abc.abstractmethod
    def _networks(self) -> tuple[keras.Model, keras.Model]:
        """Encoder, which returns means and log variances of codes, and decoder."""

    @abc.abstractmethod
    def _loss(self) -> keras.losses.Loss:
        """Negative log likelihood of a sample under the decoder's outputs."""

    @abc.abstractmethod
    def _encode(self, x: np.ndarray) -> np.ndarray: ...

    @abc.abstractmethod
    def _decode(self, outputs: np.ndarray) -> np.ndarray: ...


class TableGenerator(Generator):
    """Generates records of a table: Bernoulli for binary columns, normal for the others."""

    def __init__(self, x: np.ndarray, seed: int):
        super().__init__(seed)
        self.columns = TableColumns.of(x)

    @property
    def scale(self) -> np.ndarray:
        """1 for binary columns, the standard deviation for others."""
        return self.columns.scale

    def _networks(self) -> tuple[keras.Model, keras.Model]:
        dense = _dense(self._rng)
        columns = self.columns
        layers = [keras.Input((len(columns.is_binary),))]
        layers += [dense(width, "relu") for width in _WIDTHS]
        encoder = keras.Sequential([*layers, dense(2 * _LATENT)])
        layers = [keras.Input((_LATENT,)), *(dense(width, "relu") for width in _WIDTHS[::-1])]
        decoder = keras.Sequential([*layers, dense(columns.num_binary + 2 * columns.num_real)])
        return encoder, decoder

    def _loss(self) -> keras.losses.Loss:
        return _TableLoss(self.columns.num_binary, self.columns.num_real)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return self.columns.encode(x)

    def _decode(self, outputs: np.ndarray) -> np.ndarray:
        binary, real = self.columns.num_binary, self.columns.num_real
        means, log_variances = outputs[:, binary : binary + real], outputs[:, binary + real :]
        log_variances = np.clip(log_variances, *_LOG_VARIANCES)
        return self.columns.draw(outputs[:, :binary], means, log_variances, self._rng)


class ImageGenerator(Generator):
    """Generates images (height, width, channels) with convolutions, as the mean of each pixel."""

    def __init__(self, x: np.ndarray, seed: int):
        super().__init__(seed)
        self._shape, self._dtype = x.shape[1:], x.dtype
        self._low, high = float(x.min()), float(x.max())
        self._range = (high - self._low) or 1.0
        self._spread = float(x.std(dtype=np.float64)) or 1.0

    @property
    def scale(self) -> float:
        """The standard deviation of all pixels."""
        return self._spread

    def _networks(self) -> tuple[keras.Model, keras.Model]:
        dense = _dense(self._rng)
        height, width, channels = self._shape
        layers = [keras.Input(self._shape)]
        for filters in _FILTERS:
            layers.append(_convolution(keras.layers.Conv2D, filters, self._rng, "relu"))
        layers += [keras.layers.Flatten(), dense(_IMAGE_WIDTH, "relu"), dense(2 * _LATENT)]
        encoder = keras.Sequential(layers)
        small = (-(-height // 4), -(-width // 4), _FILTERS[-1])
        layers = [
            keras.Input((_LATENT,)),
            dense(_IMAGE_WIDTH, "relu"),
            dense(int(np.prod(small)), "relu"),
            keras.layers.Reshape(small),
        ]
        for filters, activation in ((_FILTERS[0], "relu"), (channels, None)):
            layers.append(
                _convolution(keras.layers.Conv2DTranspose, filters, self._rng, activation)
            )
        # Sizes that are not divisible by four were rounded up.
        excess = ((0, 4 * small[0] - height), (0, 4 * small[1] - width))
        decoder = keras.Sequential([*layers, keras.layers.Cropping2D(excess)])
        return encoder, decoder

    def _loss(self) -> keras.losses.Loss:
        return _ImageLoss()

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return ((x.astype(np.float32) - self._low) / self._range).astype(np.float32)

    def _decode(self, outputs: np.ndarray) -> np.ndarray:
        pixels = self._low + self._range / (1 + np.exp(-np.clip(outputs, -30, 30)))
        if self._dtype.kind in "iu":
            pixels = np.round(pixels)
        return pixels.astype(self._dtype)


class _Autoencoder(keras.Model):
    """Encodes, draws a code and decodes; adds the KL divergence of codes from N(0, I) as a loss."""

    def __init__(self, encoder: keras.Model, decoder: keras.Model, seed: int):
        super().__init__(name="autoencoder", dtype="float32")
        self.encoder = encoder
        self.decoder = decoder
        self.noise = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=None):
        """Return the decoder's outputs for a code drawn for each sample."""
        mean, log_variance = ops.split(self.encoder(inputs, training=training), 2, axis=-1)
        log_variance = ops.clip(log_variance, *_LOG_VARIANCES)
        divergence = ops.exp(log_variance) + ops.square(mean) - 1.0 - log_variance
        self.add_loss(0.5 * ops.mean(ops.sum(divergence, axis=-1)))
        noise = keras.random.normal(ops.shape(mean), seed=self.noise)
        return self.decoder(mean + ops.exp(0.5 * log_variance) * noise, training=training)


class _TableLoss(keras.losses.Loss):
    """Negative log likelihood: Bernoulli for binary columns, normal for the others."""

    def __init__(self, num_binary: int, num_real: int):
        super().__init__(name="table_loss")
        self._binary, self._real = num_binary, num_real

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the negative log likelihood of each record, (batch,), up to a constant."""
        end = self._binary + self._real
        logits, means = y_pred[:, : self._binary], y_pred[:, self._binary : end]
        log_variances = ops.clip(y_pred[:, end:], *_LOG_VARIANCES)
        squares = ops.square(y_true[:, self._binary :] - means) * ops.exp(-log_variances)
        of_binary = _cross_entropy(y_true[:, : self._binary], logits)
        return ops.sum(of_binary, axis=-1) + 0.5 * ops.sum(squares + log_variances, axis=-1)


class _ImageLoss(keras.losses.Loss):
    """Cross-entropy of the pixels, which are scaled to [0, 1]."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the sum over the pixels of each image, (batch,)."""
        return ops.sum(_cross_entropy(y_true, y_pred), axis=(1, 2, 3))


def _cross_entropy(y_true: Any, logits: Any) -> Any:
    return ops.softplus(logits) - y_true * logits


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _dense(rng: np.random.Generator) -> Callable[..., keras.layers.Layer]:
    """Return a factory of float32 dense layers whose weights are seeded from `rng`."""

    def dense(units: int, activation: str | None = None) -> keras.layers.Layer:
        initializer = keras.initializers.GlorotUniform(seed=_seed(rng))
        return keras.layers.Dense(
            units, activation, kernel_initializer=initializer, dtype="float32"
        )

    return dense


def _convolution(
    layer: type[keras.layers.Layer], filters: int, rng: np.random.Generator, activation: str | None
) -> keras.layers.Layer:
    return layer(
        filters,
        3,
        strides=2,
        padding="same",
        activation=activation,
        kernel_initializer=keras.initializers.GlorotUniform(seed=_seed(rng)),
        dtype="float32",
    )

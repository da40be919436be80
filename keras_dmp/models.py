"""The networks of the DMP paper's experiments, and a small convolutional network.

Each function builds a new, uncompiled model that returns logits. To pass one to
`keras_dmp.DMPTrainer`, wrap it in a callable: `lambda: fully_connected((600,), 100)`.
"""

from collections.abc import Sequence

import keras

from keras_dmp import _validate

__all__ = ["alexnet", "densenet_bc", "fully_connected", "small_convnet"]


def fully_connected(
    input_shape: Sequence[int],
    num_classes: int,
    hidden: Sequence[int] = (1024, 512, 256, 128),
    *,
    activation: str = "tanh",
) -> keras.Model:
    """The fully connected network for Purchase100 and Texas100.

    Args:
        input_shape: Shape of one record, such as `(600,)`; several axes are flattened.
        num_classes: Integer of at least 2, the number of logits.
        hidden: Sequence of integers, the width of each hidden layer. Defaults to
            `(1024, 512, 256, 128)`, as in the paper.
        activation: String, the activation of the hidden layers. Defaults to `"tanh"`, as in the
            paper.

    Returns:
        A `keras.Model` that maps `(batch, *input_shape)` to logits `(batch, num_classes)`.

    Raises:
        ValueError: If `num_classes` is less than 2, or a size is not a whole number above 0.

    Example:
        >>> from keras_dmp.models import fully_connected
        >>> fully_connected((600,), 100).count_params()
        1317348
    """
    _validate.integers_at_least(1, hidden=hidden)
    inputs = _inputs(input_shape, num_classes)
    x = keras.layers.Flatten()(inputs) if len(inputs.shape) > 2 else inputs
    for width in hidden:
        x = keras.layers.Dense(width, activation=activation)(x)
    logits = keras.layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, logits, name="fully_connected")


def small_convnet(input_shape: Sequence[int], num_classes: int) -> keras.Model:
    """Two convolutions and a dense layer, for small images such as those of Fashion-MNIST.

    Args:
        input_shape: `(height, width, channels)` of one image, such as `(28, 28, 1)`; height and
            width are at least 4.
        num_classes: Integer of at least 2, the number of logits.

    Returns:
        A `keras.Model` that maps `(batch, *input_shape)` to logits `(batch, num_classes)`.

    Raises:
        ValueError: If the images are too small, `num_classes` is less than 2, or a size is not a
            whole number above 0.
    """
    inputs = _image_inputs(input_shape, num_classes, smallest=4)
    x = inputs
    for filters in (32, 64):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(128, activation="relu")(x)
    logits = keras.layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, logits, name="small_convnet")


def alexnet(input_shape: Sequence[int] = (32, 32, 3), num_classes: int = 10) -> keras.Model:
    """AlexNet in its common reduction for CIFAR: five convolutions and one dense layer.

    The first convolution has 64 filters of 11 x 11 with a stride of 4, and there are no hidden
    dense layers, as in `models/cifar/alexnet.py` of the repository bearpaw/pytorch-classification,
    which experiments on membership commonly take: 2,472,266 parameters for 32 x 32 x 3 and 10
    classes.

    Args:
        input_shape: `(height, width, channels)` of one image; height and width are at least 29.
            Defaults to `(32, 32, 3)`.
        num_classes: Integer of at least 2, the number of logits. Defaults to 10.

    Returns:
        A `keras.Model` that maps `(batch, *input_shape)` to logits `(batch, num_classes)`.

    Raises:
        ValueError: If the images are too small, `num_classes` is less than 2, or a size is not a
            whole number above 0.
    """
    # Height and width are divided by 4, 2, 2 and 2.
    inputs = _image_inputs(input_shape, num_classes, smallest=29)
    # Explicit padding: with a stride, "same" pads one side less than the usual definition.
    x = keras.layers.ZeroPadding2D(5)(inputs)
    x = keras.layers.Conv2D(64, 11, strides=4, activation="relu")(x)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Conv2D(192, 5, padding="same", activation="relu")(x)
    x = keras.layers.MaxPooling2D(2)(x)
    for filters in (384, 256, 256):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Flatten()(x)
    logits = keras.layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, logits, name="alexnet")


def densenet_bc(
    input_shape: Sequence[int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    depth: int = 100,
    growth_rate: int = 12,
) -> keras.Model:
    """DenseNet-BC for CIFAR, with bottlenecks and transitions that halve the channels.

    With a depth of 100 and a growth rate of 12 it has 769,162 trainable parameters for 10
    classes; the larger one in the DMP paper, with a depth of 190 and a growth rate of 40, has
    25,624,430. Huang et al., "Densely Connected Convolutional Networks" (CVPR 2017), give 0.8 and
    25.6 million in table 2.

    Batch normalization keeps running means and variances of its training data, which are
    released with the model.

    Args:
        input_shape: `(height, width, channels)` of one image; height and width are at least 4.
            Defaults to `(32, 32, 3)`.
        num_classes: Integer of at least 2, the number of logits. Defaults to 10.
        depth: Integer, the number of layers with weights: at least 10, and 4 more than a multiple
            of 6. Defaults to 100.
        growth_rate: Integer, the number of channels that each dense layer adds. Defaults to 12.

    Returns:
        A `keras.Model` that maps `(batch, *input_shape)` to logits `(batch, num_classes)`.

    Raises:
        ValueError: If `depth` does not divide into three equal blocks, the images are too small,
            `num_classes` is less than 2, or a size is not a whole number above 0.
    """
    _validate.integer_at_least(1, growth_rate=growth_rate)
    _validate.integer_at_least(10, depth=depth)
    if (depth - 4) % 6 != 0:
        raise ValueError(
            "Expected `depth` to be 4 more than a multiple of 6, such as 40 or 100, since three "
            "blocks have the same number of two-layer bottlenecks. "
            f"Received: depth={depth}"
        )
    inputs = _image_inputs(input_shape, num_classes, smallest=4)
    x = _convolution(2 * growth_rate, 3)(inputs)
    for block in range(3):
        if block > 0:
            x = _convolution(x.shape[-1] // 2, 1)(_normalized(x))
            x = keras.layers.AveragePooling2D(2)(x)
        for _ in range((depth - 4) // 6):
            new = _convolution(4 * growth_rate, 1)(_normalized(x))
            new = _convolution(growth_rate, 3)(_normalized(new))
            x = keras.layers.Concatenate()([x, new])
    x = keras.layers.GlobalAveragePooling2D()(_normalized(x))
    logits = keras.layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, logits, name=f"densenet_bc_{depth}_{growth_rate}")


def _convolution(filters: int, size: int) -> keras.layers.Layer:
    return keras.layers.Conv2D(
        filters, size, padding="same", use_bias=False, kernel_initializer="he_normal"
    )


def _normalized(x: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Activation("relu")(keras.layers.BatchNormalization()(x))


def _inputs(input_shape: Sequence[int], num_classes: int) -> keras.KerasTensor:
    # Each class has its own logit, so there are two of them for two classes.
    _validate.integer_at_least(2, num_classes=num_classes)
    return keras.Input(_shape(input_shape))


def _image_inputs(
    input_shape: Sequence[int], num_classes: int, *, smallest: int
) -> keras.KerasTensor:
    shape = _shape(input_shape)
    if len(shape) != 3 or min(shape[:2]) < smallest:
        raise ValueError(
            "Expected `input_shape` to be (height, width, channels) of at least "
            f"{smallest} x {smallest} pixels. Received: input_shape={shape}"
        )
    return _inputs(shape, num_classes)


def _shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one record, of sizes that are known: dense layers need them."""
    if isinstance(input_shape, list):
        input_shape = tuple(input_shape)
    _validate.integers_at_least(1, input_shape=input_shape)
    if not input_shape:
        raise ValueError(
            "Expected `input_shape` to be the shape of one record, such as (600,). Received: "
            "input_shape=()"
        )
    return tuple(int(size) for size in input_shape)

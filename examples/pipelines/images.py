"""Protect an image classifier: a backbone that is frozen first, then fine-tuned, and augmentation.

    python examples/pipelines/images.py          # a few minutes
    python examples/pipelines/images.py --fast   # fewer and smaller images

The images are invented and written to folders, one per class. Nothing is downloaded: the backbone
has random weights. If you have network access, use weights="imagenet" instead; these weights are
public. One label in five is drawn at random.
"""

# %% Imports
import argparse
import pathlib
import shutil

import keras
import numpy as np
from keras import layers

from keras_dmp import DistillationTrainer, audit_membership

CLASSES = ("circles", "stripes", "squares")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


# %% Data: folders of images
def draw(kind, size, rng):
    """Return a noisy image of a shape in its color, (size, size, 3), uint8."""
    y, x = np.mgrid[:size, :size] / size - rng.uniform(0.35, 0.65, (2, 1, 1))
    shape = {
        "circles": np.hypot(x, y) < 0.3,
        "stripes": np.sin(25 * x) > 0,
        "squares": np.maximum(np.abs(x), np.abs(y)) < 0.3,
    }[kind]
    color = rng.uniform(0, 100, 3) + 120 * np.eye(3)[CLASSES.index(kind)]
    image = np.where(shape[..., None], color, 100) + rng.normal(0, 40, (size, size, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def write_images(folder, count, size):
    """Write `train`, `test` and `pool`, each with one folder per class; some labels are wrong."""
    rng = np.random.default_rng(0)
    shutil.rmtree(folder, ignore_errors=True)
    for part, images in (("train", count), ("test", count), ("pool", 2 * count)):
        for number in range(images):
            kind = CLASSES[number % 3]
            label = rng.choice(CLASSES) if rng.random() < 0.2 else kind
            path = folder / part / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            keras.utils.save_img(path, draw(kind, size, rng), scale=False)


def load(folder, size, labels="inferred"):
    """Return a dataset of the images in a folder; without labels for the pool."""
    return keras.utils.image_dataset_from_directory(
        folder, labels=labels, image_size=(size, size), batch_size=32, seed=0, verbose=False
    )


# %% Model
def build_backbone(size, images):
    """Return the first blocks of a MobileNet with random weights, normalized for these images."""
    network = keras.applications.MobileNet((size, size, 3), alpha=0.25, weights=None, classes=2)
    features = network.get_layer("conv_pw_3_relu").output
    pooled = layers.GlobalAveragePooling2D()(features)
    backbone = keras.Model(network.inputs, pooled, name="backbone")
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    backbone(images / 127.5 - 1, training=True)
    return backbone


def build_model(size, pool):
    """Return a classifier with augmentation, which is active in training alone."""
    backbone = build_backbone(size, next(iter(pool)))
    inputs = keras.Input((size, size, 3))
    x = layers.RandomFlip("horizontal")(inputs)
    x = layers.RandomTranslation(0.05, 0.05)(x)
    x = layers.Rescaling(1 / 127.5, offset=-1)(x)
    # In inference mode, batch normalization keeps its statistics when layers are unfrozen.
    return keras.Model(inputs, layers.Dense(len(CLASSES))(backbone(x, training=False)))


def fit(model, classifier, data, epochs, loss=None):
    """Train the head on the frozen backbone, then everything at a lower learning rate."""
    for trainable, learning_rate in ((False, 1e-2), (True, 5e-3)):
        classifier.get_layer("backbone").trainable = trainable
        model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
        model.fit(data, epochs=epochs, verbose=2)


# %% Train, test and release
def main(arguments=None):
    """Run the pipeline and return the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true", help="fewer and smaller images")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/pipelines"))
    options = parser.parse_args(arguments)
    keras.utils.set_random_seed(0)
    count, size, epochs = (48, 32, 50) if options.fast else (1_000, 64, 30)
    folder = options.output / "images"
    write_images(folder, count, size)
    train, test = load(folder / "train", size), load(folder / "test", size)
    pool = load(folder / "pool", size, labels=None)

    model = build_model(size, pool)
    teacher = build_model(size, pool)
    fit(teacher, teacher, train, epochs, LOSS)
    fit(DistillationTrainer(model, teacher=teacher), model, pool, epochs)
    model.compile("adam", LOSS, metrics=["accuracy"])
    model.save(options.output / "images.keras")
    accuracy = model.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    print(f"Accuracy on test data: {accuracy:.3f}")
    assert accuracy > 0.5
    before, after = (audit_membership(m, train, test) for m in (teacher, model))
    print(f"AUC: teacher {before['threshold'].auc:.3f}, student {after['threshold'].auc:.3f}")
    assert after["threshold"].auc < 0.7
    return model


if __name__ == "__main__":
    main()

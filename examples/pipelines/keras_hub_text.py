"""Protect a KerasHub text classifier whose backbone is built from a configuration.

    python examples/pipelines/keras_hub_text.py          # a minute; needs pip install keras-hub
    python examples/pipelines/keras_hub_text.py --fast   # fewer messages and epochs

Nothing is downloaded: the backbone is a small BERT with fresh weights, the messages are invented.
If you have network access, use `BertBackbone.from_preset("bert_tiny_en_uncased")` instead.
"""

# %% Imports
import argparse
import pathlib

import keras
import keras_hub
import numpy as np

from keras_dmp import DMPTrainer, audit_membership, split_private

TOPICS, WORDS, LENGTH = 4, 200, 32
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(WORDS))]


# %% Data: labelled messages to train and to test on, and messages without labels
def invented_messages(count):
    """Return messages of random words, most of them typical of a topic, and their topics."""
    rng = np.random.default_rng(0)
    topics = rng.integers(TOPICS, size=count)
    words = rng.integers(WORDS, size=(count, 20))
    typical = 50 * topics[:, None] + rng.integers(50, size=words.shape)
    words = np.where(rng.random(words.shape) < 0.7, typical, words)
    return np.array([" ".join(f"word{n}" for n in row) for row in words], dtype=object), topics


# %% Model
def build_preprocessor():
    """Return the layer that turns texts into token numbers and their mask."""
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=VOCABULARY)
    return keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=LENGTH)


def build_model():
    """Return a classifier of preprocessed texts.

    A KerasHub task with a preprocessor applies it in `fit` and not in a call, so texts are
    preprocessed once, before training.
    """
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(VOCABULARY),
        num_layers=1,
        num_heads=2,
        hidden_dim=64,
        intermediate_dim=128,
        max_sequence_length=LENGTH,
    )
    return keras_hub.models.BertTextClassifier(backbone, TOPICS, preprocessor=None)


# %% Train, test and release
def main(arguments=None):
    """Run the pipeline and return the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true", help="fewer messages and epochs")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/pipelines"))
    options = parser.parse_args(arguments)
    keras.utils.set_random_seed(0)
    texts, topics = invented_messages(600 if options.fast else 4_000)
    size, epochs = (150, 20) if options.fast else (1_000, 20)
    preprocess = build_preprocessor()
    split = split_private(preprocess(texts), topics, members=size, nonmembers=size, seed=0)
    train, test, pool = split.members, split.nonmembers, split.reference

    model = DMPTrainer(build_model, selector=None, seed=0)
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*train, reference=pool, epochs=epochs, verbose=2)
    accuracy = model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    print(f"Accuracy on test data: {accuracy:.3f}")
    assert accuracy > 0.5
    teacher, student = (audit_membership(m, train, test) for m in (model.teacher, model.student))
    print(f"AUC: teacher {teacher['threshold'].auc:.3f}, student {student['threshold'].auc:.3f}")
    assert student["threshold"].auc < teacher["threshold"].auc

    # What is served takes texts again: the preprocessor holds a vocabulary, and no weights.
    options.output.mkdir(parents=True, exist_ok=True)
    model.save(options.output / "keras_hub_text.keras")
    released = keras.models.load_model(options.output / "keras_hub_text.keras", compile=False)
    released.preprocessor = preprocess
    assert released.predict(texts[:3], verbose=0).shape == (3, TOPICS)
    return model


if __name__ == "__main__":
    main()

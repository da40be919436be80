"""Protect a classifier of a table: texts and numbers, missing values, and a rare class.

    python examples/pipelines/tables.py          # UCI Adult, after `make adult`
    python examples/pipelines/tables.py --fast   # an invented table, a few seconds

`FeatureSpace` turns the columns of a DataFrame into the model's features. Its vocabularies, means
and variances are released with the model, so it is adapted to the reference.
"""

# %% Imports
import argparse

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras.utils import FeatureSpace

from keras_dmp import DMPTrainer, audit_membership, split_private
from keras_dmp.datasets import adult

MISSING = "(missing)"


# %% Data: a table with missing values, and one label per row
def invented_table(rows):
    """Return a table about people who do not exist, and a label that one in six of them has."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": rng.integers(18, 80, rows),
            "hours": rng.normal(40, 10, rows).round(),
            "work": rng.choice(["office", "factory", "shop", "farm"], rows),
            "country": rng.choice([f"country {n}" for n in range(40)], rows),
            "education": rng.choice(["school", "college", "university"], rows),
        }
    )
    score = table["age"] / 20 + table["hours"] / 10 + 2 * (table["education"] == "university")
    score += rng.normal(0, 1.8, rows)
    table.loc[rng.random(rows) < 0.1, "hours"] = np.nan
    table.loc[rng.random(rows) < 0.1, "work"] = None
    return table, (score > score.quantile(5 / 6)).to_numpy(int)


def adult_table():
    """Return columns of UCI Adult, with None for missing texts, and whether income exceeds 50K."""
    rows = pd.DataFrame(adult.package_rows(adult.package_folder())).replace("?", None)
    table = pd.DataFrame(
        {
            "age": rows[0].astype(int),
            "hours": rows[12].astype(float),
            "work": rows[1],
            "country": rows[13],
            "education": rows[3],
        }
    )
    return table, (rows[14] == ">50K").to_numpy(int)


def filled(table):
    """Return the table with constants in place of missing values, and a column that marks them."""
    return table.assign(
        hours=table["hours"].fillna(40.0),
        hours_missing=table["hours"].isna().astype(float),
        work=table["work"].fillna(MISSING),
        country=table["country"].fillna(MISSING),
    )


# %% Model
def build_model(columns):
    """Return a classifier whose features are adapted to these columns, arrays by name."""
    texts = ("work", "country", "education")
    features = {
        "age": FeatureSpace.float_normalized(),
        "hours": FeatureSpace.float_normalized(),
        "hours_missing": FeatureSpace.float(),
        **{name: FeatureSpace.string_categorical(output_mode="one_hot") for name in texts},
    }
    space = FeatureSpace(features, output_mode="concat")
    space.adapt(tf.data.Dataset.from_tensor_slices(columns))
    hidden = keras.layers.Dense(128, activation="relu")(space.get_encoded_features())
    hidden = keras.layers.Dense(128, activation="relu")(hidden)
    outputs = keras.layers.Dense(1, activation="sigmoid")(hidden)
    return keras.Model(dict(space.get_inputs()), outputs)


# %% Train, test and release
def main(arguments=None):
    """Run the pipeline and return the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true", help="an invented table, few epochs")
    fast = parser.parse_args(arguments).fast
    keras.utils.set_random_seed(0)
    table, labels = invented_table(900) if fast else adult_table()
    size = 200 if fast else 5_000
    split = split_private(dict(filled(table)), labels, members=size, nonmembers=size, seed=0)
    train, test, pool = split.members, split.nonmembers, split.reference
    rare = {0: 1.0, 1: float((train[1] == 0).sum() / (train[1] == 1).sum())}

    model = DMPTrainer(lambda: build_model(pool), selector=None, seed=0)
    model.compile("adam", "binary_crossentropy", metrics=["accuracy", keras.metrics.Recall()])
    model.fit(*train, reference=pool, epochs=30, class_weight=rare, verbose=2)
    accuracy, recall = model.evaluate(*test, verbose=0)[1:]
    print(f"Accuracy on test data: {accuracy:.3f}; found of the rare class: {recall:.3f}")
    assert recall > 0.4
    teacher, student = (audit_membership(m, train, test) for m in (model.teacher, model.student))
    print(f"AUC: teacher {teacher['threshold'].auc:.3f}, student {student['threshold'].auc:.3f}")
    assert student["threshold"].auc < teacher["threshold"].auc
    return model


if __name__ == "__main__":
    main()

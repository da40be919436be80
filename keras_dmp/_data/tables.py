"""Tables with named columns: pandas DataFrames, whose columns keep their types."""

import sys
from typing import Any

import numpy as np


def is_table(x: Any) -> bool:
    """Whether `x` is a pandas DataFrame; pandas is not imported for the question."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(x, pandas.DataFrame)


def take(table: Any, indices: np.ndarray | slice) -> Any:
    """Rows of a table at these positions, as a table."""
    return table.iloc[indices].reset_index(drop=True)


def as_structure(table: Any, name: str, input_names: list[str] | None) -> Any:
    """A table as what a model takes: a dictionary of its columns, or one array of numbers.

    Never one array of a table with texts: NumPy would turn all of its columns into texts.

    Args:
        table: A DataFrame.
        name: What messages call it.
        input_names: Names of the model's inputs, or None where no model is known yet.

    Raises:
        ValueError: If it is neither for this model.
    """
    columns = [str(column) for column in table.columns]
    if len(set(columns)) < len(columns):
        raise ValueError(
            f"Expected the columns of `{name}` to have distinct names. Received: "
            f"{len(columns)} columns with {len(set(columns))} names"
        )
    others = [
        column
        for column, dtype in zip(columns, table.dtypes, strict=True)
        if not _is_numeric(dtype)
    ]
    fits = input_names is not None and set(columns) == set(input_names)
    if fits or (others and input_names is None):
        return {column: table.iloc[:, at] for at, column in enumerate(columns)}
    if input_names is not None and (others or len(input_names) > 1):
        missing = sorted(set(input_names) - set(columns))
        superfluous = sorted(set(columns) - set(input_names))
        raise ValueError(
            f"Expected the columns of `{name}` to be named as the model's inputs "
            f"{sorted(input_names)}, or to be numbers for a model with one input. Received: a "
            f"table without the columns {missing} and with the columns {superfluous}, of which "
            f"{len(others)} are not numbers"
        )
    # Column by column: pandas makes objects of numbers beside booleans.
    return np.column_stack([_numbers(table.iloc[:, at]) for at in range(len(columns))])


def _is_numeric(dtype: Any) -> bool:
    """Whether a column's dtype, NumPy's or one of pandas' own, is of numbers or booleans."""
    return getattr(dtype, "kind", "O") in "biuf" and not hasattr(dtype, "categories")


def _numbers(column: Any) -> np.ndarray:
    if isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    # pandas' own dtypes have a missing value of their own.
    if column.isna().any():
        return column.to_numpy(dtype="float64", na_value=np.nan)
    return column.to_numpy(dtype=column.dtype.numpy_dtype)

"""Conversion of pandas DataFrames to arrays; each column keeps its type."""

import sys
from typing import Any

import numpy as np


def is_table(x: Any) -> bool:
    """Whether `x` is a pandas DataFrame; does not import pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(x, pandas.DataFrame)


def take(table: Any, indices: np.ndarray | slice) -> Any:
    """The rows of a table at these positions, as a table."""
    return table.iloc[indices].reset_index(drop=True)


def as_structure(table: Any, name: str, input_names: list[str] | None) -> Any:
    """Convert a table to a dictionary of its columns, or to one array of numbers.

    A table with strings is never converted to one array: NumPy would turn all of its columns into
    strings.

    Args:
        table: A DataFrame.
        name: Name of the table in error messages.
        input_names: Names of the model's inputs, or None if there is no model yet.

    Raises:
        ValueError: If the columns fit neither form of the model's inputs.
    """
    columns = [str(column) for column in table.columns]
    if len(set(columns)) < len(columns):
        raise ValueError(
            f"Expected the columns of `{name}` to have distinct names. Received: "
            f"{len(columns)} columns with {len(set(columns))} distinct names"
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
            f"Expected the columns of `{name}` to be named like the model's inputs "
            f"{sorted(input_names)}, or to be numeric for a model with one input. Received: a "
            f"table with missing columns {missing} and unexpected columns {superfluous}; "
            f"{len(others)} of its columns are not numeric"
        )
    # Column by column: pandas turns numbers alongside booleans into objects.
    return np.column_stack([_numbers(table.iloc[:, at]) for at in range(len(columns))])


def _is_numeric(dtype: Any) -> bool:
    """Whether a column's dtype, NumPy's or pandas' own, is numeric or boolean."""
    return getattr(dtype, "kind", "O") in "biuf" and not hasattr(dtype, "categories")


def _numbers(column: Any) -> np.ndarray:
    if isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    # pandas' own dtypes have their own missing value.
    if column.isna().any():
        return column.to_numpy(dtype="float64", na_value=np.nan)
    return column.to_numpy(dtype=column.dtype.numpy_dtype)

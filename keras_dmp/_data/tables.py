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


def require_same_columns(parts: dict[str, Any], input_names: list[str] | None) -> None:
    """Raise ValueError for numeric tables that have other columns, or the same in another order.

    Each is converted to one array, in which columns have no names: a value would be taken for that
    of another column, and equal records would not be found.

    Args:
        parts: Data by the name of the argument; anything but tables is ignored.
        input_names: Names of the model's inputs, or None if there is no model yet.
    """
    first = None
    for name, part in parts.items():
        if not is_table(part) or _are_inputs(part, input_names):
            continue
        columns = list(map(str, part.columns))
        if first is None:
            first = name, columns
        elif columns != first[1]:
            is_order = sorted(columns) == sorted(first[1])
            raise ValueError(
                f"Expected the columns of `{name}` to be those of `{first[0]}`, in the same order, "
                "since the model takes a table as one array. Received: "
                + ("the same columns in another order" if is_order else "other columns")
                + f"; pass `{name}[{first[0]}.columns]`"
            )


def _are_inputs(table: Any, input_names: list[str] | None) -> bool:
    """Whether columns are passed by their names, so that their order does not matter."""
    if input_names is not None:
        return set(map(str, table.columns)) == set(input_names)
    return not all(map(_is_numeric, table.dtypes))


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
    # Sparse columns have a subtype.
    dtype = getattr(column.dtype, "numpy_dtype", None) or column.dtype.subtype
    return column.to_numpy(dtype=dtype)

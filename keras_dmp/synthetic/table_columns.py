"""Columns of a table: binary ones, one-hot groups, and the ranges of all others."""

import dataclasses
from typing import Self

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TableColumns:
    """Properties of a table's columns that the generator needs.

    Attributes:
        is_binary: Whether each column contains only 0 and 1, (columns,), bool.
        groups: Positions of adjacent binary columns of which exactly one is 1 in every record,
            such as the one-hot code of a category.
        is_whole: Whether each column is not binary and contains only whole numbers, (columns,).
        mean: Mean of each column, (columns,).
        scale: Standard deviation of each column, 1 for binary and constant ones, (columns,).
        low: Smallest value of each column, (columns,).
        high: Largest value of each column, (columns,).
        dtype: Dtype of the table.
    """

    is_binary: np.ndarray
    groups: tuple[np.ndarray, ...]
    is_whole: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray
    dtype: np.dtype

    @classmethod
    def of(cls, table: np.ndarray) -> Self:
        """Determine the properties of a table, (records, columns)."""
        values = table.astype(np.float64)
        is_binary = ((values == 0) | (values == 1)).all(axis=0)
        scale = values.std(axis=0)
        return cls(
            is_binary=is_binary,
            groups=tuple(_one_hot_groups(values, is_binary)),
            is_whole=~is_binary & (values == np.round(values)).all(axis=0),
            mean=values.mean(axis=0),
            scale=np.where(is_binary | (scale == 0), 1.0, scale),
            low=values.min(axis=0),
            high=values.max(axis=0),
            dtype=table.dtype,
        )

    @property
    def num_binary(self) -> int:
        """Number of binary columns."""
        return int(self.is_binary.sum())

    @property
    def num_real(self) -> int:
        """Number of the other columns."""
        return len(self.is_binary) - self.num_binary

    def encode(self, table: np.ndarray) -> np.ndarray:
        """The table as float32: binary columns first, then the others, standardised."""
        real = (table[:, ~self.is_binary] - self.mean[~self.is_binary]) / self.scale[
            ~self.is_binary
        ]
        return np.concatenate([table[:, self.is_binary], real], axis=1).astype(np.float32)

    def draw(
        self, logits: np.ndarray, means: np.ndarray, log_variances: np.ndarray, rng
    ) -> np.ndarray:
        """Draw records: Bernoulli columns, one-hot groups, and normal columns clipped to the range.

        Args:
            logits: Logits of the binary columns, (records, binary).
            means: Means of the other columns, standardised, (records, real).
            log_variances: Log variances of the other columns, standardised, (records, real).
            rng: A `numpy.random.Generator`.

        Returns:
            The records, (records, columns), with the dtype of the table.
        """
        table = np.empty((len(logits), len(self.is_binary)))
        odds = np.zeros(table.shape)
        odds[:, self.is_binary] = 1 / (1 + np.exp(-np.clip(logits, -30, 30).astype(np.float64)))
        table[:, self.is_binary] = rng.random(logits.shape) < odds[:, self.is_binary]
        for columns in self.groups:
            table[:, columns] = _one_of(odds[:, columns], rng)
        real = ~self.is_binary
        noise = rng.standard_normal(means.shape) * np.exp(log_variances / 2)
        values = (means + noise) * self.scale[real] + self.mean[real]
        values = np.clip(values, self.low[real], self.high[real])
        table[:, real] = np.where(self.is_whole[real], np.round(values), values)
        return table.astype(self.dtype)


def _one_of(odds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One-hot rows whose column is drawn with probability proportional to `odds`."""
    ends = np.cumsum(odds, axis=1)
    chosen = (rng.random((len(odds), 1)) * ends[:, -1:] >= ends).sum(axis=1)
    return np.eye(odds.shape[1])[np.minimum(chosen, odds.shape[1] - 1)]


def _one_hot_groups(values: np.ndarray, is_binary: np.ndarray):
    """Yield the shortest runs of binary columns that sum to 1 in every record."""
    start = 0
    while start < len(is_binary):
        end = _end_of_group(values, is_binary, start)
        if end is None:
            start += 1
        else:
            yield np.arange(start, end)
            start = end


def _end_of_group(values: np.ndarray, is_binary: np.ndarray, start: int) -> int | None:
    total = np.zeros(len(values))
    for column in range(start, len(is_binary)):
        if not is_binary[column]:
            return None
        total += values[:, column]
        if total.max() > 1:
            return None
        # A single column of ones is not a group.
        if total.min() == 1 and column > start:
            return column + 1
    return None

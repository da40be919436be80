"""Reads records of zeros and ones, and their classes, from comma-separated text.

The public archives contain up to 415 million numbers. Every number is one digit, so a line is
checked and converted as an array of bytes, without an object for each number.
"""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

_ZERO, _ONE = b"01"
_MOST_DIGITS = 10
_IGNORED = b' \t\r\n"'  # Some files put the class in quotation marks.


def read_labelled(
    file: BinaryIO, name: str, *, num_records: int, num_features: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read lines that consist of the class and the features of a record.

    Args:
        file: Binary file.
        name: String, the name of the file for messages.
        num_records: Integer, the number of lines that the file must have.
        num_features: Integer, the number of features that each line must have.
        num_classes: Integer, the number of classes. In the file, they are counted from 1.

    Returns:
        Tuple of the records, uint8 of shape `(num_records, num_features)`, and the classes counted
        from 0, int64 of shape `(num_records,)`.

    Raises:
        ValueError: If the file differs from this description; the message names the line.
    """
    records = np.empty((num_records, num_features), np.uint8)
    labels = np.empty(num_records, np.int64)
    for row, place, text in _rows(file, name, num_records):
        label, _, features = text.partition(b",")
        labels[row] = _class(label, place, num_classes)
        records[row] = _features(features, place, num_features)
    return records, labels


def read_features(file: BinaryIO, name: str, *, num_records: int, num_features: int) -> np.ndarray:
    """Read lines of features only: uint8 of shape `(num_records, num_features)`.

    Arguments and errors are those of `read_labelled`.
    """
    records = np.empty((num_records, num_features), np.uint8)
    for row, place, text in _rows(file, name, num_records):
        records[row] = _features(text, place, num_features)
    return records


def read_labels(file: BinaryIO, name: str, *, num_records: int, num_classes: int) -> np.ndarray:
    """Read lines of one class each: int64 of shape `(num_records,)`, counted from 0.

    Arguments and errors are those of `read_labelled`.
    """
    labels = np.empty(num_records, np.int64)
    for row, place, text in _rows(file, name, num_records):
        labels[row] = _class(text, place, num_classes)
    return labels


def _rows(file: BinaryIO, name: str, expected: int) -> Iterator[tuple[int, str, bytes]]:
    """Row, place for messages, and text of every line that is not blank."""
    count = 0
    for number, line in enumerate(file, start=1):
        text = line.strip(_IGNORED)
        if text:
            count += 1
            if count <= expected:
                yield count - 1, f"line {number} of {name}", text
    if count != expected:
        raise ValueError(f"Expected {name} to have {expected:,} lines. Received: {count:,} lines")


def _class(text: bytes, place: str, num_classes: int) -> int:
    text = text.strip(_IGNORED)
    # Python refuses to read numbers of thousands of digits.
    label = int(text) if text.isdigit() and len(text) <= _MOST_DIGITS else 0
    if not 1 <= label <= num_classes:
        raise ValueError(
            f"Expected {place} to give a class from 1 to {num_classes}. "
            f"Received: class={text[:20].decode(errors='replace')!r}"
        )
    return label - 1


def _features(text: bytes, place: str, num_features: int) -> np.ndarray:
    text = text.translate(None, _IGNORED)
    characters = np.frombuffer(text, np.uint8)
    digits = characters[::2]
    columns = text.count(b",") + 1 if text else 0
    if columns != num_features:
        raise ValueError(
            f"Expected {place} to have {num_features:,} features. Received: {columns:,} features"
        )
    # The number of commas is right: if every other character is a digit, the rest are the commas.
    one_digit_each = len(characters) == 2 * num_features - 1
    if not one_digit_each or not ((digits == _ZERO) | (digits == _ONE)).all():
        raise ValueError(f"Expected every feature in {place} to be 0 or 1. Received: other values")
    return digits - _ZERO

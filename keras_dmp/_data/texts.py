"""Texts: arrays of `str` objects.

In an array of one of NumPy's string dtypes, every text takes the space of the longest: 19,000
messages of 1,400 characters on average, the longest of 66,000, take 5 GB instead of 28 MB. Keras'
own `fit` and `evaluate` do not take such arrays either.
"""

from collections.abc import Iterable

import numpy as np


def is_text(array: np.ndarray) -> bool:
    """Whether an array holds texts; the only objects in a checked array are texts."""
    return array.dtype.kind in "OUS"


def as_texts(array: np.ndarray, name: str) -> np.ndarray:
    """`str` objects from strings, or from UTF-8 bytes, TensorFlow's representation of strings.

    An array that holds nothing but `str` objects is returned as it is.

    Args:
        array: An array of a string dtype, or of objects that are `str` or `bytes`.
        name: Name of the array in error messages.

    Raises:
        ValueError: If bytes are not encoded in UTF-8.
    """
    if array.dtype.kind == "U":
        return array.astype(object)
    if all(type(text) is str for text in array.flat):
        return array
    try:
        found = [text.decode() if isinstance(text, bytes) else str(text) for text in array.flat]
    except UnicodeDecodeError:
        # The original exception would reveal the bytes.
        raise ValueError(
            f"Expected the strings in `{name}` to be encoded in UTF-8. Received: bytes that are "
            "not valid UTF-8"
        ) from None
    return _objects(found, array.shape)


def num_bytes(texts: np.ndarray) -> int:
    """Bytes of memory that the characters take, of about one byte each in most languages."""
    return sum(map(len, texts.flat))


def to_bytes(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 bytes of all texts, one after the other, and where each text ends.

    Returns:
        Tuple of the bytes, (bytes,) uint8, and the ends, int64 of the shape of `texts`.
    """
    parts = [text.encode(errors="surrogatepass") for text in texts.flat]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return np.frombuffer(b"".join(parts), np.uint8), ends.reshape(texts.shape)


def from_bytes(content: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The inverse of `to_bytes`.

    Raises:
        ValueError: If the ends do not divide the bytes into texts.
    """
    stops = ends.reshape(-1)
    starts = np.concatenate([[0], stops[:-1]]) if len(stops) else stops
    if (starts > stops).any() or (stops[-1:] != len(content)).any():
        raise ValueError("ends of texts that do not divide their bytes")
    whole = content.tobytes()
    bounds = zip(starts.tolist(), stops.tolist(), strict=True)
    found = (whole[start:stop].decode(errors="surrogatepass") for start, stop in bounds)
    return _objects(found, ends.shape)


def _objects(texts: Iterable[str], shape: tuple[int, ...]) -> np.ndarray:
    return np.array(list(texts), dtype=object).reshape(shape)

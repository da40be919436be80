"""The way in which reports, comparisons and sweeps are saved as JSON and read again."""

import abc
import dataclasses
import os
from typing import Any, ClassVar, Self

from keras_dmp._version import __version__
from keras_dmp.audit.report import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A format of saved files.

    Attributes:
        name: Its name in the file, `"keras_dmp.audit_report"`.
        version: The version that is written; this one and older ones can be read.
        kind: The object in words, `"an audit report"`.
    """

    name: str
    version: int
    kind: str


class Saved(abc.ABC):
    """Converts an object to plain values and JSON files, and back."""

    _FORMAT: ClassVar[Format]

    @abc.abstractmethod
    def _values(self) -> dict[str, Any]:
        """The content as plain dictionaries, lists, numbers and strings."""

    @classmethod
    @abc.abstractmethod
    def _from_values(cls, values: dict[str, Any]) -> Self:
        """The object with this content; any error makes the values malformed."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, numbers and strings, as they are saved."""
        return {
            "format": self._FORMAT.name,
            "format_version": self._FORMAT.version,
            "keras_dmp_version": __version__,
            **self._values(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuild the object from `to_dict`.

        Raises:
            ValueError: If the values are of another kind, are malformed, or have a newer format.
        """
        saved, what = cls._FORMAT, f"{cls._FORMAT.kind} as `{cls.__name__}.save` writes it"
        if not isinstance(values, dict) or values.get("format") != saved.name:
            raise ValueError(f'Expected {what}. Received: no entry "format": "{saved.name}"')
        version = values.get("format_version")
        if not isinstance(version, int) or version > saved.version:
            raise ValueError(
                f"Expected {saved.kind} of format version {saved.version} or older. "
                f"Received: version {version!r}, written by keras_dmp "
                f"{values.get('keras_dmp_version')}; upgrade keras_dmp to read it"
            )
        try:
            return cls._from_values(values)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"Expected {what}. Received: a malformed one ({type(error).__name__}: {error})"
            ) from error

    def save(self, path: str | os.PathLike) -> None:
        """Write the object to a JSON file, whole or not at all.

        Args:
            path: A path that ends in `.json`; a file there is replaced.

        Raises:
            ValueError: If the path does not end in `.json`.
            OSError: If the path cannot be written.
        """
        files.write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read a file that `save` wrote; the two objects are equal.

        Args:
            path: Path of the JSON file.

        Raises:
            ValueError: If the file is of another kind, is malformed, or has a newer format.
            OSError: If the file cannot be read.
        """
        return cls.from_dict(files.read_json(path))

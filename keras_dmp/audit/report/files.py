"""Files of reports: written whole or not at all, JSON of a known format and version."""

import contextlib
import json
import os
import pathlib
from typing import Any

from keras_dmp import _validate
from keras_dmp._storage.files import replace


def write(path: str | os.PathLike, text: str, *, suffix: str) -> None:
    """Write a text file, whole or not at all; a file there is replaced.

    Raises:
        ValueError: If the path does not end in `suffix`.
        OSError: If the path cannot be written.
    """
    path = _suffixed(path, suffix)
    _validate.writable_path(path=path)
    replace(path, text.encode(), mode=_permissions(path))


def write_json(path: str | os.PathLike, values: dict[str, Any]) -> None:
    """Write plain values to a `.json` file, whole or not at all."""
    path = _suffixed(path, ".json")
    _validate.writable_path(path=path)
    text = json.dumps(values, allow_nan=False, indent=1) + "\n"
    replace(path, text.encode(), mode=_permissions(path))


def read_json(path: str | os.PathLike) -> Any:
    """Read a `.json` file; NaN and infinities, which are not standard JSON, are refused."""
    path = _suffixed(path, ".json")
    if path.exists() and not path.is_file():
        # Opening a pipe would block until someone writes to it.
        raise ValueError(
            f"Expected `path` to be a regular file. Received: path={os.fspath(path)!r}"
        )
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_refuse_constant)
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(
            f"Expected `path` to be a JSON file. Received: path={os.fspath(path)!r} ({reason})"
        ) from error


def require_format(values: Any, *, name: str, newest: int, what: str) -> None:
    """Require the entries that name a format which this version of the library can read.

    Args:
        values: The values read.
        name: The format's name, `"keras_dmp.audit_report"`.
        newest: The newest version that can be read.
        what: The object in words, `"an audit report as `AuditReport.save` writes it"`.
    """
    if not isinstance(values, dict) or values.get("format") != name:
        raise ValueError(f'Expected {what}. Received: no entry "format": "{name}"')
    version = values.get("format_version")
    if not isinstance(version, int) or version > newest:
        kind = what.partition(" as ")[0]
        raise ValueError(
            f"Expected {kind} of format version {newest} or older. "
            f"Received: version {version!r}, written by keras_dmp "
            f"{values.get('keras_dmp_version')}; upgrade keras_dmp to read it"
        )


@contextlib.contextmanager
def malformed(what: str):
    """Name the object in the message of any error about its values."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {what}. Received: a malformed one ({type(error).__name__}: {error})"
        ) from error


def _suffixed(path: str | os.PathLike, suffix: str) -> pathlib.Path:
    if pathlib.Path(path).suffix != suffix:
        raise ValueError(
            f"Expected `path` to end in {suffix!r}. Received: path={os.fspath(path)!r}"
        )
    return pathlib.Path(path)


def _permissions(path: pathlib.Path) -> int:
    """Permissions of the existing file, or of any new file: temporary files are private."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")

"""Text and JSON files of reports, written whole or not at all."""

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
    # Names may hold half of a surrogate pair, which no encoding of files has.
    replace(path, text.encode(errors="backslashreplace"), mode=_permissions(path))


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


def _suffixed(path: str | os.PathLike, suffix: str) -> pathlib.Path:
    _validate.path(path=path)
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

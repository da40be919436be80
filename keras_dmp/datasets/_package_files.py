"""Data files inside installed packages, which are located but never imported."""

import importlib.util
import pathlib


def folder_with(file: str, package: str) -> pathlib.Path | None:
    """The folder of a package, or of its share of a namespace package, that contains a file.

    Args:
        file: Path of the file relative to the package.
        package: Name of a top-level package. Importing it may fail or need other packages, so it is
            only located.

    Returns:
        The folder of the package, or None if no installed package of this name has the file.
    """
    spec = importlib.util.find_spec(package)
    locations = () if spec is None else spec.submodule_search_locations or ()
    folders = map(pathlib.Path, locations)
    return next((folder for folder in folders if (folder / file).is_file()), None)

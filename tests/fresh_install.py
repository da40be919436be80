"""Installs the wheel and the sdist where nothing else is, and runs the README's lines there.

    python tests/fresh_install.py build/dist python3.11 python3.12

The folder holds one wheel and one sdist. Each interpreter that is found gets an environment of its
own, one after the other, in a temporary folder. The lines are taken from the README and run in an
empty folder, so that the checkout cannot be imported. The file that they save is then loaded
where the library is not installed.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

from code_blocks import blocks

README = pathlib.Path(__file__).parents[1] / "README.md"
WHERE = "import importlib.util as u; print(u.find_spec('keras_dmp').origin)"
LOADED = "import keras; print(keras.models.load_model('protected.keras').output_shape)"
HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


class FailedError(Exception):
    """A command has failed; the message is what it wrote."""


def run(*command, cwd=None):
    """Run a command without a path to the checkout; return what it writes to stdout."""
    env = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    env["PYTHONNOUSERSITE"] = "1"
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def tell(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def version_of(python):
    """Version of an interpreter, or None if it is not found."""
    try:
        return run(python, "-c", "import sys; print(sys.version.split()[0])").strip()
    except (FailedError, OSError):
        return None


def check(python, packages, folder):
    """Install each package, run the README's lines, and load what they save without it."""
    environment, (lines,) = folder / "environment", blocks(README, "python")
    run(python, "-m", "venv", environment)
    inside = environment / "bin" / "python"
    pip = (inside, "-m", "pip", "--disable-pip-version-check", "--quiet")
    for package in packages:
        kind = "wheel" if package.suffix == ".whl" else "sdist"
        run(*pip, "install", package.resolve())
        empty = folder / kind
        empty.mkdir()
        where = pathlib.Path(run(inside, "-c", WHERE, cwd=empty).strip())
        if environment not in where.parents:
            raise FailedError(f"keras_dmp was imported from {where}, not from the {kind}")
        run(inside, "-c", lines, cwd=empty)
        run(*pip, "uninstall", "--yes", "keras-dmp")
        shape = run(inside, "-c", LOADED, cwd=empty).strip()
        tell(f"  {kind}: the lines run; the student loads without keras_dmp, outputs {shape}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dist", type=pathlib.Path, help="folder of one wheel and one sdist")
    parser.add_argument("pythons", nargs="+", help="interpreters, by name or path")
    arguments = parser.parse_args()
    (wheel,), (sdist,) = (arguments.dist.glob(kind) for kind in ("*.whl", "*.tar.gz"))
    checked = failed = 0
    for python in arguments.pythons:
        version = version_of(python)
        if version is None:
            tell(f"{python}: not found, not checked")
            continue
        tell(f"{python}: Python {version}")
        checked += 1
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(python, (wheel, sdist), pathlib.Path(folder).resolve())
            except FailedError as error:
                failed += 1
                tell(f"  failed: {error}")
    tell(f"{checked - failed} of {checked} interpreters passed")
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main())

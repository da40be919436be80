"""The rooms of the package: their sizes, and imports that point one way."""

import ast
import collections
import graphlib
import pathlib

import keras_dmp

ROOT = pathlib.Path(keras_dmp.__file__).parent
# A module imports its own package and packages of lower layers. Modules at the root are packages
# of one; what is not named, such as `__main__`, joins all and may import everything.
LAYERS = (
    "_validate _version _warnings",
    "_storage _data datasets models",
    "distribution splits",
    "_classifier",
    "losses _training reference",
    "distillation synthetic audit",
    "callbacks trainer",
    "defenses",
    "tuning",
)
LEVELS = {room: level for level, rooms in enumerate(LAYERS) for room in rooms.split()}
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def imports(path):
    """Modules of ours that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "keras_dmp")


def room(module):
    return module.split(".")[1] if "." in module else ""


def level(module):
    return LEVELS.get(room(module), len(LAYERS))


def test_modules_import_their_own_package_and_lower_layers_only():
    upward = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for imported in imports(path)
        if room(imported) != room(module) and level(imported) >= level(module)
    ]
    assert not upward, "\n".join(upward)


def test_no_imports_go_in_a_circle():
    graph = {
        module: {imported for imported in imports(path) if imported != module}
        for module, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_folders_and_files_stay_small():
    files = collections.Counter(path.parent for path in MODULES.values())
    assert files.pop(ROOT) <= 12
    assert max(files.values()) <= 24
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module for module, count in lines.items() if count > 450} == set()


def test_every_layer_names_rooms_that_exist():
    assert set(LEVELS) <= {room(module) for module in MODULES}

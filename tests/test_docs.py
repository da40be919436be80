"""The documentation: complete, its code runs, its links lead somewhere."""

import ast
import doctest
import functools
import importlib
import inspect
import pathlib
import pkgutil
import re
import sys

import keras
import pytest

import keras_dmp
import keras_dmp.audit
import keras_dmp.datasets
import keras_dmp.models

ROOT = pathlib.Path(__file__).parent.parent
# data.md and the like; not what Sphinx or anything else has written.
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# Pages whose Python blocks run from top to bottom as one script.
EXECUTED = ["README.md", pytest.param("docs/quickstart.md", marks=pytest.mark.full)]
_SUBMODULES = pkgutil.walk_packages(keras_dmp.__path__, "keras_dmp.")
MODULES = ["keras_dmp", *sorted(module.name for module in _SUBMODULES)]

needs_tf_privacy = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="TF-Privacy 0.8.10 does not install on Python 3.12"
)


def name_of(path):
    return str(path.relative_to(ROOT))


def blocks(path, language):
    fence = re.compile(
        rf"^(?P<indent> *)```{language}\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
    )
    return [inspect.cleandoc("\n" + m["code"]) for m in fence.finditer(path.read_text())]


def public_objects():
    modules = (keras_dmp.audit, keras_dmp.datasets, keras_dmp.defenses)
    for module in (keras_dmp, *modules, keras_dmp.distribution, keras_dmp.synthetic):
        for name in module.__all__:
            yield f"{module.__name__}.{name}", getattr(module, name)
    for name, value in vars(keras_dmp.models).items():
        if inspect.isfunction(value) and not name.startswith("_"):
            yield f"keras_dmp.models.{name}", value


def documented_names():
    text = (ROOT / "docs" / "api.md").read_text()
    return re.findall(r"^\.\. auto(?:class|exception|function):: (\S+)$", text, re.MULTILINE)


def resolve(dotted):
    module, name = dotted.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def test_every_public_object_is_documented():
    documented = [resolve(name) for name in documented_names()]
    missing = [
        name
        for name, value in public_objects()
        if not inspect.ismodule(value) and not any(value is known for known in documented)
    ]
    assert missing == []
    assert all(inspect.getdoc(value) for _, value in public_objects())


def test_only_public_objects_are_documented():
    public = [value for _, value in public_objects()]
    assert [n for n in documented_names() if not any(resolve(n) is p for p in public)] == []


def test_documented_members_exist():
    text = (ROOT / "docs" / "api.md").read_text()
    listed = re.findall(r"^\.\. autoclass:: (\S+)\n {3}:members: (.+)$", text, re.MULTILINE)
    assert listed
    for owner, members in listed:
        for member in members.split(", "):
            assert inspect.getdoc(getattr(resolve(owner), member)), f"{owner}.{member}"


@needs_tf_privacy
@pytest.mark.parametrize("page", EXECUTED)
def test_code_of_the_page_runs(page, tmp_path, monkeypatch):
    load = functools.partial(keras_dmp.datasets.load, data_dir=tmp_path / "tfds")
    monkeypatch.setattr(keras_dmp.datasets, "load", load)
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(ROOT / page, "python"))
    assert "datasets.load(" in code
    exec(compile(code, page, "exec"), {"__name__": "page"})
    released = keras.models.load_model("protected.keras")
    assert released.count_params() > 0


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_compiles_and_imports_what_exists(page):
    for code in blocks(page, "python"):
        tree = ast.parse(code, filename=name_of(page))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_dmp"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_blocks_are_found():
    assert len(blocks(ROOT / "docs" / "quickstart.md", "python")) > 5
    assert len(blocks(ROOT / "README.md", "python")) == 1


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_keyword_arguments_in_code_exist(page):
    """Calls of the public names, in all Python blocks, pass arguments that they take."""
    public = {name.rsplit(".", 1)[1]: value for name, value in public_objects()}
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            value = public.get(node.func.id)
            if value is not None:
                known = inspect.signature(value).parameters
                assert {k.arg for k in node.keywords} <= set(known), ast.unparse(node)


# Their examples run TF-Privacy's attacks.
NEED_TF_PRIVACY = {f"keras_dmp.audit.{name}" for name in ("_tf_privacy", "membership", "report")}


@pytest.mark.parametrize("module", MODULES)
def test_doctests(module):
    if sys.version_info >= (3, 12) and module in NEED_TF_PRIVACY:
        pytest.skip("TF-Privacy 0.8.10 does not install on Python 3.12")
    found = doctest.testmod(importlib.import_module(module))
    assert found.failed == 0


def test_every_documented_class_has_a_doctest():
    for name in documented_names():
        if name.startswith(("keras_dmp.DMP", "keras_dmp.Dist", "keras_dmp.Soft", "keras_dmp.Ent")):
            assert ">>>" in resolve(name).__doc__, name


def prose(path):
    """The page without its code."""
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "`", text)


def anchors(path):
    """Anchors of a page's headings, as GitHub and MyST make them, and its own labels."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.is_file(), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in anchors(path), f"{name_of(page)} links to {target}"


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text()
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)
    listed = [line for tree in trees for line in tree.split() if not line.startswith(":")]
    listed = {page for page in listed if (ROOT / "docs" / f"{page}.md").is_file()}
    assert listed | {"index"} == {path.stem for path in (ROOT / "docs").glob("*.md")}


def test_changelog_has_unreleased_first():
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    unreleased = text.split("\n## ")[1]
    assert "### Known caveats" in unreleased


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 150


def test_contributing_names_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in PAGES:
        named = re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.MULTILINE)
        assert set(named) <= targets, name_of(path)


def test_licence_is_apache():
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text


def test_demo_table_has_its_place():
    text = (ROOT / "README.md").read_text()
    assert text.index("<!-- demo table -->") < text.index("<!-- end demo table -->")

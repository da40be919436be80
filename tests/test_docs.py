"""The documentation: complete, its code runs, its links lead somewhere."""

import ast
import doctest
import functools
import importlib
import inspect
import pathlib
import pkgutil
import re

import keras
import pytest
from code_blocks import blocks

import keras_dmp
import keras_dmp.audit
import keras_dmp.datasets
import keras_dmp.models

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
# What people write: not what Sphinx builds, nor the tables that benchmarks print.
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("[a-z]*/**/*.md")])
PAGES = [page for page in PAGES if page.parent.name != "reports"]
# Pages whose Python blocks run from top to bottom as one script.
QUICKSTART = "docs/protect/quickstart.md"
EXECUTED = ["README.md", pytest.param(QUICKSTART, marks=pytest.mark.full)]
_SUBMODULES = pkgutil.walk_packages(keras_dmp.__path__, "keras_dmp.")
MODULES = ["keras_dmp", *sorted(module.name for module in _SUBMODULES)]


def name_of(path):
    return str(path.relative_to(ROOT))


def public_objects():
    modules = (keras_dmp.audit, keras_dmp.datasets, keras_dmp.defenses)
    for module in (keras_dmp, *modules, keras_dmp.distribution, keras_dmp.synthetic):
        for name in module.__all__:
            yield f"{module.__name__}.{name}", getattr(module, name)
    for name, value in vars(keras_dmp.models).items():
        if inspect.isfunction(value) and not name.startswith("_"):
            yield f"keras_dmp.models.{name}", value


def api_pages():
    return {page.stem: page.read_text() for page in (DOCS / "reference" / "api").glob("*.md")}


def documented_names():
    directive = re.compile(r"^\.\. auto(?:class|exception|function):: (\S+)$", re.MULTILINE)
    return [name for text in api_pages().values() for name in directive.findall(text)]


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


def test_every_public_package_has_a_page_of_its_own():
    """The page of a package documents what is in it; `keras_dmp` has no dot after its name."""
    packages = {name.split(".")[-2] for name, _ in public_objects()}
    assert set(api_pages()) == packages
    for page, text in api_pages().items():
        names = re.findall(r"^\.\. auto\w+:: keras_dmp\.(\w+)(\.\w+)?$", text, re.MULTILINE)
        assert names
        others = {first for first, rest in names if rest and first != page}
        assert not others, f"{page}.md documents names of {others}"


def test_documented_members_exist():
    text = "\n".join(api_pages().values())
    listed = re.findall(r"^\.\. autoclass:: (\S+)\n {3}:members: (.+)$", text, re.MULTILINE)
    assert listed
    for owner, members in listed:
        for member in members.split(", "):
            assert inspect.getdoc(getattr(resolve(owner), member)), f"{owner}.{member}"


def test_every_data_set_is_in_both_tables_and_in_the_list():
    names = keras_dmp.datasets.names()
    page = (DOCS / "protect" / "data.md").read_text()
    assert tuple(re.findall(r"^\| \[`(\w+)`\]\(#", page, re.MULTILINE)) == names
    shown = re.search(r"^names\(\)\n((?:# .*\n)+)", page, re.MULTILINE)[1]
    assert ast.literal_eval(shown.replace("#", "")) == names
    docstring = inspect.getdoc(keras_dmp.datasets.load)
    assert tuple(re.findall(r"^\| `(\w+)` \|", docstring, re.MULTILINE)) == names


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
    assert len(blocks(ROOT / QUICKSTART, "python")) > 5
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


def attacks_read(code):
    """Each attack that a block reads from a report, and the attacks that its audit ran."""
    default = inspect.signature(keras_dmp.audit_membership).parameters["attacks"].default
    ran = {}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            call, target = node.value, node.targets[0]
            if ast.unparse(call.func).endswith("audit_membership"):
                given = [k.value for k in call.keywords if k.arg == "attacks"]
                ran[ast.unparse(target)] = ast.literal_eval(given[0]) if given else default
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            # `report["loss"]` or `report.slice("persons")["loss"]`
            is_slice = isinstance(node.value, ast.Call)
            report = ast.unparse(node.value.func if is_slice else node.value)
            report = report.removesuffix(".slice")
            if report in ran:
                yield node.slice.value, ran[report]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_attacks_that_code_reads_from_a_report_were_run(page):
    for code in blocks(page, "python"):
        for attack, ran in attacks_read(code):
            assert attack in ran, f"{name_of(page)}: {attack!r} is not among {ran}"


def test_attacks_read_are_found():
    code = 'report = keras_dmp.audit_membership(m, a, b)\nreport.slice("persons")["loss"].auc'
    ((attack, ran),) = attacks_read(code)
    assert attack == "loss"
    assert attack not in ran
    page = DOCS / "check" / "audit.md"
    assert any(list(attacks_read(code)) for code in blocks(page, "python"))


# Their examples train for seconds.
LONG = ("keras_dmp.defenses._adversarial_model", "keras_dmp.audit.attacks.network_attacks")


@pytest.mark.parametrize(
    "module",
    [pytest.param(name, marks=pytest.mark.full if name in LONG else ()) for name in MODULES],
)
def test_doctests(module):
    try:
        imported = importlib.import_module(module)
    except ImportError:
        if module != "keras_dmp.audit._tf_privacy":
            raise
        pytest.skip("needs TF-Privacy")
    found = doctest.testmod(imported)
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


def links(text):
    """Text and target of every link and picture; the text of a link may span lines."""
    return re.findall(r"\[([^\[\]]*)\]\(([^)\s]*)\)", text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_have_texts_and_lead_somewhere(page):
    """MyST fills in empty texts; people who read the files elsewhere would not see such links."""
    for text, target in links(prose(page)):
        assert text.strip(), f"{name_of(page)} has a link without a text to {target}"
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.is_file(), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in anchors(path), f"{name_of(page)} links to {target}"


def test_links_are_found():
    text = "[a\nb](x.md) ![](y.png) [](z.md#c)"
    assert links(text) == [("a\nb", "x.md"), ("", "y.png"), ("", "z.md#c")]
    assert sum(len(links(prose(page))) for page in PAGES) > 100


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page):
    named = re.findall(
        r"`((?:tests|docs|examples|benchmarks|keras_dmp)/[\w./]+)`", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_behind_a_door():
    """In the table of contents, and in the visible list of the front page."""
    index = DOCS / "index.md"
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index.read_text(), re.DOTALL)
    listed = {line for tree in trees for line in tree.split("\n") if "/" in line}
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in PAGES if DOCS in path.parents}
    assert listed | {"index"} == pages
    assert {target.removesuffix(".md") for _, target in links(prose(index))} >= listed


def test_readme_is_short():
    text = re.sub(r"^```.*?^```$", "", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.M)
    assert len(text.split()) < 700


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


def test_license_is_apache():
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text


def test_demo_table_has_its_place():
    text = (ROOT / "README.md").read_text()
    table = text[text.index("<!-- demo table -->") : text.index("<!-- end demo table -->")]
    assert re.search(r"^\| undefended \| [01]\.\d+ \|", table, re.MULTILINE)

"""The HTML pages, as text and as a browser shows them."""

import html.parser
import os
import re
import shutil
import struct
import subprocess

import numpy as np
import pytest

from keras_dmp import Sweep, SweepPoint
from keras_dmp.audit.report.comparison import compare_audits
from keras_dmp.audit.report.report import AuditReport
from keras_dmp.audit.statistics.membership_scores import MembershipScores
from keras_dmp.audit.statistics.results import AttackResult

# Each would change the page's title, or put an element where text belongs.
HOSTILE = (
    "<img src=x onerror=\"document.title='PWNED'\">",
    "</style></script><script>document.title='PWNED'</script>",
    '" onload=\'document.title="PWNED"\' x="',
    "'><svg onload=document.title='PWNED'>",
    "{{ 7 * 7 }}{% raw %}",
)
PROBE = """<script>
document.documentElement.dataset.scroll = document.documentElement.scrollWidth;
document.documentElement.dataset.client = document.documentElement.clientWidth;
document.documentElement.dataset.page = getComputedStyle(document.body).backgroundColor;
const labels = [...document.querySelectorAll("figure svg text")];
const scales = labels.map(label => Math.hypot(label.getScreenCTM().a, label.getScreenCTM().b));
document.documentElement.dataset.text = 11 * Math.min(...scales);
</script>"""


def make(name="students", attacks=("loss", "entropy"), class_names=(), size=2_000, **facts):
    rng = np.random.default_rng(0)
    scores = {
        attack: MembershipScores(rng.normal(0.3 + k, 1, size), rng.normal(size=size))
        for k, attack in enumerate(attacks)
    }
    known = {"member_accuracy": 0.99, "nonmember_accuracy": 0.65, "num_classes": 5}
    report = AuditReport.from_scores(
        scores, name=name, class_names=class_names, **{**known, "seed": 17, **facts}
    )
    parts = [("correct", 900), ("incorrect", 50), *((f"class {k}", 40) for k in range(5))]
    few = [
        AttackResult.from_scores(
            attacks[0], MembershipScores(rng.normal(size=n), rng.normal(size=n)), slice=part
        )
        for part, n in parts
    ]
    return report.with_results(*few)


def compare(*names):
    return compare_audits({name: make(name) for name in names})


def sweep():
    """A sweep of three students, none of them trained."""
    settings = {"labels": "soft", "order": "lowest", "mean_entropy": 0.1}
    points = tuple(
        SweepPoint(**settings, temperature=t, size=100, report=make(attacks=("loss",), size=size))
        for t, size in ((1.0, 500), (2.0, 600), (4.0, 700))
    )
    return Sweep(undefended=make("teacher", attacks=("loss",)), points=points)


class Page(html.parser.HTMLParser):
    """Elements, attributes and visible text of a page."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.words, self.tables, self._open = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self._open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("make_page", [make, lambda: compare("undefended", "dmp"), sweep])
def test_the_page_asks_for_nothing(make_page):
    page = make_page().to_html()
    parsed = Page(page)
    assert "script" not in {tag for tag, _ in parsed.elements}
    for _, attributes in parsed.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert attributes.get(name, "data:,") == "data:,"
    assert not re.search(r"https?:|url\(|@import|@font-face|//[a-z]", page)
    policy = next(a["content"] for t, a in parsed.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_the_page_has_what_the_report_has():
    report = make()
    text = Page(report.to_html()).text
    assert report.verdict in text
    for result in report.slice("all").values():
        assert f"{result.auc:.3f}" in text
        low, high = result.auc_interval
        assert f"{low:.3f} to {high:.3f}" in text
    assert "Sees the probability of the true class; a low loss means member." in text
    named = dict(report["entropy"].most_exposed)
    assert all(f"#{index}" in text for index in named)
    assert "class 3" in text
    assert "class 3 loss, 40, 40" in text
    assert "needs 1,000 nonmembers" in text
    for fact in ("numpy", np.__version__, "seed 17", "keras_dmp"):
        assert fact in text
    for heading in ("What was attacked", "By whom", "Most exposed members", "Provenance"):
        assert heading in text


def test_unresolved_rates_are_never_zero():
    scores = MembershipScores(np.arange(20.0), np.arange(5.0) - 10)
    text = Page(AuditReport.from_scores({"loss": scores}).to_html()).text
    for needed in ("10", "100", "1,000"):
        assert f"needs {needed} nonmembers" in text
    assert "members recognised at 1 % false alarms not resolved" in text
    assert "test accuracy unknown" in text
    assert "Not drawn: the test accuracy is not known." in text


def test_charts_are_the_reports_numbers():
    report = make(attacks=("loss",))
    page = Page(report.to_html())
    paths = [a["d"] for t, a in page.elements if t == "path" and a["class"] == "line s1"]
    # The point at which a tenth of the nonmembers is mistaken, where the curve passes.
    corners = np.array([p.split() for p in re.split("[ML]", paths[0])[1:]], float)
    ticks = {a["x1"]: a["x1"] for t, a in page.elements if t == "line" and a["class"] == "gridline"}
    assert len(ticks) > 4
    left, right, bottom, top = 52, 322, 248, 10
    x = left + (np.log10(0.1) + 4) / 4 * (right - left)
    y = bottom + (np.log10(report["loss"].tpr_at_fpr[0.1]) + 4) / 4 * (top - bottom)
    before = corners[corners[:, 0] <= x + 0.05]
    assert before[-1, 1] == pytest.approx(y, abs=0.5)


def test_a_curve_is_straight_across_a_tie():
    """An attacker who breaks the tie at random has the rates on the line."""
    scores = MembershipScores(np.zeros(100), np.zeros(100))
    page = Page(AuditReport.from_scores({"loss": scores}).to_html())
    path = next(a["d"] for t, a in page.elements if t == "path" and a["class"] == "line s1")
    assert path == "M52 248L322 10"


def test_most_exposed_can_be_left_out():
    scores = MembershipScores(np.arange(20.0), np.arange(5.0))
    text = Page(AuditReport.from_scores({"loss": scores}, most_exposed=0).to_html()).text
    assert "None are named" in text
    assert "#19" not in text


def hostile_pages():
    report = make(
        name=HOSTILE[0],
        attacks=HOSTILE,
        class_names=HOSTILE,
        provenance={HOSTILE[0]: HOSTILE[1]},
        notes=(HOSTILE[2],),
    )
    comparison = compare_audits(dict.fromkeys(HOSTILE, report))
    return {"report": report.to_html(), "comparison": comparison.to_html()}


@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_hostile_names_are_text(kind):
    page = hostile_pages()[kind]
    parsed = Page(page)
    harmless = Page(make().to_html()), Page(compare("a", "b").to_html())
    known = {tag for other in harmless for tag, _ in other.elements}
    assert {tag for tag, _ in parsed.elements} <= known
    for _, attributes in parsed.elements:
        assert not any(name.startswith("on") for name in attributes)
    for name in HOSTILE:
        assert " ".join(name.split()) in parsed.text


def test_invisible_characters_become_visible():
    page = make(name="a\x1b[31m\u202eb\nc").to_html()
    assert r"a\x1b[31m\u202eb\nc" in Page(page).text
    assert "\u202e" not in page


def test_the_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "audit.html"
    path.write_text("old")
    for document in (make(), compare("a", "b"), sweep()):
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                document.save_html(path)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["audit.html"]
        with pytest.raises(ValueError, match=r"`path` to end in '.html'"):
            document.save_html(tmp_path / "audit.htm")
        with pytest.raises(OSError, match=r"its folder .* does not exist"):
            document.save_html(tmp_path / "missing" / "audit.html")
    make().save_html(path)
    assert path.read_text() == make().to_html()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Open a page in headless Chromium: its DOM, or a picture, and what it logged."""
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    program = next(filter(None, found), None)
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium here; install it: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium fonts-dejavu-core")
    folder = tmp_path_factory.mktemp("chromium")

    def run(path, *options, width=1200, height=1000, dark=False):
        log = folder / "net.json"
        done = subprocess.run(
            [
                program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--hide-scrollbars",
                "--enable-logging=stderr",
                f"--user-data-dir={folder / 'profile'}",
                f"--log-net-log={log}",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                f"--window-size={width},{height}",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                *options,
                path.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return done.stdout, done.stderr, log.read_text()

    return run


def asked_hosts(log):
    """Hosts that were asked for, but for Chromium's own, which it asks on any page."""
    hosts = set(re.findall(r'"url":"\w+://([^/":]+)', log))
    own = ("google.com", "googleapis.com", "gvt1.com", "gstatic.com")
    return {host for host in hosts if not host.endswith(own)}


def framed(path, page, width):
    """Write a page with a probe, in a frame: Chromium's own windows are 500 pixels at least."""
    probed = page.replace('http-equiv="Content-Security-Policy"', "name=off")
    path.write_text(probed.replace("</body>", PROBE + "</body>"))
    frame = path.with_name(f"frame-{path.name}")
    frame.write_text(
        f'<body style="margin:0"><iframe id="f" src="{path.name}" style="border:0;width:{width}px;'
        'height:800px"></iframe><script>f.onload = () => {'
        "document.title = JSON.stringify(f.contentDocument.documentElement.dataset);"
        "document.body.append(f.contentDocument.title)}</script>"
    )
    return frame


def probe(browser, path, page, width, **settings):
    dom, _, _ = browser(
        framed(path, page, width),
        "--allow-file-access-from-files",
        "--virtual-time-budget=10000",
        "--dump-dom",
        **settings,
    )
    found = dict(re.findall(r'"(\w+)":"([^"]*)"', re.search("<title>(.*?)</title>", dom)[1]))
    return found, dom


@pytest.mark.parametrize(
    "kind", ["report", "sweep", pytest.param("comparison", marks=pytest.mark.slow)]
)
def test_a_browser_shows_the_page_and_asks_for_nothing(browser, tmp_path, kind):
    make_one = {"report": make, "sweep": sweep, "comparison": lambda: compare("undefended", "dmp")}
    document = make_one[kind]()
    document.save_html(tmp_path / "page.html")
    dom, errors, log = browser(tmp_path / "page.html", "--dump-dom")
    assert document.verdict in Page(dom).text
    assert Page(dom).text == Page(document.to_html()).text
    assert "CONSOLE" not in errors
    assert asked_hosts(log) == set()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["report", "comparison"])
@pytest.mark.parametrize("policy", [True, False])
def test_hostile_names_do_nothing_in_a_browser(browser, tmp_path, kind, policy):
    page = hostile_pages()[kind]
    if not policy:  # escaping alone has to do
        page = page.replace('http-equiv="Content-Security-Policy"', "name=off")
    (tmp_path / "page.html").write_text(page)
    dom, errors, _ = browser(tmp_path / "page.html", "--virtual-time-budget=3000", "--dump-dom")
    assert "<title>PWNED" not in dom
    assert not {"img", "script"} & {tag for tag, _ in Page(dom).elements}
    assert "CONSOLE" not in errors


@pytest.mark.slow
def test_the_checks_above_can_fail(browser, tmp_path):
    page = hostile_pages()["report"].replace('http-equiv="Content-Security-Policy"', "name=off")
    unsafe = f"<main>{HOSTILE[0]}<img src='http://elsewhere.test/x.png'>"
    (tmp_path / "page.html").write_text(page.replace("<main>", unsafe))
    dom, _, log = browser(tmp_path / "page.html", "--virtual-time-budget=3000", "--dump-dom")
    assert "<title>PWNED" in dom
    assert asked_hosts(log) == {"elsewhere.test"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["report", "comparison", "hostile", "sweep"])
def test_a_phone_needs_no_sideways_scrolling(browser, tmp_path, kind):
    documents = {
        "report": lambda: make().to_html(),
        "comparison": lambda: compare("undefended", "dmp " + 60 * "x").to_html(),
        "hostile": lambda: hostile_pages()["report"],
        "sweep": lambda: sweep().to_html(),
    }
    found, _ = probe(browser, tmp_path / "page.html", documents[kind](), 390)
    assert int(found["client"]) == 390
    assert int(found["scroll"]) == 390
    assert float(found["text"]) >= 9  # CSS pixels of the smallest label in a chart


@pytest.mark.slow
def test_dark_mode_applies(browser, tmp_path):
    pages = {
        dark: probe(browser, tmp_path / "page.html", make().to_html(), 800, dark=dark)[0]["page"]
        for dark in (False, True)
    }
    light, dark = (max(map(int, re.findall(r"\d+", pages[mode]))) for mode in (False, True))
    assert light > 220
    assert dark < 60


@pytest.mark.slow
def test_a_picture_can_be_taken(browser, tmp_path):
    make().save_html(tmp_path / "page.html")
    picture = tmp_path / "page.png"
    browser(tmp_path / "page.html", f"--screenshot={picture}", width=1200, height=4000)
    data = picture.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (1200, 4000)
    assert len(data) > 100_000

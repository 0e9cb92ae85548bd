"""Pages: whole, safe whatever things are called, loading nothing, readable and sortable in a browser."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from tlearn.report.page import (
    Block,
    Card,
    Gallery,
    Group,
    KeyMetrics,
    Link,
    Picture,
    Section,
    Table,
    Text,
    page_text,
    write_page,
)

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror="document.body.id=1">',
    "' onmouseover='alert(1)' x='",
    "</style></title></textarea><b>bold</b>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&amp;",
    "line\nbreak\r\ttab\x00\x1b[31m",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe\N{POP DIRECTIONAL FORMATTING}",
    "lone\udcff\ud800 surrogates",
    "x" * 300,
    "javascript:alert(1)",
]
SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="90"><rect width="900" height="90" fill="red"/></svg>'
)


class _Elements(HTMLParser):
    """Collects elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    @property
    def structure(self):
        return [(tag, sorted(attributes)) for tag, attributes in self.found]

    def values(self, tag: str, attribute: str) -> list[str | None]:
        return [attributes[attribute] for name, attributes in self.found if name == tag and attribute in attributes]


def _page(*names: str) -> str:
    """Put names everywhere where one can stand."""
    return page_text(names[0], [Section(name, _blocks(name)) for name in names], names[0])


def _blocks(name: str) -> list[Block]:
    card = Card(name, name, [(name, name)], [(name, 0.75, True), (name, 0.25, False)])
    rows = [{name: name, "n": 1, "link": Link(name, name)}, {name: None, "n": 2.5, "link": None}]
    return [
        KeyMetrics([(name, name, name)]),
        Text([name, name], warning=True),
        Table(rows, name, {name: name}, name),
        Picture(SVG, "image/svg+xml", 900, name, [name]),
        Gallery([[card, card], [card]], name),
        Group(name, [Text([name]), Gallery([[Card(b"jpeg", name)]])], opened=True),
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_makes_elements_or_attributes(name):
    hostile, plain = _Elements(_page(name)), _Elements(_page("n" * len(name)))
    assert len(plain.found) > 60
    assert hostile.structure == plain.structure
    assert hostile.values("script", "src") == []


@pytest.mark.parametrize("name", HOSTILE)
def test_a_page_is_text_without_letters_that_do_something(name, tmp_path):
    write_page(tmp_path / "page.html", name, [Section(name, [Text([name])])])
    text = (tmp_path / "page.html").read_bytes().decode("utf-8", errors="strict")
    assert (
        re.search(r"[^\n\x20-\x7e\xa1-\uffff\U00010000-\U0010ffff]|[\u200b-\u200f\u202a-\u202e\u2066-\u2069]", text)
        is None
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]


def test_names_can_be_read_as_they_are():
    for name in ("<b> & \"c\" 'd'", "ü漢字ไทย", "$x_1$", "a" * 300):
        assert _Elements(_page(name)).text.count(name) > 10
    assert "gpj.exe" in _Elements(_page(HOSTILE[7])).text


def test_a_page_loads_nothing_and_may_run_its_own_script_only():
    elements = _Elements(_page("name"))
    [policy] = [content for content in elements.values("meta", "content") if "default-src" in str(content)]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    script = re.search(r"<script>(.*?)</script>", _page("name"), re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    sources = [value for tag in ("img", "script", "link", "iframe") for value in elements.values(tag, "src")]
    assert len(sources) == 2
    assert all(source.startswith("data:image/") for source in sources)
    assert not any(attribute.startswith("on") for _, attributes in elements.found for attribute in attributes)
    assert "@import" not in _page("name")
    assert "url(" not in _page("name")


def test_pictures_are_in_the_page():
    assert f"data:image/svg+xml;base64,{base64.b64encode(SVG).decode()}" in _Elements(_page("name")).values(
        "img", "src"
    )
    assert f"data:image/jpeg;base64,{base64.b64encode(b'jpeg').decode()}" in _page("name")


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("../runs/one/report.html", "../runs/one/report.html"),
        ("javascript:alert(1)", "javascript%3Aalert%281%29"),
        ("a b/?x#y", "a%20b/%3Fx%23y"),
        ("\udcff", "%FF"),
    ],
)
def test_a_link_leads_to_a_file_whatever_it_is_called(path, address):
    text = page_text("title", [Section("one", [Table([{"run": Link("run", path)}])])])
    assert _Elements(text).values("a", "href") == ["#s1", address]


def test_every_section_is_in_the_table_of_contents():
    elements = _Elements(page_text("title", [Section("one", []), Section("two", [])]))
    targets = [str(address).removeprefix("#") for address in elements.values("a", "href")]
    assert targets == elements.values("section", "id")


def test_numbers_are_sorted_as_numbers_and_what_is_missing_is_marked():
    rows = [{"a": 1234567}, {"a": 0.000123456}, {"a": None}, {"a": float("nan")}, {"a": True}, {"a": "text"}]
    elements = _Elements(page_text("title", [Section("one", [Table(rows)])]))
    cells = [attributes for tag, attributes in elements.found if tag == "td"]
    assert [cell["class"] for cell in cells] == ["number", "number", "none", "none", "text", "text"]
    assert [float(cell["data-number"]) for cell in cells[:2]] == [1234567, 0.000123456]
    for text in ("1,234,567", "0.0001235", "yes"):
        assert text in elements.text


# Loads a page in frames of two widths, sorts its first table, and writes down what it found.
_PROBE = """<!DOCTYPE html><meta charset="utf-8"><iframe src="page.html" style="height:800px;border:0"></iframe>
<pre id="found"></pre><script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const page = frame.contentDocument, found = {overflow: {}, sorted: []};
  for (const width of [400, 1280]) {
    frame.style.width = width + "px";
    found.overflow[width] = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  }
  found.images = [...page.images].map((image) => image.naturalWidth);
  const table = page.querySelector("table.sortable"), heads = [...table.tHead.rows[0].cells];
  for (const head of heads) for (const click of [1, 2]) {
    head.querySelector("button").click();
    const column = [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex].textContent);
    found.sorted.push([column, heads.map((one) => one.getAttribute("aria-sort"))]);
  }
  found.hacked = page.body.id;
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """Give a function that looks at a page with headless Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    browser = next((path for path in map(shutil.which, names) if path), None)
    if browser is None:
        pytest.skip("there is no Chromium or Chrome on PATH")
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic")
    folder = tmp_path_factory.mktemp("browser")

    def look(text: str) -> dict:
        (folder / "page.html").write_text(text, encoding="utf-8")
        (folder / "probe.html").write_text(_PROBE, encoding="utf-8")
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--allow-file-access-from-files")
        place = (f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=10000")
        command = [browser, *options, *quiet, *place, "--dump-dom", (folder / "probe.html").as_uri()]
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
        [found] = re.findall(r'<pre id="found">(.*?)</pre>', done.stdout.decode("utf-8"), re.S)
        return json.loads(found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))

    return look


@pytest.mark.browser
def test_a_page_fits_into_a_narrow_and_a_wide_window_with_any_names(probe):
    found = probe(_page(*HOSTILE))
    assert found["overflow"] == {"400": 0, "1280": 0}
    assert found["hacked"] == ""
    # Every other one is no picture.
    assert found["images"] == [900, 0] * len(HOSTILE)


@pytest.mark.browser
def test_a_click_sorts_a_table_up_and_another_one_down(probe):
    rows = [{"name": "b", "n": 10}, {"name": "a", "n": 9.5}, {"name": None, "n": None}, {"name": "c", "n": 1234}]
    found = probe(page_text("title", [Section("one", [Table(rows)])]))
    columns, marks = zip(*found["sorted"], strict=True)
    assert columns == (["a", "b", "c", ""], ["c", "b", "a", ""], ["9.5", "10", "1,234", ""], ["1,234", "10", "9.5", ""])
    assert marks[0] == ["ascending", None]
    assert marks[1] == ["descending", None]
    assert marks[2] == [None, "ascending"]

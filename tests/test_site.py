"""The site builds without a warning, and every link within it leads somewhere."""

import html.parser
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


class Page(html.parser.HTMLParser):
    """What a page of HTML links to, what it loads, and where it can be linked to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("img", "script", "source", "iframe") and "src" in given:
            self.loads.append(given["src"])
        if tag == "link" and "href" in given and given.get("rel") in ("stylesheet", "icon", "preload", "modulepreload"):
            self.loads.append(given["href"])


def faults(folder: Path) -> list[str]:
    """Links and loads within a folder of HTML that lead nowhere, and whatever is loaded from elsewhere."""
    folder = folder.resolve()
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        where = path.relative_to(folder)
        found += [f"{where} loads {x} from elsewhere" for x in page.loads if urllib.parse.urlsplit(x).netloc]
        found += [f"{where}: {x} is missing" for x in missing(path, [*page.links, *page.loads], pages)]
    return found


def missing(path: Path, targets: Iterable[str], pages: dict[Path, Page]) -> list[str]:
    found = []
    for target in targets:
        url = urllib.parse.urlsplit(target)
        if url.scheme or url.netloc:
            continue
        file = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
        anchor = urllib.parse.unquote(url.fragment)
        if not file.is_file() or (anchor and file in pages and anchor not in pages[file].anchors):
            found.append(target)
    return found


def test_the_site_builds_without_warnings_and_its_links_hold(tmp_path):
    pytest.importorskip("sphinx", reason="a part of the extra docs")
    out = tmp_path / "site"
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--conf-dir", "docs", "-d", str(tmp_path / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, ".", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert faults(out) == []
    pages = {path.relative_to(out).as_posix() for path in out.rglob("*.html")}
    assert {"index.html", "docs/start.html", "benchmarks/RESULTS.html", "search.html", "CONTRIBUTING.html"} <= pages
    api = (out / "docs" / "api.html").read_text(encoding="utf-8")
    for name in ("profit_optax.profit", "profit_optax.recording.plot_metrics", "profit_optax.compare.compare"):
        assert f'id="{name}"' in api
    assert api.count("https://arxiv.org/abs/2412.01930") >= 5, "sources that docstrings name are links"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="other.html#there">x</a>', None),
        ('<a href="other.html#gone">x</a>', "page.html: other.html#gone is missing"),
        ('<a href="gone.html">x</a>', "page.html: gone.html is missing"),
        ('<a href="#here" id="here">x</a>', None),
        ('<a href="#gone">x</a>', "page.html: #gone is missing"),
        ('<a href="https://example.org/gone">x</a>', None),
        ('<img src="gone.png">', "page.html: gone.png is missing"),
        ('<script src="https://example.org/x.js"></script>', "page.html loads https://example.org/x.js from elsewhere"),
    ],
)
def test_what_leads_nowhere_is_found(tmp_path, body, fault):
    (tmp_path / "page.html").write_text(body)
    (tmp_path / "other.html").write_text('<p id="there">')
    assert faults(tmp_path) == ([fault] if fault else [])

"""Every page of the built site in a browser: what its console says, how it looks, and whether search finds anything.

The pictures are left in out/screenshots, to be looked at.
"""

import pytest

from tests.browser.conftest import ROOT, SITE

# The first page leads to another one at once.
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if path != SITE / "index.html")
WINDOWS = {
    "wide-light": (1400, False),
    "wide-dark": (1400, True),
    "narrow-light": (390, False),
    "narrow-dark": (390, True),
}

# What a reader would see to be wrong, as a list of words.
FAULTS = """
(() => {
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const images = [...document.images].filter(x => x.complete && !x.naturalWidth).map(x => `no picture ${x.src}`);
  return images.concat(wide > 1 ? [`the page is ${wide} pixels wider than the window`] : []);
})()
"""
# Tables of words, unlike those of figures, are read as a whole: a table that is wider than its place hides a column.
CUT_TABLES = """
[...document.querySelectorAll('.table-wrapper')].filter(x => x.scrollWidth > x.clientWidth + 1)
  .map(x => x.querySelector('th').textContent + ', ' + (x.scrollWidth - x.clientWidth) + ' pixels')
"""
# Mean of red, green and blue, 0 to 255.
BRIGHTNESS = """
getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 3
"""
RESULTS = "[...document.querySelectorAll('#search-results ul.search li > a')].map(x => x.getAttribute('href'))"


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_without_complaints(browser, site, page, window):
    width, dark = WINDOWS[window]
    browser.open(f"{site}/{page}", width=width, dark=dark)
    browser.screenshot(ROOT / "out" / "screenshots" / window / f"{page.removesuffix('.html').replace('/', '-')}.png")
    assert browser.complaints == []
    assert browser.evaluate(FAULTS) == []
    assert (browser.evaluate(BRIGHTNESS) < 60) == dark
    assert not page.startswith("docs/") or browser.evaluate(CUT_TABLES) == []


def test_the_first_page_leads_to_the_site(browser, site):
    browser.open(f"{site}/index.html", width=1400, dark=False)
    browser.wait_for("location.pathname === '/docs/index.html'")
    assert browser.complaints == []


@pytest.mark.parametrize(
    ("word", "page"), [("collapse", "docs/failure_modes"), ("reject_nonfinite", "docs/api"), ("LoRA", "docs/recipes")]
)
def test_search_finds_the_page(browser, site, word, page):
    browser.open(f"{site}/docs/start.html", width=1400, dark=False)
    browser.expect_a_page()
    browser.evaluate(f"document.querySelector('input[name=q]').value = '{word}'")
    browser.evaluate("document.querySelector('input[name=q]').form.submit()")
    browser.wait_for(f"location.pathname.endsWith('/search.html') && {RESULTS}.some(x => x.includes('{page}.html'))")
    assert browser.complaints == []


def test_a_search_for_nothing_says_so(browser, site):
    browser.open(f"{site}/search.html?q=xyzzyplugh", width=1400, dark=False)
    browser.wait_for("document.querySelector('#search-results').textContent.includes('did not match any')")
    assert browser.evaluate(RESULTS) == []


def test_light_and_dark_can_be_chosen(browser, site):
    browser.open(f"{site}/docs/start.html", width=1400, dark=False)
    seen = set()
    for _ in range(3):
        browser.evaluate("document.querySelector('.content-icon-container .theme-toggle').click()")
        seen.add((browser.evaluate("document.body.dataset.theme"), browser.evaluate(BRIGHTNESS) < 60))
    browser.evaluate("localStorage.clear()")
    assert seen == {("dark", True), ("light", False), ("auto", False)}


def test_a_narrow_window_has_the_menu_behind_a_button(browser, site):
    browser.open(f"{site}/docs/start.html", width=390, dark=False)
    left = "document.querySelector('.sidebar-drawer').getBoundingClientRect().right > 0"
    assert not browser.evaluate(left)
    browser.evaluate("document.querySelector('label.nav-overlay-icon').click()")
    browser.wait_for(left)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("<p>well</p>", None),
        ("<script>console.error('broken')</script>", "broken"),
        ("<script>gone()</script>", "ReferenceError: gone is not defined"),
        ("<script src='gone.js'></script>", "404"),
        ("<img src='gone.png'>", "404"),
        ("<script src='http://127.0.0.2:9/x.js'></script>", "from elsewhere"),
    ],
)
def test_what_is_wrong_is_noticed(browser, serve, tmp_path, body, complaint):
    (tmp_path / "page.html").write_text(f"<!doctype html><link rel=icon href='data:,'>{body}")
    browser.open(f"{serve(tmp_path)}/page.html", width=400, dark=False)
    assert any(complaint in said for said in browser.complaints) if complaint else browser.complaints == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<p>well</p>", None),
        ("<div style='width: 900px'>wide</div>", "wider than the window"),
        ("<img src='gone.png'>", "no picture"),
    ],
)
def test_what_looks_wrong_is_noticed(browser, serve, tmp_path, body, fault):
    (tmp_path / "page.html").write_text(f"<!doctype html><link rel=icon href='data:,'>{body}")
    browser.open(f"{serve(tmp_path)}/page.html", width=400, dark=False)
    found = browser.evaluate(FAULTS)
    assert any(fault in said for said in found) if fault else found == []

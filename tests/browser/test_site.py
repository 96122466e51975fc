"""The site, as `make site` has built it: intact, readable without an internet connection, and accessible."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, Route

import chts_core as chts
from chts_core.lab.widgets import EXPLORERS

SITE = Path(__file__).parents[2] / "runs" / "site" / "html"
PAGES = sorted(
    str(path.relative_to(SITE))
    for path in SITE.rglob("*.html")
    if "_modules" not in path.parts and "_static" not in path.parts
)
pytestmark = pytest.mark.browser
GRAVE = ("serious", "critical")


class Reader(HTMLParser):
    """Collects the links, the names that links can lead to, the pictures and what a page loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.pictures: list[dict[str, str | None]] = []
        self.loaded: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.names |= {value for key in ("id", "name") if (value := found.get(key))}
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if tag == "img":
            self.pictures.append(found)
        if tag in ("script", "img", "iframe") and found.get("src"):
            self.loaded.append(str(found["src"]))
        if tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded.append(str(found.get("href")))


def test_the_site_has_its_pages() -> None:
    stages = {page for page in PAGES if page.startswith("notebooks/")}
    assert len(stages) == 15
    assert {"index.html", "guides/speed.html", "conformance.html", "results.html"} < set(PAGES)
    guides = (
        "using_the_notebooks",
        "your_model",
        "followed",
        "add_a_method",
        "cluster",
        "teach",
        "ninety_minutes",
        "two_weeks",
        "cheat_sheet",
    )
    assert {f"guides/{name}.html" for name in guides} < set(PAGES)
    assert {page.replace("notebooks/", "slides/") for page in stages} < set(PAGES)
    assert "api/sparsifier.html" in PAGES


def test_a_stage_is_named_by_its_title() -> None:
    page = (SITE / "notebooks" / "03_soft_sampling.html").read_text("utf-8")
    assert re.findall(r'<h1>([^<]*)<a class="headerlink"', page) == ["03 · Soft sampling"]
    others = (SITE / "notebooks" / "04_percolation.html").read_text("utf-8")
    assert re.search(r">\s*03 · Soft sampling\s*</a>", others)


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_site_lead_somewhere(page: str) -> None:
    read = Reader(SITE / page)
    assert read.links or page.startswith("slides/")
    for link in read.links:
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in ("https", "mailto"), link
            continue
        target = (SITE / page).parent / unquote(parts.path) if parts.path else SITE / page
        assert target.is_file(), link
        if parts.fragment and target.suffix == ".html":
            assert unquote(parts.fragment) in Reader(target).names, link


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_nothing_from_elsewhere_and_describes_its_pictures(page: str) -> None:
    read = Reader(SITE / page)
    assert read.loaded
    assert [source for source in read.loaded if re.match(r"(https?:)?//", source)] == []
    assert all((picture.get("alt") or picture.get("role") or "").strip() for picture in read.pictures)


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()

    def only_files(route: Route) -> None:
        route.continue_() if route.request.url.startswith(("file:", "data:")) else route.abort()

    context.route("**/*", only_files)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("slides/")])
def test_slides_can_be_shown_and_fit_their_screen(tab: Page, page: str) -> None:
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.set_viewport_size({"width": 1280, "height": 720})
    tab.goto((SITE / page).as_uri())
    tab.wait_for_function("Reveal.isReady()")
    tab.evaluate("Reveal.configure({transition: 'none'})")
    slides = tab.evaluate("Reveal.getTotalSlides()")
    assert slides > 10
    for number in range(slides):
        # The last fragment too: what an answer adds must fit.
        tab.evaluate(
            "i => { const at = Reveal.getIndices(Reveal.getSlides()[i]); Reveal.slide(at.h, at.v, 99); }", number
        )
        shown = tab.evaluate(
            "() => { const it = Reveal.getCurrentSlide(), box = it.getBoundingClientRect(); return {"
            "top: box.top, bottom: box.bottom, wide: it.scrollWidth - it.clientWidth, words: it.textContent.trim(), "
            "pictures: it.querySelectorAll('img').length, size: parseFloat(getComputedStyle(it).fontSize)}; }"
        )
        assert shown["words"] or shown["pictures"], number
        assert shown["top"] >= 0, number
        assert shown["bottom"] <= 720, number
        assert shown["wide"] <= 0, number
        assert shown["size"] >= 14, number
    tab.goto((SITE / page).as_uri())
    tab.wait_for_function("Reveal.isReady()")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("Reveal.getIndices().h") == 1
    assert complaints == []


RECORDINGS = {page: text for page in PAGES if 'class="chts-recording"' in (text := (SITE / page).read_text("utf-8"))}
RECORDING = re.compile(r'class="chts-recording" data-widget="([a-z-]+)"(.*?)</script></div>', re.DOTALL)


def test_every_widget_has_a_recording_of_at_most_600_kilobytes() -> None:
    found = [match.groups() for text in RECORDINGS.values() for match in RECORDING.finditer(text)]
    assert sorted(name for name, _ in found) == sorted(EXPLORERS)
    assert max(len(markup) for _, markup in found) <= 600_000
    assert not any("vnd.jupyter.widget-view" in text for text in RECORDINGS.values())


def seen(recording: Locator) -> tuple[bytes, str]:
    """The picture that a recording shows, and its sentence, which is also the picture's alternative."""
    (picture,) = recording.locator("img:visible").all()
    sentence = recording.locator(".sentence").inner_text()
    assert picture.get_attribute("alt") == sentence
    return recording.locator(".frame").screenshot(), sentence


@pytest.mark.parametrize("page", RECORDINGS)
def test_a_recording_moves_by_keyboard_and_by_mouse(tab: Page, page: str) -> None:
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.goto((SITE / page).as_uri())
    for recording in tab.locator(".chts-recording").all():
        first = seen(recording)
        for control in recording.locator("select, input").all():
            control.focus()
            value = control.input_value()
            there, back = "ArrowDown", "ArrowUp"
            tab.keyboard.press(there)
            if control.input_value() == value:  # it was at its end
                there, back = back, there
                tab.keyboard.press(there)
            picture, sentence = seen(recording)
            assert picture != first[0]
            assert sentence != first[1]
            tab.keyboard.press(back)
            assert seen(recording) == first
        for slider in recording.locator("input").all():
            box = slider.bounding_box()
            assert box is not None
            slider.click(position={"x": box["width"] - 2, "y": box["height"] / 2})
            assert slider.input_value() == slider.get_attribute("max")
            assert slider.get_attribute("aria-valuetext") == slider.locator("+ output").inner_text()
        if recording.locator("button").count():
            last = seen(recording)
            recording.get_by_role("button", name="Play").click()  # from the last state it begins anew
            played = recording.locator("span:has(button) input").element_handle()
            tab.wait_for_function("slider => slider.value === '2'", arg=played)
            recording.get_by_role("button", name="Pause").click()
            assert seen(recording) != last
    assert [complaint for complaint in complaints if "theme mode" not in complaint] == []  # of the theme's own script


# Of the pages that Sphinx makes alike, one of each kind.
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != "genindex.html" and not re.match("api/(?!sparsifier)", page)]
)
def test_a_page_has_no_serious_violation_of_accessibility(tab: Page, page: str) -> None:
    from axe_playwright_python.sync_playwright import Axe  # of the extra `site`; all tests are collected without it

    tab.goto((SITE / page).as_uri())
    found = [
        f"{violation['id']} in {len(violation['nodes'])} places, as {violation['nodes'][0]['html'][:300]}"
        for violation in Axe().run(tab).response["violations"]
        if violation["impact"] in GRAVE
    ]
    assert found == []


def test_the_cheat_sheet_prints_on_two_pages_with_all_methods(browser: Browser) -> None:
    page = browser.new_page()
    page.goto((SITE / "guides" / "cheat_sheet.html").as_uri())
    printed = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 2
    text = page.locator(".cheat").inner_text()
    assert all(f"\n{method}" in text for method in chts.METHODS)
    assert "CH2-L3n" in text
    page.close()

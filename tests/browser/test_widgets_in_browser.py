"""Every control of every explorer, moved by mouse and by keyboard in JupyterLab and in Voilà.

The pages have the ipywidgets of the interpreter that CHTS_BROWSER_PYTHON names: jQuery UI draws the sliders of
generation 7, noUiSlider those of 8.
"""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Error, Locator, Page, expect

from chts_core.lab.widgets import EXPLORERS, ReceptiveFieldExplorer, TopologyPlayer

pytestmark = pytest.mark.browser

LINE = "input[type=text]"
HANDLE, TRACK = ".noUi-handle, .ui-slider-handle", ".noUi-target, .ui-slider"
MILLISECONDS = 60_000  # until a redraw is on the page
WRONG = re.compile(
    "Error (displaying|creating) widget|There was an error|Traceback|No version of module|Could not create",
    re.IGNORECASE,
)

Snapshot = dict[str, str]


# --- what a reader sees and does ---


def control_of(page: Page, name: str, field: str) -> Locator:
    return page.locator(f".chts-{name}-{field}")


def expect_shown(page: Page, name: str, field: str) -> None:
    control, message = control_of(page, name, field), f"{name}: {field} is not shown"
    expect(control, message).to_be_visible(timeout=MILLISECONDS)
    expect(control.locator(".jupyter-widgets-error-widget"), message).to_have_count(0, timeout=MILLISECONDS)


def look(page: Page, name: str, field: str) -> Snapshot:
    """What the page shows of a control and of the picture it moves, at one moment."""
    # In Voilà a cell may have run before its widgets are there.
    control_of(page, name, field).locator(f".widget-readout, select, {LINE}").first.wait_for()
    page.locator(f".chts-{name}-picture img").wait_for()
    shown: Snapshot = page.evaluate(
        """([control, picture, text]) => {
            const [readout, menu, line] = ['.widget-readout', 'select', text]
                .map(part => document.querySelector(`${control} ${part}`));
            const [img, p] = ['img', 'p'].map(tag => document.querySelector(`${picture} ${tag}`));
            return {
                readout: readout ? readout.innerText : menu ? String(menu.selectedIndex) : line.value,
                picture: img.src,
                alternative: img.alt,
                sentence: p.innerText,
            };
        }""",
        [f".chts-{name}-{field}", f".chts-{name}-picture", LINE],
    )
    return shown


def expect_change(page: Page, name: str, field: str, before: Snapshot) -> Snapshot:
    """Waits until readout, picture and sentence are others than before, and the sentence is the text alternative."""
    with contextlib.suppress(Error):  # a timeout; what did not change is told below
        page.wait_for_function(
            """([selector, before]) => {
                const [img, p] = ['img', 'p'].map(tag => document.querySelector(`${selector} ${tag}`));
                return img && img.src !== before.picture && p.innerText !== before.sentence;
            }""",
            arg=[f".chts-{name}-picture", before],
            timeout=MILLISECONDS,
        )
    after = look(page, name, field)
    stays = [part for part, shown in before.items() if shown and after[part] == shown]
    assert not stays, f"{name}: {field} moves, but not: {', '.join(stays)} ({after['readout']}, {after['sentence']})"
    assert after["alternative"] == after["sentence"], f"{name}: text alternative and sentence differ"
    return after


def to_first_state(page: Page, name: str, first: Snapshot) -> None:
    page.locator(f".reset-{name}").click()
    page.wait_for_function(
        "([selector, picture]) => document.querySelector(selector)?.src === picture",
        arg=[f".chts-{name}-picture img", first["picture"]],
        timeout=MILLISECONDS,
    )


def place(control: Locator) -> float:
    """Where the handle of a slider is, from 0 at the left end to 1."""
    track, handle = control.locator(TRACK).first.bounding_box(), control.locator(HANDLE).first.bounding_box()
    assert track
    assert handle
    return (handle["x"] + handle["width"] / 2 - track["x"]) / track["width"]


def type_all_but_the_last_word(page: Page, control: Locator) -> None:
    shorter = control.locator(LINE).input_value().rpartition(" ")[0]
    page.keyboard.press("Control+a")
    page.keyboard.type(shorter)


def move_by_mouse(page: Page, control: Locator) -> None:
    """Moves a control by mouse; a text is typed, and taken when another place is clicked."""
    if control.locator(HANDLE).count():
        track = control.locator(TRACK).first.bounding_box()
        assert track
        share = 0.25 if place(control) > 0.5 else 0.75
        page.mouse.click(track["x"] + share * track["width"], track["y"] + track["height"] / 2)
    elif control.locator("select").count():
        menu = control.locator("select")
        menu.select_option(index=menu.evaluate("menu => menu.selectedIndex ? 0 : menu.options.length - 1"))
    elif control.locator(LINE).count():
        control.locator(LINE).click()
        type_all_but_the_last_word(page, control)
        control.locator("label").click()  # whatever is not the line
    else:
        raise AssertionError(f"the tests do not know how to move {control} by mouse; teach them")


def move_by_keyboard(page: Page, control: Locator) -> None:
    """Moves a control by a key: a slider by one step, a menu to its other end; a text is typed and entered."""
    if control.locator(HANDLE).count():
        control.locator(HANDLE).first.focus()
        page.keyboard.press("ArrowRight" if place(control) < 0.5 else "ArrowLeft")
    elif control.locator("select").count():
        menu = control.locator("select")
        menu.focus()
        # Not by ArrowUp and ArrowDown: JupyterLab 4 takes them, to go from cell to cell.
        page.keyboard.press("Home" if menu.evaluate("menu => menu.selectedIndex") else "End")
    elif control.locator(LINE).count():
        control.locator(LINE).focus()
        type_all_but_the_last_word(page, control)
        page.keyboard.press("Enter")
    else:
        raise AssertionError(f"the tests do not know how to move {control} by keyboard; teach them")


def complaints(page: Page) -> list[str]:
    """What the page and its console say of widgets and cells that failed."""
    said = [*page.complaints, page.locator("body").inner_text()]  # type: ignore[attr-defined]
    found = [match[0] for text in said if (match := WRONG.search(text))]
    return found + page.locator("[data-mime-type$=stderr]").all_inner_texts()


def move_each_control(page: Page, name: str, fields: list[str], move: Callable[[Page, Locator], None]) -> None:
    """Moves the controls one by one, each from the first state."""
    first = look(page, name, fields[0])
    for field in fields:
        before = look(page, name, field)
        move(page, control_of(page, name, field))
        expect_change(page, name, field, before)
        to_first_state(page, name, first)


@pytest.fixture(scope="session")
def controls() -> Callable[[str], dict[str, Any]]:
    """The controls of an explorer by field; made once for the whole run."""
    made: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        if name not in made:
            made[name] = EXPLORERS[name]().controls
        return made[name]

    return of


Controls = Callable[[str], dict[str, Any]]


# --- every explorer ---


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_control_is_shown_with_its_label(explorers: Page, front_end: Any, controls: Controls, name: str) -> None:
    for field, control in controls(name).items():
        expect_shown(explorers, name, field)
        label = control_of(explorers, name, field).get_by_text(control.description, exact=True)
        expect(label.first).to_be_visible()
    explorers.wait_for_function(
        "selector => { const picture = document.querySelector(selector); return picture.naturalWidth > 100; }",
        arg=f".chts-{name}-picture img",
    )
    # The whole of it, without what the page has above and below.
    boxes = [explorers.locator(f".chts-{name}-{part}").bounding_box() for part in (*controls(name), "picture")]
    left, top = (min(box[side] for box in boxes if box) for side in ("x", "y"))
    right, bottom = (
        max(box[side] + box[size] for box in boxes if box) for side, size in (("x", "width"), ("y", "height"))
    )
    explorers.screenshot(
        path=front_end.shots / f"{name}.png",
        clip={"x": left - 8, "y": top - 8, "width": right - left + 16, "height": bottom - top + 16},
    )


@pytest.mark.parametrize("name", EXPLORERS)
def test_moving_a_control_by_mouse_changes_picture_and_sentence(explorers: Page, controls: Controls, name: str) -> None:
    move_each_control(explorers, name, list(controls(name)), move_by_mouse)


@pytest.mark.parametrize("name", EXPLORERS)
def test_moving_a_control_by_keyboard_changes_picture_and_sentence(
    explorers: Page, controls: Controls, name: str
) -> None:
    move_each_control(explorers, name, list(controls(name)), move_by_keyboard)


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_control_can_be_reached_by_tab(explorers: Page, controls: Controls, name: str) -> None:
    explorers.locator(f".reset-{name}").focus()
    wanted = {f"chts-{name}-{field}" for field in controls(name)}
    reached: set[str] = set()
    for _ in range(2 * len(wanted) + 4):  # a slider has two places to stop at, and the Play of one widget four
        explorers.keyboard.press("Tab")
        classes = explorers.evaluate("() => document.activeElement.closest('[class*=chts-]')?.className ?? ''")
        reached |= wanted & set(classes.split())
    assert reached == wanted, f"not reached by Tab: {', '.join(sorted(wanted - reached))}"


def test_a_value_typed_into_the_readout_is_taken(explorers: Page) -> None:
    name = ReceptiveFieldExplorer.name
    before = look(explorers, name, "r")
    readout = control_of(explorers, name, "r").locator(".widget-readout")
    readout.click()
    explorers.keyboard.press("Control+a")
    explorers.keyboard.type("0.85")
    explorers.keyboard.press("Enter")
    assert "r = 0.85" in expect_change(explorers, name, "r", before)["sentence"]
    to_first_state(explorers, name, before)


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_play_moves_the_slider_and_the_picture(explorers: Page, how: str) -> None:
    name = TopologyPlayer.name
    first, play = look(explorers, name, "update"), explorers.locator(f".chts-{name}-play")
    button = play.locator("button:has(.fa-play)")
    if how == "mouse":
        button.click()
    else:
        button.focus()
        explorers.keyboard.press("Enter")
    expect_change(explorers, name, "update", first)
    play.locator("button:has(.fa-pause)").click()
    explorers.wait_for_function(  # until the last update that it asked for is drawn
        """([readout, sentence]) => document.querySelector(sentence).innerText
            .startsWith(`Update ${document.querySelector(readout).innerText} `)""",
        arg=[f".chts-{name}-update .widget-readout", f".chts-{name}-picture p"],
    )
    to_first_state(explorers, name, first)


def test_nothing_on_the_page_complains(explorers: Page) -> None:
    assert complaints(explorers) == []


# --- what must be found when it is wrong ---


@pytest.mark.parametrize("move", [move_by_mouse, pytest.param(move_by_keyboard, marks=pytest.mark.full)])
def test_a_picture_that_stays_is_found(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch, move: Callable[[Page, Locator], None]
) -> None:
    monkeypatch.setitem(globals(), "MILLISECONDS", 1000)
    page = open_page("inert")
    with pytest.raises(AssertionError, match="inert: r moves, but not: picture, alternative, sentence"):
        move_each_control(page, "inert", ["r"], move)


def test_a_widget_that_cannot_be_shown_is_found(
    open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "MILLISECONDS", 1000)
    page = open_page("unknown")
    with pytest.raises(AssertionError, match="unknown: view is not shown"):
        expect_shown(page, "unknown", "view")


def test_a_cell_that_raises_is_found(open_page: Callable[..., Page]) -> None:
    page = open_page("raising", wait=re.compile("RuntimeError: from a cell|There was an error"))
    assert complaints(page)

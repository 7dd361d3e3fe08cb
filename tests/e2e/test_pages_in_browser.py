"""The pages of ``avtool report`` in Chromium: they play, seek and switch, by mouse and by keyboard, and fit a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from avtool.pages import report
from tests.pages import CLASS, SECONDS, found_in
from tests.unit.test_pages import runs  # noqa: F401 - a fixture

pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser import Browser, needs_chromium

pytestmark = needs_chromium
COLOUR = """const [x, y] = arguments, canvas = document.getElementById('layers');
return [...canvas.getContext('2d').getImageData(x * canvas.width, y * canvas.height, 1, 1).data]"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def clip_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    return report(found_in(folder), out=folder / "page.html")


@pytest.fixture
def clip(browser: Browser, clip_page: Path) -> Iterator[Browser]:
    """The browser with a clip's page, its video loaded; at the end nothing was complained of or fetched."""
    browser.show(clip_page)
    browser.until(lambda: browser.of_video("readyState") >= 2 and browser.js(COLOUR, 0.1, 0.5)[3])
    yield browser
    assert browser.said() == []
    fetched = browser.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []


def test_it_plays_and_the_map_moves_with_it(clip: Browser) -> None:
    left, right = clip.js(COLOUR, 0.05, 0.5), clip.js(COLOUR, 0.95, 0.5)
    assert left[3] > right[3] > 0  # the map is hot on the left, and its colour stronger there
    play = clip.find("#play")
    assert play.text == "Play"
    play.click()
    clip.until(lambda: clip.of_video("currentTime") > 0.2)
    assert play.text == "Pause"
    clip.until(lambda: clip.of_video("ended"))
    assert play.text == "Play" and clip.of_video("currentTime") == pytest.approx(SECONDS, abs=0.2)
    assert clip.js(COLOUR, 0.05, 0.5) == right and clip.js(COLOUR, 0.95, 0.5) == left
    assert clip.find("#cursor").value_of_css_property("left") != "0px"


def test_a_class_name_that_is_markup_is_text(clip: Browser) -> None:
    assert clip.find("#label").text == "first 75 %"
    clip.js("document.getElementById('video').currentTime = 1.9")
    clip.until(lambda: clip.find("#label").text == f"{CLASS} 75 %")


def test_seeking_by_keyboard_and_by_mouse(clip: Browser) -> None:
    clip.js("document.getElementById('time').focus()")
    clip.press(Keys.END)
    clip.until(lambda: clip.of_video("currentTime") > SECONDS - 0.2)
    clip.press(Keys.HOME, Keys.ARROW_RIGHT)
    clip.until(lambda: clip.of_video("currentTime") == pytest.approx(0.05))
    clip.until(lambda: str(clip.find("#time").get_attribute("aria-valuetext")).startswith("0.1 of"))
    clip.find("#spectrogram").click()  # in its middle
    clip.until(lambda: clip.of_video("currentTime") == pytest.approx(SECONDS / 2, abs=0.15))


def test_layers_are_switched_on_and_off(clip: Browser) -> None:
    heat, masks = (clip.find(f"input[data-layer='{number}']") for number in (0, 3))
    heat.click()
    assert clip.js(COLOUR, 0.05, 0.2) == clip.js(COLOUR, 0.05, 0.8) == [0, 0, 0, 0]
    masks.click()
    assert clip.js(COLOUR, 0.05, 0.2)[3] == pytest.approx(127, abs=2) and clip.js(COLOUR, 0.05, 0.8)[3] == 0
    clip.find("input[data-labels]").click()
    assert clip.find("#label").text == ""
    clip.js("document.getElementById('strength').focus()")
    clip.press(Keys.HOME)
    assert clip.find("#layers").value_of_css_property("opacity") == "0.1"


def test_the_frames_with_other_sounds_are_in_step(clip: Browser) -> None:
    brightest = """return [...document.querySelectorAll('canvas[data-copy]')].map((canvas) => {
      const at = (x) => [...canvas.getContext('2d').getImageData(x * canvas.width, 40, 1, 1).data];
      return at(0.05)[0] - at(0.95)[0] })"""
    before = clip.js(brightest)
    assert len(before) == 3 and before[0] > before[1] and before[2] < before[1]
    clip.js("document.getElementById('video').currentTime = 1.9")
    clip.until(lambda: clip.js(brightest)[0] < clip.js(brightest)[2])


def test_a_source_is_heard_in_place_of_the_clip(clip: Browser) -> None:
    playing = "return [...document.querySelectorAll('audio')].map((sound) => !sound.paused)"
    clip.find("#play").click()
    clip.find("input[name=heard][value='heard-0-1']").click()
    clip.until(lambda: clip.js(playing) == [False, True])
    assert clip.of_video("muted")
    apart = "return Math.abs(document.getElementById('heard-0-1').currentTime - arguments[0])"
    assert clip.js(apart, clip.of_video("currentTime")) < 0.4
    clip.find("#play").click()
    clip.until(lambda: clip.js(playing) == [False, False])
    clip.find("input[name=heard][value='']").click()
    assert not clip.of_video("muted")


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(clip: Browser) -> None:
    reached = []
    clip.js("document.activeElement.blur()")
    for _ in range(40):
        clip.find("body").send_keys(Keys.TAB) if not reached else clip.press(Keys.TAB)
        element = clip.driver.switch_to.active_element
        if element.tag_name == "body" or element in reached:
            break
        assert element.value_of_css_property("outline-style") != "none"
        reached.append(element)
    radios = clip.driver.find_elements(By.CSS_SELECTOR, "input[type=radio]")
    controls = clip.driver.find_elements(By.CSS_SELECTOR, "button, input, [tabindex='0']")
    assert {*controls} - {*reached} <= {
        *radios[1:]
    }  # a group of these is one stop, and arrows go on from there
    clip.js("arguments[0].focus()", radios[0])
    clip.press(Keys.ARROW_DOWN)
    assert radios[1].is_selected()
    clip.js("document.getElementById('play').focus()")
    clip.press(Keys.SPACE)
    clip.until(lambda: not clip.of_video("paused"))


@pytest.mark.parametrize("name", ["clip", "pre", "loc", "data"])
def test_every_page_fits_a_phone_and_has_a_dark_side(
    name: str,
    browser: Browser,
    clip_page: Path,
    runs: Path,  # noqa: F811
    synth: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    folder = synth(20) if name == "data" else runs / name
    page = clip_page if name == "clip" else report(folder, out=tmp_path / "page.html")
    papers = set()
    for scheme in ("light", "dark"):
        browser.show(page, width=360, scheme=scheme)
        assert browser.js("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
        papers.add(browser.find("body").value_of_css_property("background-color"))
    assert len(papers) == 2 and browser.said() == []

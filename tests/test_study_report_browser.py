"""The report in a real browser: Chromium from the wheel PySide6-WebEngine, without a screen and without a network."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("pandas", reason="the extra `study` is not installed")
if importlib.util.find_spec("PySide6") is None or importlib.util.find_spec("PySide6.QtWebEngineCore") is None:
    pytest.skip("no browser: install it with pip install PySide6-WebEngine (extra `dev`)", allow_module_level=True)

import synthetic_study
from browser import Browser, BrowserError

from svdkit.study.report import write_report

FRAMES = synthetic_study.FRAMES
CANVASES = "[...document.querySelectorAll('#wall canvas')]"
GREYS = f"{CANVASES}.map(c => c.getContext('2d').getImageData(8, 8, 1, 1).data[0])"
READY = f"{CANVASES}.length > 1 && {CANVASES}.every(c => c.dataset.frame)"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(synthetic_study.write(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as running:
        yield running


def started(**options: bool) -> Browser:
    try:
        return Browser(**options)
    except BrowserError as error:  # a system library that Chromium needs, such as libnss3
        pytest.skip(f"no browser: {error}")


@pytest.fixture
def page(browser, report):
    browser.size(1280, 900)
    browser.open(report)
    until(browser, READY)
    return browser


def until(page: Browser, condition: str) -> None:
    end = time.monotonic() + 60
    while not page.js(condition):
        assert time.monotonic() < end, f"never true: {condition}"
        time.sleep(0.05)


def choose(page: Browser, selector: str, label: str) -> None:
    page.js(
        f"(s => {{ s.selectedIndex = [...s.options].findIndex(o => o.textContent === {label!r});"
        f" s.dispatchEvent(new Event('change')); return s.selectedIndex; }})(document.querySelector({selector!r}))"
    )


def frames_shown(page: Browser) -> list[int]:
    """The frame that each canvas really shows, told by its grey: the reference first, then the cells, 20 brighter."""
    reference, *cells = page.js(GREYS)
    return [round(reference / 30), *(round((grey - 20) / 30) for grey in cells)]


def test_it_loads_with_no_error_and_no_request(page, report):
    log = page.log()
    assert log["console"] == []
    assert {url.partition(":")[0] for url in log["requests"]} <= {"file", "data"}
    assert {url for url in log["requests"] if url.startswith("file")} == {report.as_uri()[:80]}


def test_a_name_from_outside_is_shown_and_not_run(page):
    assert page.js("[...document.querySelectorAll('.wall b')].map(b => b.textContent)")[-1] == synthetic_study.HOSTILE
    assert page.js("document.querySelectorAll('.wall script').length") == 0


def test_videos_play_in_step(page):
    page.click("#play")
    seen = set()
    end = time.monotonic() + 60
    while len(seen) < 4 and time.monotonic() < end:
        shown = frames_shown(page)
        assert len(shown) == 4
        assert len(set(shown)) == 1, shown
        seen.add(shown[0])
    assert len(seen) >= 4  # they moved
    page.click("#play")
    assert page.js("document.querySelector('#play').textContent") == "Play"
    still = frames_shown(page)
    time.sleep(0.5)
    assert frames_shown(page) == still


def test_the_keyboard_scrubs(page):
    page.js("document.querySelector('#scrub').focus()")
    for key, frame in (("Right", 1), ("Right", 2), ("Left", 1), ("End", FRAMES - 1), ("Right", 0), ("Home", 0)):
        page.key(key)
        assert frames_shown(page) == [frame] * 4, key
    page.key("Space")
    assert page.js("document.querySelector('#play').textContent") == "Pause"


def test_the_focus_is_visible(page):
    page.key("Tab")
    assert page.js("document.activeElement.className") == "skip"
    assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_difference_from_the_reference(page):
    choose(page, "#gain", "× 4")
    choose(page, "#view", "difference from the reference")
    _, *cells = page.js(GREYS)
    assert cells == pytest.approx([4 * 20] * 3, abs=12)


def test_filters_choose_videos(page):
    choose(page, "#wall-filters select[name=scheduler]", "heun")
    choose(page, "#wall-filters select[name=budget]", "all")
    assert page.js("[...document.querySelectorAll('.wall b')].map(b => b.textContent)") == ["reference", "heun", "heun"]
    choose(page, "#wall-filters select[name=image]", "all")
    assert page.js("document.querySelectorAll('.wall .reference').length") == 2


def test_the_table_filters_sorts_and_becomes_csv(page):
    choose(page, "#table-filters select[name=scheduler]", "heun")
    choose(page, "#table-filters select[name=budget]", "8")
    assert "1–20 of 20 cells (120 in all)" in page.js("document.querySelector('#count').textContent")
    heads = page.js("[...document.querySelectorAll('#cells th')].map(h => h.textContent)")
    column = heads.index("latent error") + 1
    page.js(f"document.querySelector('#cells th:nth-child({column}) button').click()")
    errors = [
        float(text)
        for text in page.js(f"[...document.querySelectorAll('#cells td:nth-child({column})')].map(d => d.textContent)")
    ]
    assert errors == sorted(errors)
    page.js(
        "(s => { s.value = 'owl karras'; s.dispatchEvent(new Event('input')); })(document.querySelector('#search'))"
    )
    lines = page.js("report.csv()").splitlines()
    assert len(lines) == 1 + 5
    assert lines[0].startswith("key,scheduler,schedule,budget,image,seed,guidance,evaluations")


def test_the_whole_csv_is_the_table(page, report):
    import io

    import pandas as pd

    read = pd.read_csv(io.StringIO(page.js("report.csv()")), keep_default_na=False, na_values=[""])
    expected = pd.read_csv(report.parent / "table.csv", keep_default_na=False, na_values=[""])
    pd.testing.assert_frame_equal(read, expected, check_dtype=False)


def test_the_parquet_is_the_table(page, report):
    import io

    import pandas as pd

    read = pd.read_parquet(io.BytesIO(bytes(page.js("Array.from(report.parquet())"))))
    pd.testing.assert_frame_equal(read, pd.read_parquet(report.parent / "table.parquet"))


def test_the_theme_follows_the_system_and_the_button(report, page):
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.js(background)
    with started(dark=True) as other:
        other.open(report)
        dark = other.js(background)
        assert dark != light
    colours = [light]
    for _ in range(3):
        page.click("#theme")
        colours.append(page.js(background))
    assert colours == [light, light, dark, light]  # automatic, light, dark, automatic again


def test_a_narrow_screen_has_no_sideways_scroll(page):
    page.size(380, 800)
    until(page, "innerWidth === 380")
    assert page.js("document.documentElement.scrollWidth") <= 380
    page.key("Tab")
    assert page.js("innerWidth") == 380


def test_curves_change_with_measure_and_legend(page):
    plots = "[...document.querySelectorAll('.plot:not([hidden])')]"
    shown = f"{plots}.map(p => p.dataset.measure + ' ' + p.dataset.cost)"
    assert page.js(shown) == ["latent_error evaluations"]
    choose(page, "#cost", "seconds of denoising")
    assert page.js(shown) == ["latent_error seconds"]
    lines = "[...document.querySelectorAll('.plot:not([hidden]) .series.line')]"
    visible = f"{lines}.filter(line => getComputedStyle(line).display !== 'none').length"
    before = page.js(visible)
    page.click(".legend button")
    assert page.js(visible) == before - len(synthetic_study.SCHEDULES)

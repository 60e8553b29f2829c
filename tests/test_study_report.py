"""The report of a study: what it says, what it embeds, and that nothing in it comes from or goes outside."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pandas", reason="the extra `study` is not installed")

import synthetic_study

from svdkit.errors import InputError
from svdkit.study import statistics
from svdkit.study.report import answer, plots, videos, write_report
from svdkit.study.report import page as page_of_report
from svdkit.study.store import Store
from svdkit.study.table import read_table


class Parsed(HTMLParser):
    """A page's elements and the text that a reader can see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return synthetic_study.write(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def page(study):
    path = write_report(study)
    assert path == study / "report.html"
    return Parsed(path.read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_outside(page):
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href")
    ]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    policy = next(attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_names_and_errors_from_outside_are_text(page):
    assert sum(tag == "script" for tag, _ in page.elements) == 2  # the data and the page's own
    assert not any(tag == "b" for tag, _ in page.elements)
    assert synthetic_study.HOSTILE in page.text
    assert "NumericalError: <b>NaN</b> at step 3." in page.text


def test_the_answer_comes_first_and_says_what_is_not_separated(page):
    four, eight = (page.text.index(f"{budget} evaluations") for budget in (4, 8))
    assert page.text.index("Which scheduler for which budget") < four < eight < page.text.index("Quality against cost")
    assert "No winner" in page.text[four:eight]
    assert "separated from all others" not in page.text[four:eight]
    assert "separated from all others" in page.text[eight:]
    assert "heun, karras" in page.text[eight : eight + 200]


def test_what_is_needed_to_run_it_again_is_told(page):
    again = page.text[page.text.index("Run it again\n") :]
    for told in ("svdkit study --scheduler euler -o 'a study'", "0, 1, 2, 3, 4", "Linux", np.__version__, "f" * 64):
        assert told in again


def test_what_the_reference_cannot_tell_is_said(study):
    table, metadata = read_table(study), Store(study).metadata
    assert [text for text in answer.cautions(table, metadata) if "half" in text] == [
        "The reference is heun with 200 evaluations. It differs from itself at half as many by up to 0.04% "
        "(relative RMS, in latents); smaller errors are not resolved."
    ]
    table.loc[table.index[:3], "latent_error"] = 3e-4
    assert any(text.startswith("3 cells are nearer to the reference") for text in answer.cautions(table, metadata))


def test_one_seed_has_no_winner(study):
    table = read_table(study)
    one = table[(table["seed"] == 0) & (table["image"] == "owl")]
    means = {("heun", "karras"): SimpleNamespace(mean=0.1, low=float("nan"), high=float("nan"))}
    found = answer.answer({("latent_error", 8): statistics.compare(one, 8)}, 8, means)
    assert (found.tag, found.name, found.separated) == ("not separated", "No winner", False)
    assert "mean latent error 0.100, mean rank 1.00 of 6 over 1 block." in found.sentences[1]
    assert "With 1 block no test can separate 6 methods; add images or seeds." in found.sentences


def test_tied_methods_are_counted_and_not_called_a_winner():
    methods = [("euler", "model"), ("heun", "model"), ("lms", "model")]
    ranks = dict(zip(methods, (1.5, 1.6, 2.9), strict=True))
    found_by_tests = {"friedman": 0.01, "best": methods[0], "tied": methods[1:2], "conclusion": "Said."}
    comparison = SimpleNamespace(measure="latent_error", blocks=12, methods=methods, ranks=ranks, **found_by_tests)
    compared = {("latent_error", 4): comparison, ("ssim", 4): SimpleNamespace(best=methods[2])}
    means = {methods[0]: SimpleNamespace(mean=0.123456, low=0.1, high=0.2)}
    found = answer.answer(compared, 4, means)
    assert (found.name, found.tag) == ("euler, model or heun, model", "not separated from 1 of 2")
    assert found.sentences[:2] == ["Said.", "Not separated from it: heun, model."]
    assert "mean latent error 0.123 [0.100, 0.200]" in found.sentences[2]
    assert "lms, model by SSIM" in found.sentences[-1]


def test_no_study_no_report(tmp_path):
    with pytest.raises(InputError, match=r"table\.parquet"):
        write_report(tmp_path)


def some_rows(seeds: int) -> list[dict[str, object]]:
    return [
        {
            "key": f"{name}{seed}",
            "scheduler": name,
            "schedule": "model",
            "budget": 4,
            "image": "owl",
            "seed": seed,
            "guidance": "1-3",
        }
        for name in ("euler", "heun")
        for seed in range(seeds)
    ]


def test_videos_are_bounded_in_whole_slices_and_the_rest_is_counted():
    wall = videos.wall(
        some_rows(5), lambda key: synthetic_study.video(9), lambda *block: synthetic_study.video(0), most_bytes=1
    )
    assert {(tile["scheduler"], tile["seed"]) for tile in wall.tiles} == {("euler", 0), ("heun", 0)}
    assert wall.left_out == 8
    assert "2 videos, of seed 0 and schedule model" in wall.note
    assert "8 other finished cells are left out" in wall.note
    assert len(wall.sheets) == 3  # the reference once


def test_a_sheet_holds_the_frames_in_order_and_its_loss_is_measured():
    wall = videos.wall(some_rows(1), lambda key: synthetic_study.video(9), lambda *block: synthetic_study.video(0))
    sheet = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(wall.sheets[wall.tiles[0]["sheet"]]))).convert("RGB"), float
    )
    frames = sheet.reshape(wall.height, wall.frames, wall.width, 3).mean((0, 2, 3))
    np.testing.assert_allclose(frames, 9 + 30 * np.arange(synthetic_study.FRAMES), atol=3)
    assert wall.scaled is None
    assert wall.loss < 3


def test_large_videos_are_reduced():
    large = np.zeros((25, 144, 256, 3), np.uint8)
    wall = videos.wall(some_rows(1), lambda key: large, lambda *block: large)
    assert (wall.frames, wall.height, wall.width) == (videos.MOST_FRAMES, 54, 96)
    assert wall.scaled == (25, 144, 256)


def test_plots_take_their_colours_from_the_page_and_share_no_ids():
    points = [plots.Point(4, 0.1, 0.05, 0.2), plots.Point(8, 0.01, 0.01, 0.02)]
    drawn = [
        plots.curves({0: points}, title=title, xlabel="x", ylabel="$y", xlimits=(3, 9), ylimits=(0.01, 1), log_y=True)
        for title in ("<a>$b$", "c")
    ]
    ids = [name for svg in drawn for name in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in drawn:
        assert not re.search(r"(?:fill|stroke): #", svg)
        assert "var(--s0)" in svg
        assert "currentColor" in svg
        assert "$y" in svg
    assert "&lt;a&gt;$b$" in drawn[0]


def test_the_wall_opens_with_a_video() -> None:
    """Though the first schedule, of numbers, has a budget of its own, below those of the others."""
    others = {"image": "a", "seed": 0, "guidance": "1-3"}
    tiles = [{"schedule": schedule, "budget": b, **others} for schedule, b in (("7,1", 3), ("ays", 5), ("ays", 10))]
    assert page_of_report._first(tiles) == tiles[0]
    assert page_of_report._first(tiles[1:]) == tiles[1]


def test_a_rank_diagram_names_every_method_best_first():
    means = [plots.Mean("b", 2.0, 1), plots.Mean("a", 1.0, 0)]
    svg = plots.ranks(means, 0.5, title="4 evaluations")
    assert "a 1.00; b 2.00" in svg

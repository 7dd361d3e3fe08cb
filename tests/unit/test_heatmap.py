"""The picture of a heat map: the frame at its own size, and everything else outside of it, whole."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from avtool.report.heatmap import MARGIN, overlay, render_heatmap, write_png
from avtool.report.paint import text_width, wrap

SIZES = [(64, 64), (48, 120), (240, 320), (720, 576), (720, 1280), (20, 30)]
CAPTION = [
    "a_long_name_of_a_clip-x_2rG8ydxM_30_40.mp4 at 5.04 s",
    "attention",
    "model runs/tiny-20260101-120000",
]
WARNING = (
    "Not above its controls: on 80 clips of synth (test) this kind of map points to what sounds in 30.0%."
)
FONT = 13


def frame_and_heat(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    frame = generator.integers(0, 256, (*size, 3), np.uint8)
    y, x = np.mgrid[: size[0], : size[1]]
    return frame, (0.01 + 0.02 * np.exp(-((y - size[0] / 3) ** 2 + (x - size[1] / 4) ** 2) / 200)).astype(
        np.float32
    )


@pytest.mark.parametrize("size", SIZES)
def test_the_frame_keeps_its_size_and_nothing_is_written_over_it(size: tuple[int, int]) -> None:
    frame, heat = frame_and_heat(size)
    picture = render_heatmap(frame, heat, caption=CAPTION, warning=WARNING)
    inside = (slice(MARGIN, MARGIN + size[0]), slice(MARGIN, MARGIN + size[1]))
    assert np.array_equal(picture[inside], overlay(frame, heat))
    outside = picture.copy()
    outside[inside] = 255
    assert (outside[:MARGIN] == 255).all() and (outside[:, :MARGIN] == 255).all()
    assert (outside != 255).any()


@pytest.mark.parametrize("size", SIZES)
def test_no_text_is_cut_off(size: tuple[int, int]) -> None:
    """Nothing comes near the picture's edge."""
    picture = render_heatmap(*frame_and_heat(size), caption=CAPTION * 3, warning=WARNING)
    for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
        assert (edge == 255).all()


def test_a_narrow_frame_has_a_readable_caption_all_the_same() -> None:
    frame, heat = frame_and_heat((64, 64))
    assert render_heatmap(frame, heat, caption=CAPTION).shape[1] >= 352
    rows = [render_heatmap(frame, heat, caption=["word " * count]).shape[0] for count in (1, 6, 40)]
    assert rows[0] == rows[1] < rows[2]


@pytest.mark.parametrize("width", [60, 200, 352])
@pytest.mark.parametrize("text", [*CAPTION, WARNING, "runs/a/" + "b" * 90, "ü" * 80, "one"])
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: int) -> None:
    lines = wrap(text, FONT, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(text_width(line, FONT) <= width for line in lines)
    assert all(line == line.strip() and line for line in lines)


def test_words_and_paths_are_broken_where_one_would() -> None:
    assert wrap("one two", FONT, 352) == ["one two"]
    assert wrap("one two", FONT, text_width("one two", FONT) - 1) == ["one", "two"]
    assert wrap("runs/tiny/step", FONT, text_width("runs/tiny/", FONT) + 3) == ["runs/tiny/", "step"]


def test_the_hotter_the_more_colour_and_the_picture_stays_visible() -> None:
    frame, heat = np.zeros((8, 8, 3), np.uint8), np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    dark, bright = overlay(frame, heat), overlay(np.full_like(frame, 255), heat)
    through = (bright.astype(int) - dark).mean(-1) / 255
    assert 0.2 < through[-1, -1] < 0.3 and 0.6 < through[0, 0] < 0.7
    assert (np.diff(through.ravel()) <= 0.01).all()
    assert np.array_equal(overlay(frame, heat), overlay(frame, 5 * heat - 3))


def test_a_constant_map_is_lowest_all_over() -> None:
    frame = np.full((8, 8, 3), 200, np.uint8)
    flat = overlay(frame, np.full((8, 8), 0.3, np.float32))
    assert (flat == flat[0, 0]).all()
    assert flat.mean() < 140
    render_heatmap(frame, np.zeros((8, 8), np.float32))


def test_the_warning_is_there_and_red() -> None:
    frame, heat = np.full((64, 64, 3), 128, np.uint8), np.zeros((64, 64), np.float32)

    def red(picture: np.ndarray) -> int:
        below = picture[MARGIN + 64 + 4 :].astype(int)
        return int(((below[..., 0] - below[..., 1]) > 80).sum())

    assert red(render_heatmap(frame, heat, caption=CAPTION)) == 0
    assert red(render_heatmap(frame, heat, caption=CAPTION, warning=WARNING)) > 200


def test_what_cannot_be_drawn_is_refused() -> None:
    frame = np.zeros((8, 10, 3), np.uint8)
    with pytest.raises(ValueError, match="does not lie over"):
        render_heatmap(frame, np.zeros((10, 8), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        render_heatmap(frame, np.full((8, 10), np.nan, np.float32))


def test_a_png_holds_the_colours_it_was_given(tmp_path: Path) -> None:
    picture, _ = frame_and_heat((12, 20))
    write_png(tmp_path / "new" / "x.png", picture)
    assert np.array_equal(cv2.imread(str(tmp_path / "new" / "x.png"))[..., ::-1], picture)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]

"""Checks on clips, what the report says of them, and the page a person reads."""

from __future__ import annotations

import json
import re
import signal
import weakref
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from avtool import media
from avtool.cli import app
from avtool.data import catalog, checks, page, workers
from avtool.data import convert as convert_module
from avtool.data.catalog import Row, Source
from avtool.data.convert import PreparedClip, Rejected, Settings, convert
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.data.report import Report
from avtool.html import CHARACTERS
from avtool.media import DecodedClip
from tests import clips, timed

SETTINGS = Settings()
RATE = clips.RATE


def video(path: Path, *, picture: float, sound: float, fps: float = 10) -> Path:
    """A clip whose streams end at different times."""
    frames = clips.moving_frames(round(fps * picture))
    media.write_clip(path, frames, fps=fps, waveform=clips.tone(sound), sample_rate=RATE)
    return path


def flags_of(**fields: object) -> list[str]:
    found = convert(Row(id="a", split="train", labels=("x",), **fields), SETTINGS)
    assert isinstance(found, PreparedClip), found
    return found.flags


def rejected(**fields: object) -> Rejected:
    found = convert(Row(id="a", split="train", labels=("x",), **fields), SETTINGS)
    assert isinstance(found, Rejected)
    return found


@pytest.mark.parametrize(
    ("picture", "sound", "flags"),
    [(4.0, 4.0, []), (4.0, 3.6, []), (4.0, 3.2, [checks.UNEVEN]), (3.2, 4.0, [checks.UNEVEN])],
)
def test_sound_and_picture_of_different_length(tmp_path, picture, sound, flags):
    assert flags_of(video=video(tmp_path / "a.mp4", picture=picture, sound=sound)) == flags


def test_a_part_of_a_clip_is_as_long_as_what_is_cut_from_it(tmp_path):
    path = video(tmp_path / "a.mp4", picture=8, sound=5)
    assert flags_of(video=path, start=1.0, end=4.5) == []
    assert flags_of(video=path, start=1.0, end=6.5) == [checks.UNEVEN]


def test_header_and_decoded_length_disagree(tmp_path):
    path = video(tmp_path / "a.mp4", picture=8, sound=8)
    whole = clips.remux(path, tmp_path / "whole.mkv")
    assert flags_of(video=whole) == []
    data = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    assert checks.HEADER in flags_of(video=tmp_path / "cut.mkv")


@pytest.mark.parametrize(("level", "flags"), [(0.99, []), (1.5, [checks.CLIPPED])])
def test_sound_that_was_clipped_is_flagged(tmp_path, level, flags):
    loud = np.clip(level * np.sin(np.arange(4 * RATE) * 0.123), -1, 1)
    soundfile.write(tmp_path / "a.wav", np.round(loud * 32767).astype(np.int16), RATE)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    assert flags_of(image=tmp_path / "a.png", audio=tmp_path / "a.wav") == flags


def test_a_picture_that_begins_late_is_flagged(tmp_path):
    for begins in (0.0, 0.52):
        path = timed.make(tmp_path / "a.mp4", picture_begins=begins)
        assert (checks.PICTURE_LATE in flags_of(video=path)) == (begins > 0)


def test_lengths_and_beginnings_are_flagged_beyond_a_limit():
    def flags(sound=10.0, picture=10.0, header=10.0, **begins):
        times = {"picture_seconds": picture, "sound_seconds": sound, "header_seconds": header, **begins}
        return checks.time_flags(DecodedClip([], [], np.zeros(0), 10, (1, 1), 0, 5, **times))

    assert flags(picture=9.5, header=10.5) == []
    assert flags(picture=9.4) == [checks.UNEVEN]
    assert flags(header=9.4) == [checks.HEADER]
    assert flags(sound=4, picture=2) == [checks.UNEVEN, checks.HEADER]
    assert flags(picture_begins=0.11) == [checks.PICTURE_LATE]
    assert flags(sound_begins=0.11) == [checks.SOUND_LATE]
    assert flags(picture_begins=0.09, sound_begins=0.09) == []
    assert flags(uncertain=True) == [checks.UNCERTAIN]


def test_duplicate_ids_and_labels_that_are_no_class_are_flagged(tmp_path, monkeypatch):
    path = clips.clip(tmp_path / "a.mp4", 4)
    rows = [Row(id=id, split="train", labels=labels, video=path) for id, labels in
            [("a", ("x",)), ("b", ("x", "zz")), ("a", ("y",)), ("a", ())]]  # fmt: skip
    monkeypatch.setattr(catalog, "read_source", lambda *given: Source(rows, ["x", "y"]))
    report = prepare("vggsound", tmp_path, out=tmp_path / "out")
    assert report.ids == {checks.DUPLICATE: ["a", "a"], checks.UNKNOWN_LABEL: ["b"]}
    assert (report.prepared, report.flagged) == (4, 3)
    dataset = PreparedDataset(tmp_path / "out")
    assert [dataset.record(i).label_ids for i in range(4)] == [(0,), (0,), (1,), ()]
    assert dataset.facts(1)["labels"] == ["x", "zz"] and dataset.facts(1)["flags"] == [checks.UNKNOWN_LABEL]


def test_details_say_which_path_was_looked_for(tmp_path):
    path = clips.clip(tmp_path / "a.mp4", 1)
    gone = rejected(video=path, stems={"x": tmp_path / "x.wav", "y": tmp_path / "y.wav"})
    assert gone.missing and gone.detail == f"looked for {tmp_path}/x.wav and 1 more"


def test_why_rows_gave_no_clip_is_said_with_the_first_few(tmp_path):
    rows = "".join(f"c{k},train,x,c{k}.mp4\n" for k in range(5)) + "t,train,x,t.tar\n"
    (tmp_path / "t.tar").write_bytes(b"\x1f\x8b\x08\0")
    (tmp_path / "mine.csv").write_text("id,split,label,video\n" + rows)
    said = CliRunner().invoke(
        app, ["prepare", "manifest", str(tmp_path / "mine.csv"), "--out", str(tmp_path / "out")]
    )
    looked = ", ".join(f"looked for {tmp_path}/c{k}.mp4" for k in range(3))
    assert f"no such file: {looked} and 2 more\n" in said.stdout
    archive = "t.tar is an archive, not a clip (unpack it; a table for avtool prepare may name a clip in it"
    assert f"undecodable: {tmp_path}/{archive}" in said.stdout


def test_a_row_that_ends_after_its_clip_is_flagged(tmp_path):
    path = clips.clip(tmp_path / "a.mp4", 4)
    assert flags_of(video=path, start=1.0, end=100.0) == flags_of(video=path, end=4.6) == [checks.CUT]
    assert flags_of(video=path, end=4.4) == flags_of(video=path, start=1.0, end=4.2) == []
    soundfile.write(tmp_path / "a.wav", clips.tone(4), RATE)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    assert flags_of(image=tmp_path / "a.png", audio=tmp_path / "a.wav", end=9.0) == [checks.CUT]


def test_a_video_is_no_picture(tmp_path):
    path = clips.clip(tmp_path / "a.mp4", 4)
    found = rejected(image=path, audio=path)
    assert (found.reason, found.detail) == (media.UNDECODABLE, f"{path} cannot be decoded as a picture")


def test_a_start_after_the_end_says_how_long_the_clip_is(tmp_path):
    path = clips.clip(tmp_path / "a.mp4", 4)
    found = rejected(video=path, start=30.0)
    assert (found.reason, found.detail) == (
        checks.BEYOND,
        f"{path} is 4.00 s long, the row starts at 30 s",
    )
    soundfile.write(tmp_path / "a.wav", clips.tone(2), RATE)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    found = rejected(image=tmp_path / "a.png", audio=tmp_path / "a.wav", start=2.5)
    assert found.reason == checks.BEYOND and "is 2.00 s long" in found.detail


def test_frames_are_encoded_as_they_come(tmp_path, monkeypatch):
    seen, alive, cells = [], [], checks.cells

    def spy(frame: np.ndarray) -> np.ndarray:
        seen.append(weakref.ref(frame))
        alive.append(sum(held() is not None for held in seen))
        return cells(frame)

    monkeypatch.setattr(checks, "cells", spy)
    found = convert(Row("a", "train", (), video=clips.clip(tmp_path / "a.mp4", 20.0)), SETTINGS)
    assert len(found.jpegs) == len(seen) == 40 and max(alive) <= 2


def test_whatever_goes_wrong_with_a_clip_is_its_own(tmp_path, monkeypatch):
    def failing(*given: object, **more: object) -> None:
        raise MemoryError("4 GB")

    monkeypatch.setattr(media, "decode_clip", failing)
    found = rejected(video=clips.clip(tmp_path / "a.mp4", 1))
    assert (found.reason, found.detail) == (checks.FAILED, "MemoryError: 4 GB")
    assert cv2.imdecode(np.frombuffer(found.thumbnail, np.uint8), 1).shape == (48, 64, 3)


# Pictures one a second --------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path) -> dict[str, object]:
    """Three pictures, the second of another size, with masks of the first two, and a sound of 3 s."""
    sizes = [(300, 400), (600, 800), (300, 400)]
    for k, size in enumerate(sizes):
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.full((*size, 3), 40 + 60 * k, np.uint8))
        mask = np.zeros(size, np.uint8)
        mask[: size[0] // 2] = k + 1
        cv2.imwrite(str(tmp_path / f"mask{k}.png"), mask)
    soundfile.write(tmp_path / "a.wav", clips.tone(3), RATE)
    frames = tuple(tmp_path / f"{k}.png" for k in range(3))
    return {"frames": frames, "masks": (tmp_path / "mask0.png", tmp_path / "mask1.png", None)} | {
        "audio": tmp_path / "a.wav"
    }


def stored(monkeypatch, out: Path, *rows: Row) -> PreparedDataset:
    monkeypatch.setattr(catalog, "read_source", lambda *given: Source(list(rows), catalog.classes_of(rows)))
    prepare("vggsound", out, out=out)
    return PreparedDataset(out)


def test_frames_and_a_mask_for_each(tmp_path, pictures, monkeypatch):
    row = Row(id="a", split="train", labels=("x",), partner="b", **pictures)
    dataset = stored(monkeypatch, tmp_path / "out", row)
    record = dataset.record(0)
    assert record.times.tolist() == [0.5, 1.5, 2.5] and (record.key, record.middle) == (1, 1.5)
    assert (record.width, record.height, record.masked) == (341, 256, (0, 1))
    assert [round(dataset.frame(0, k).mean() / 20) for k in range(3)] == [2, 5, 8]
    for k in range(2):
        mask = dataset.mask(0, k)
        assert mask.shape == (256, 341) and set(np.unique(mask)) == {0, k + 1} and mask[100, 0] == k + 1
    assert dataset.mask(0, 2) is None and dataset.mask(0).max() == 2
    assert dataset.facts(0)["partner"] == "b" and dataset.facts(0)["flags"] == []


def test_a_mask_of_another_size_than_its_own_frame_is_refused_by_name(tmp_path, pictures, monkeypatch):
    first, second, _ = pictures["masks"]
    found = rejected(**pictures | {"masks": (first, first, None)})
    assert (found.reason, found.detail) == (checks.MASK_SIZE, f"{first} is 400 x 300, its frame 800 x 600")
    assert isinstance(convert(Row("a", "s", (), **pictures | {"masks": (second,)}), SETTINGS), PreparedClip)
    assert rejected(**pictures | {"masks": (first, second)}).reason == checks.FAILED


def test_frames_that_do_not_last_as_long_as_the_sound_are_flagged(pictures):
    assert flags_of(**pictures | {"frames": pictures["frames"][:2], "masks": ()}) == [checks.UNEVEN]


# The page ---------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Checks that tags are closed in order; collects images and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert tag != "script"
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_counts_classes_durations_and_pictures(tmp_path):
    video(tmp_path / "<b>.mp4", picture=4, sound=4)
    video(tmp_path / "uneven.mp4", picture=4, sound=3)
    media.write_clip(tmp_path / "mute.mp4", clips.moving_frames(9), fps=5, waveform=None, sample_rate=RATE)
    names = ["<b>", "uneven", "mute", "gone"]
    lines = "".join(f"{name},train,dog & <cat>,{name}.mp4\n" for name in names)
    (tmp_path / "mine.csv").write_text(f"id,split,label,video\n{lines}")
    prepare("manifest", tmp_path / "mine.csv", out=tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    assert "://" not in text and "<script" not in text
    shown = _Page(text)
    assert len(shown.images) == 2
    for said in ("4 rows", "2prepared", "1refused", "1missing", "1flagged", "dog & <cat>", media.NO_SOUND,
                 f"looked for {tmp_path}/gone.mp4", checks.UNEVEN, "4 to 4.2", "train2"):  # fmt: skip
        assert said in shown.text.replace("\n", ""), said


def test_the_page_stays_small_for_a_large_data_set(tmp_path):
    ids = [f"clip {k}" for k in range(5000)]
    report = Report("large", tmp_path, refused=5000, ids={media.NO_SOUND: ids})
    report.details = dict.fromkeys(ids, "x" * 50)
    report.thumbnails = dict.fromkeys(ids, "A" * 4000)
    text = page.page(report, None)
    assert len(text) < 1_500_000 and len(_Page(text).images) == page.THUMBNAILS
    assert re.search("4,800 more pictures are not shown", text) and "4,900 more rows are not shown" in text


def test_long_ids_labels_and_sentences_are_cut_on_the_page(tmp_path):
    label, name = "long label " * 10_000, "b" * 100_000
    clips.clip(tmp_path / "a.mp4", 1)
    (tmp_path / "mine.csv").write_text(f"id,split,label,video\na,train,{label},a.mp4\n{name},train,x,b.mp4\n")
    prepare("manifest", tmp_path / "mine.csv", out=tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    assert len(text) < 12_000 and label[:CHARACTERS] + "…" in text and "…" in _Page(text).text
    assert PreparedDataset(tmp_path / "out").record(0).labels == (label.strip(),)


def test_a_clip_that_hangs_is_given_up_and_the_others_are_prepared(tmp_path):
    names = ["hangs", "0", "1", "2", "3"]
    rows = [Row(name, "train", (), video=clips.clip(tmp_path / f"{name}.mp4", 1)) for name in names]
    outcomes = {row.id: outcome for row, outcome in workers.run_all(impatient, rows, jobs=2)}
    assert outcomes.pop("hangs") == workers.Crash("stopped at its time limit", at_time_limit=True)
    assert len(outcomes) == 4 and all(isinstance(found, PreparedClip) for found in outcomes.values())


def impatient(row: Row) -> PreparedClip | Rejected:
    """What a worker does, with a decoder that does not come back from one clip."""
    convert_module.LIMIT_SECONDS = 1.0
    if row.id == "hangs":
        media.decode_clip = lambda *given, **more: signal.sigtimedwait([signal.SIGUSR1], 60)
    return convert(row, SETTINGS)


def test_a_report_survives_being_stored(tmp_path):
    first = Report("x", tmp_path)
    first.add_clip({"id": "a", "flags": [checks.SHORT], "duration": 2.5, "bytes": 1000})
    first.add_rejected({"id": "b", "reason": "r", "detail": "d", "missing": False, "thumbnail": "T"})
    second = Report("x", tmp_path)
    second.add_clip({"id": "c", "flags": [], "duration": 1.0, "bytes": 500})
    second.add_clip({"id": "d", "flags": [checks.SHORT, checks.QUIET], "duration": 0.5, "bytes": 500})
    total = Report("x", tmp_path)
    for part in (first, second):
        total.add(Report.from_record(json.loads(json.dumps(part.record()))))
    assert total.counts() == {"prepared": 3, "refused": 1, "missing": 0, "flagged": 2}
    assert total.stored() == {"seconds": 4.0, "bytes": 2000, "bytes_per_second": 500}
    again = Report.from_listing(json.loads(json.dumps(total.listing())), tmp_path)
    assert (again.stored(), again.counts()) == (total.stored(), total.counts())
    assert total.flags == {0: [checks.SHORT], 2: [checks.SHORT, checks.QUIET]}
    assert total.ids == {checks.SHORT: ["a", "d"], "r": ["b"], checks.QUIET: ["d"]}
    assert total.details == {"b": "d"} and total.thumbnails == {"b": "T"}

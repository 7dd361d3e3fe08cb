"""MUSIC (Zhao et al., 2018, 2019): solos of 11 instruments (solo) or 21 (solo21), and duets with boxes (duet).

``annotations/MUSIC_solo_videos.json`` and ``MUSIC21_solo_videos.json``: {"videos": {class: [ids]}}. Whole videos
lie anywhere under the folder, also in archives, as ID.mp4 (or .mkv, .webm). No split is published: a tenth of the
videos is split test, chosen by a checksum of the id, so that a video is on the same side in both lists.

``annotations/music_duet.json``: [{"file", "class_src1", "bbox_src1", "class_src2", "bbox_src2"}], boxes as x, y,
width, height, fractions of the frame; ``frames/FILE.jpg`` with ``audio/FILE.wav``, all of split test. Label k of
a duet belongs to box k.
"""

import zlib
from pathlib import Path
from typing import Any

from avtool.data import catalog
from avtool.data.catalog import Box, DataSet, Request, Row, Source, tables
from avtool.data.tree import PICTURE, SOUND, VIDEO, tree_of

PAGE = "https://github.com/roudimit/MUSIC_dataset"
DUET_PAGE = "https://github.com/stoneMo/AVGN"
FILES = {"solo": "MUSIC_solo_videos.json", "solo21": "MUSIC21_solo_videos.json", "duet": "music_duet.json"}
VIDEOS = (
    f"get {{table}} from {PAGE} into {{source}}/annotations/, and the videos ({{size}} at 360 to 720 lines) into"
    " {source}/videos/CLASS/ID.mp4"
)
FRAMES = (
    f"get {{table}} (1,020 frames of 6 videos) from the metadata of {DUET_PAGE} into {{source}}/annotations/, and of"
    " each entry the frame and the sound around it (under 1 GB) into {source}/frames/FILE.jpg and"
    " {source}/audio/FILE.wav"
)
SIZES = {"solo": "536 videos, some 50 GB", "solo21": "1,164 videos, some 100 GB"}
TERMS = "the videos belong to their makers, for the terms of the list see there"
TEST_SHARE = 10
ROUNDING = 1e-6


def read(source: Path, request: Request) -> Source:
    """The rows of the subset asked for, else of solo, under the folder ``source``."""
    subset = request.subset or "solo"
    table = source / "annotations" / FILES[subset]
    what = FRAMES if subset == "duet" else VIDEOS
    get = what.format(table=table.name, source=source, size=SIZES.get(subset))
    get += f"; {TERMS}; then: avtool prepare music {source} --subset {subset}"
    tables.check_there(source, table, title=f"MUSIC {subset}", get=get)
    return _duets(source, table) if subset == "duet" else _solos(source, table)


def split_of(video: str) -> str:
    """train, or test for about one video of ten."""
    return "test" if zlib.crc32(video.encode()) % TEST_SHARE == 0 else "train"


def _solos(source: Path, table: Path) -> Source:
    videos = tables.read_json(table, '{"videos": {class: [ids]}}', _ids)
    tree, home = tree_of(source), source / "videos"
    rows = [
        Row(video, split_of(video), (label,), video=tree.find(VIDEO, [video]) or home / f"{video}.mp4")
        for label, ids in videos.items()
        for video in ids
    ]
    return Source(rows, sorted(videos))


def _ids(whole: dict[str, Any]) -> dict[str, list[str]]:
    for label, ids in whole["videos"].items():
        if not isinstance(ids, list) or not all(isinstance(video, str) for video in ids):
            raise TypeError(f"{label} has no list of ids")
    return whole["videos"]


def _duets(source: Path, table: Path) -> Source:
    entries = tables.read_json(table, "a list of file, class_src1, bbox_src1, class_src2, bbox_src2", _pairs)
    rows, left_out, tree = [], list[str](), tree_of(source)
    for name, labels, boxes in entries:
        if None in boxes:  # both sources are asked for, one alone would be scored as the wrong one
            left_out.append(name)
            continue
        image = tree.find(PICTURE, [name]) or source / "frames" / f"{name}.jpg"
        audio = tree.find(SOUND, [name]) or source / "audio" / f"{name}.wav"
        known = {"boxes": boxes, "recording": catalog.video_of(name)}
        rows.append(Row(name, "test", labels, image=image, audio=audio, **known))
    notes = {catalog.BROKEN_BOX: left_out, catalog.NO_BOX: left_out} if left_out else {}
    return Source(rows, catalog.classes_of(rows), notes)


def _pairs(entries: list[dict[str, Any]]) -> list[tuple[str, tuple[str, ...], tuple[Box | None, ...]]]:
    return [
        (
            str(entry["file"]),
            tuple(str(entry[f"class_src{k}"]) for k in (1, 2)),
            tuple(corners(entry[f"bbox_src{k}"]) for k in (1, 2)),
        )
        for entry in entries
    ]


def corners(box: object) -> Box | None:
    """x, y, width, height as x1, y1, x2, y2; None where that is no box within the frame."""
    if (numbers := catalog.numbers_of(box)) is None:
        return None
    x, y, width, height = numbers
    ends = [1.0 if 1 < end < 1 + ROUNDING else end for end in (x + width, y + height)]
    return catalog.valid_box([x, y, *ends])


COPIES = "none was found, 2026-11; 43 of 685 videos were gone by 2020-03 (github.com/roudimit/MUSIC_dataset, issue 2)"
DATASET = DataSet(read, subsets=tuple(FILES), copies=COPIES)

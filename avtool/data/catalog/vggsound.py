"""VGGSound (Chen et al., 2020) in its published layout, with the boxes of VGG-SS (Chen et al., 2021).

``annotations/vggsound.csv`` has no header: id, start in seconds, label, split; ids may begin with - or _,
labels may hold commas. The clip of a row is ``clips/LABEL/ID_START_END.mp4``, LABEL with _ for every space,
comma and bracket. ``annotations/vggss.json``, where it is there: [{"file": "ID_START", "class": ..., "bbox":
[[x1, y1, x2, y2], ...]}], drawn on the frame at 5 s.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

from avtool.data.catalog import Box, Request, Row, Source, classes_of, valid_box
from avtool.errors import DataError, TableError

PAGE = "https://www.robots.ox.ac.uk/~vgg/data/vggsound/"
SECONDS = 10
BOXES_AT = 5.0
BROKEN_BOX = "broken box left out"


def read(source: Path, request: Request) -> Source:
    """The rows of ``annotations/vggsound.csv`` under the folder ``source``."""
    table = source / "annotations" / "vggsound.csv"
    if not table.is_file():
        raise DataError(_what_is_missing(source, table), hint=_how_to_get_it(source))
    notes: dict[str, list[str]] = {}
    boxes = _read_boxes(source / "annotations" / "vggss.json", notes)
    rows = []
    with table.open(newline="", encoding="utf-8-sig") as file:
        for fields in (lines := csv.reader(file)):
            if not fields:
                continue
            if len(fields) != 4 or not fields[1].strip().isdigit():
                raise TableError(
                    f"{table}, line {lines.line_num}: not id,start,label,split with a whole number as start",
                    hint="use the file of the VGGSound page as it is: it has no header",
                )
            rows.append(_row(source, *(value.strip() for value in fields), boxes=boxes))
    return Source(rows, classes_of(rows), notes)


def clip_folder(label: str) -> str:
    """The folder of a label's clips: _ for every space, comma and bracket."""
    return re.sub(r"[ ,()]", "_", label)


def _row(source: Path, id: str, start: str, label: str, split: str, *, boxes: dict[str, list[Box]]) -> Row:
    name = f"{id}_{int(start):06d}"
    drawn = tuple(boxes.get(name, ()))
    return Row(
        id=name,
        split=split,
        labels=(label,),
        video=source / "clips" / clip_folder(label) / f"{name}_{int(start) + SECONDS:06d}.mp4",
        key_time=BOXES_AT if drawn else None,
        boxes=drawn,
    )


def _read_boxes(path: Path, notes: dict[str, list[str]]) -> dict[str, list[Box]]:
    """{ID_START: boxes}; broken ones are left out and named in ``notes``."""
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        drawn = {entry["file"]: [valid_box(box) for box in entry["bbox"]] for entry in entries}
    except (ValueError, TypeError, KeyError) as error:
        raise TableError(f"{path} is not a list of file, class and bbox: {error!r}") from error
    if broken := sorted(name for name, boxes in drawn.items() if None in boxes):
        notes[BROKEN_BOX] = broken
    return {name: [box for box in boxes if box is not None] for name, boxes in drawn.items()}


def _what_is_missing(source: Path, table: Path) -> str:
    return f"no VGGSound at {source}: " + (
        "there is no such folder" if not source.is_dir() else f"no {table}"
    )


def _how_to_get_it(source: Path) -> str:
    return (
        f"get vggsound.csv from {PAGE} into {source}/annotations/ and the clips (about 200,000 of 10 s: 130"
        " GB at 360 lines, more at full size; the annotations are CC BY 4.0, the videos belong to their"
        f" makers) into {source}/clips/LABEL/ID_START_END.mp4, then: avtool prepare vggsound {source}"
    )

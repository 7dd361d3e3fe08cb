"""VGGSound (Chen et al., 2020) in its published layout, with the boxes of VGG-SS (Chen et al., 2021).

``annotations/vggsound.csv`` has no header: id, start in seconds, label, split; ids may begin with - or _,
labels may hold commas. The clip of a row lies anywhere under the folder, also in archives, named ID_START_END or
ID_START, in seconds with or without zeros in front or in milliseconds; usual is ``clips/LABEL/ID_START_END.mp4``, LABEL
with _ for every space, comma and bracket.

``annotations/vggss.json``, where it is there: [{"file": "ID_START", "class": ..., "bbox": [[x1, y1, x2, y2], ...]}],
drawn on the frame at 5 s.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from avtool.data import catalog
from avtool.data.catalog import Box, DataSet, Mirror, Request, Row, Source, tables
from avtool.data.tree import VIDEO, tree_of

PAGE = "https://www.robots.ox.ac.uk/~vgg/data/vggsound/"
GET = (
    f"get vggsound.csv from {PAGE} into {{source}}/annotations/ and the clips (about 200,000 of 10 s: 130 GB at 360"
    " lines, more at full size; the annotations are CC BY 4.0, the videos belong to their makers) into"
    " {source}/clips/LABEL/ID_START_END.mp4, then: avtool prepare vggsound {source}"
)
MIRROR = Mirror("Loie/VGGSound", {"vggsound.csv": "annotations", "vggsound_*.tar.gz": "clips"}, "vggsound")
COPIES = (
    "20 archives of 16 to 17 GB and the list of clips, last changed in 2023-03; somebody who unpacked them counted"
    " 197,957 clips and found part 08 corrupt (github.com/hche11/VGGSound, issue 21, 2026-02)"
)
SECONDS = 10
BOXES_AT = 5.0
COLUMNS = ("id", "start", "label", "split")


@dataclass(frozen=True)
class Drawn:
    """What VGG-SS says of a clip: its class, and its boxes (None: a broken one)."""

    label: str
    boxes: list[Box | None]

    @property
    def valid(self) -> tuple[Box, ...]:
        return tuple(box for box in self.boxes if box is not None)


def read(source: Path, request: Request) -> Source:
    """The rows of ``annotations/vggsound.csv`` under the folder ``source``."""
    table = source / "annotations" / "vggsound.csv"
    tables.check_there(source, table, title="VGGSound", get=GET.format(source=source))
    boxes = source / "annotations" / "vggss.json"
    drawn = read_boxes(boxes) if boxes.is_file() else {}
    rows = []
    for row in read_clips(source):
        known = drawn.get(row.id)
        rows.append(replace(row, key_time=BOXES_AT, boxes=known.valid) if known and known.valid else row)
    return Source(rows, catalog.classes_of(rows), notes_of(drawn))


def read_clips(source: Path) -> Iterator[Row]:
    """The rows of ``annotations/vggsound.csv``, without boxes."""
    table = source / "annotations" / "vggsound.csv"
    hint = "use the file of the VGGSound page as it is: it has no header"
    for line in tables.read_rows(table, COLUMNS, hint=hint):
        if not line["start"].isdecimal():
            raise line.error(f"not {','.join(COLUMNS)} with a whole number as start", hint=hint)
        yield clip_row(source, f"{line['id']}_{int(line['start']):06d}", line["label"], line["split"])


def clip_row(source: Path, name: str, label: str, split: str) -> Row:
    """The row of clip ``name``, ID_START with the start as six digits."""
    folder, end = re.sub(r"[ ,()]", "_", label), int(name[-6:]) + SECONDS
    found = tree_of(source).find(VIDEO, file_names(name))
    video = found or source / "clips" / folder / f"{name}_{end:06d}.mp4"
    return Row(name, split, (label,), video=video, recording=name[:-7])


def file_names(name: str) -> Iterator[str]:
    """The names, without suffix, that the files of clip ``name`` may have."""
    return tables.clip_names(name[:-7], int(name[-6:]), int(name[-6:]) + SECONDS)


def is_clip_name(name: object) -> bool:
    """Whether it is ID_START with the start as six digits."""
    return isinstance(name, str) and re.fullmatch(r".+_[0-9]{6}", name) is not None


def read_boxes(path: Path) -> dict[str, Drawn]:
    """{ID_START: what VGG-SS says of it}."""

    def read(entries: list[dict]) -> dict[str, Drawn]:
        if bad := [entry["file"] for entry in entries if not is_clip_name(entry["file"])]:
            raise ValueError(f"{bad[0]} is not ID_START")
        return {
            entry["file"]: Drawn(str(entry["class"]), [catalog.valid_box(box) for box in entry["bbox"]])
            for entry in entries
        }

    return tables.read_json(path, "a list of file, class and bbox", read)


def notes_of(drawn: dict[str, Drawn]) -> dict[str, list[str]]:
    """Which clips have a broken box."""
    broken = sorted(name for name, known in drawn.items() if None in known.boxes)
    return {catalog.BROKEN_BOX: broken} if broken else {}


DATASET = DataSet(read, copies=COPIES, mirror=MIRROR)

"""Your own clips, listed in a csv: paths in it are relative to the csv.

Columns: ``id``, ``split``, ``label`` (; between several), and either ``video`` or ``image`` and ``audio``.
Optional: ``start`` and ``end`` in seconds, ``boxes`` (JSON: a list of [x1, y1, x2, y2] as fractions of the
clip's middle frame), ``mask`` (a picture of the middle frame's size), ``stems`` (JSON: name of each source to
its own sound file), ``recording`` (clips that share one are not independent; else the sound's file is taken for it).
Other columns are kept with the clip as they are.
"""

import math
import os
from collections import defaultdict
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

from avtool import places
from avtool.data.catalog import Box, DataSet, Request, Row, Source, classes_of, numbers_of, tables, valid_box
from avtool.errors import DataError, TableError

NEEDED = ("id", "split", "label")
MEDIA = ("video", "image", "audio")
OPTIONAL = ("start", "end", "boxes", "mask", "stems", "view", "recording")
KNOWN = (*NEEDED, *MEDIA, *OPTIONAL)
EXAMPLE = "a header to start from: id,split,label,video"
PAIR = "an image goes with its sound, in a column of its own: id,split,label,image,audio"
BACKSLASHES = "backslashes in a path read as slashes"
TWICE = "label given twice, counted once"
UNLABELLED = "no label"
NOTHING = {"nan", "NaN", "<NA>", "NaT", "#N/A"}
"""What programs write for an empty cell."""
BOXES = "write [[x1, y1, x2, y2], ...] with x1 < x2 and y1 < y2, as fractions of the frame from 0 to 1"


def read(source: Path, request: Request) -> Source:
    """The rows of the csv ``source``. Raises TableError with the line, or the column, that is wrong."""
    if not source.is_file():
        what = "a folder, a csv file is needed" if source.is_dir() else "not there"
        raise DataError(f"{source} is {what}", hint="avtool prepare manifest FILE.csv --out DIR")
    rows: list[Row] = []
    lines_of: dict[str, int] = {}
    notes = defaultdict(list)
    for line in tables.read_headed(source, NEEDED, hint=EXAMPLE, check=partial(_check_header, source)):
        reader = _Reader(line)
        row = reader.row()
        for note in sorted(reader.mended):
            notes[note].append(row.id)
        if row.id in lines_of:
            hint = "give every row an id of its own"
            raise line.error(f"id {row.id} is on line {lines_of[row.id]} too", hint=hint)
        lines_of[row.id] = line.number
        rows.append(row)
    if not rows:
        raise TableError(f"{source} has a header but no rows", hint="add a line for each clip")
    return Source(rows, classes_of(rows), dict(notes))


def _check_header(source: Path, names: list[str]) -> None:
    with_video = "video" in names or not {"image", "audio"} & set(names)
    header = tables.Line(source, 1, {})
    tables.check_columns(header, names, (*NEEDED, "video") if with_video else NEEDED, EXAMPLE)
    tables.check_columns(header, names, () if with_video else ("image", "audio"), PAIR)
    for number, name in enumerate(names, 1):
        if not name:
            hint = "name it or take it out; pandas writes its index so: to_csv(FILE, index=False)"
            raise header.error(f"column {number} has no name", hint=hint)
        if name not in KNOWN and (near := get_close_matches(name.lower(), KNOWN, n=1, cutoff=0.8)):
            hint = f"did you mean {near[0]}? else give it a name that is less like it: columns are {', '.join(KNOWN)}"
            raise header.error(f"unknown column {name}", hint=hint)
        if names.count(name) > 1:
            raise header.error(f"column {name} is there twice", hint="leave one of them out")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


class _Reader:
    """One line of the csv and the checks on it."""

    def __init__(self, line: tables.Line) -> None:
        self.fields, self.error, self.folder = line.values, line.error, line.path.parent
        self.mended: set[str] = set()

    def row(self) -> Row:
        for name in KNOWN:
            if (value := self.fields.get(name)) in NOTHING:
                hint = "leave empty what is empty, as pandas' to_csv does before astype(str)"
                raise self.error(f"{name} is {value}", hint=hint)
        for name in ("id", "split"):
            if not self.fields[name]:
                raise self.error(f"{name} is empty", hint=f"fill in {name}")
        video, image, audio = (self._path(name) for name in MEDIA)
        if (video is None) == (image is None) or (image is None) != (audio is None):
            raise self.error(
                "names neither a video nor an image with its audio, or both",
                hint="fill in video, or image and audio, and leave the others empty",
            )
        start, end = self._seconds("start") or 0.0, self._seconds("end")
        if end is not None and end <= start:
            raise self.error(f"end {end:g} is not after start {start:g}", hint="both are seconds of the file")
        labels, boxes = self._labels(), self._json("boxes", self._boxes, ())
        # a mask holds k for the k-th label, and as many labels as boxes may be those of the boxes
        if len(set(labels)) < len(labels) != len(boxes) and not self.fields.get("mask"):
            self.mended.add(TWICE)
            labels = tuple(dict.fromkeys(labels))
        if not labels:
            self.mended.add(UNLABELLED)
        return Row(
            id=self.fields["id"],
            split=self.fields["split"],
            labels=labels,
            video=video,
            image=image,
            audio=audio,
            start=start,
            end=end,
            boxes=boxes,
            masks=(mask,) if (mask := self._path("mask")) else (),
            stems=self._json("stems", self._stems, {}),
            view=self._json("view", lambda value: value, None),
            extra={name: value for name, value in self.fields.items() if name not in KNOWN},
            recording=self.fields.get("recording") or os.path.relpath(audio or video or "", self.folder),
        )

    def _labels(self) -> tuple[str, ...]:
        return tuple(label for part in self.fields["label"].split(";") if (label := part.strip()))

    def _path(self, name: str) -> Path | None:
        value = self.fields.get(name)
        return self._file(value) if value else None

    def _file(self, value: str) -> Path:
        """File ``value``; where there is none, with \\ for /, as Windows writes it. TableError for a drive's."""
        path, of_drive = self.folder / places.from_home(Path(value)), PureWindowsPath(value).is_absolute()
        if "://" in value and not path.exists():
            raise self.error(
                f"{value} is an address, not a path", hint="download the file, and write its path"
            )
        if os.name == "nt" or not (of_drive or "\\" in value) or path.exists():
            return path
        if of_drive:
            raise self.error(
                f"{value} is a path of another computer",
                hint="write paths relative to the csv, as clips/a.mp4",
            )
        self.mended.add(BACKSLASHES)
        return self.folder / value.replace("\\", "/")

    def _seconds(self, name: str) -> float | None:
        value = self.fields.get(name)
        if not value:
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise self.error(f"{name} is {value}, seconds are needed", hint="write 1.5, or leave it empty")
        return seconds

    def _json(self, name: str, read: Callable[[Any], Any], default: Any) -> Any:
        value = self.fields.get(name)
        if not value:
            return default
        try:
            found = tables.parse_json(value)
        except ValueError as error:
            hint = "quote the field and double the quotes in it"
            raise self.error(f"{name} is not JSON: {error}", hint=hint) from error
        return read(found)

    def _boxes(self, value: Any) -> tuple[Box, ...]:
        if not isinstance(value, list):
            raise self.error(f"boxes {_short(value)} are not a list of boxes", hint=BOXES)
        if len(value) == 4 and not any(isinstance(part, list) for part in value):
            raise self.error(f"boxes {_short(value)} are one flat list", hint=f"{BOXES}: [{_short(value)}]")
        return tuple(self._box(box) for box in value)

    def _box(self, value: Any) -> Box:
        if (box := valid_box(value)) is not None:
            return box
        hint = BOXES
        if (numbers := numbers_of(value)) is not None:
            x1, y1, x2, y2 = numbers
            turned = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
            if max(numbers) > 1:
                hint = "divide pixels by the frame's width and height"
            elif valid_box(turned):
                hint = (
                    f"exchange them, {_short(turned)}, or where these are x, y, width and height add: [x, y, x + width,"
                    " y + height]"
                )
        what = f"boxes: {_short(value)} is not x1, y1, x2, y2 from 0 to 1 with x1 < x2 and y1 < y2"
        raise self.error(what, hint=hint)

    def _stems(self, value: Any) -> dict[str, Path]:
        if isinstance(value, list):
            labels = self._labels()
            named = len(labels) == len(set(labels)) == len(value)
            value = dict(zip(labels if named else map(str, range(len(value))), value, strict=True))
        if not isinstance(value, dict) or not all(isinstance(path, str) for path in value.values()):
            hint = 'write {"NAME": "FILE.wav", ...}'
            raise self.error("stems are neither a list nor a map of sound files", hint=hint)
        return {name: self._file(path) for name, path in value.items()}


DATASET = DataSet(read)

"""The data sets that ``avtool prepare`` knows: one small file each, and the table below that lists them.

To add one: write ``avtool/data/catalog/NAME.py`` with a function ``read(source, request) -> Source`` and add
its line to TABLE. ``read`` turns annotation files into rows; it opens no clip, and class ids come from the
annotations, never from folders on disk.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avtool.errors import UsageError

TABLE = {
    "vggsound": "VGGSound: 10 s clips of 309 kinds of sound, with the VGG-SS boxes where they are there",
    "manifest": "your own clips, listed in a csv",
    "synth": "sounding objects that avtool renders itself, with all truth known",
}

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 as fractions of the frame's width and height."""


@dataclass(frozen=True)
class Row:
    """One line of a data set: a ``video``, or an ``image`` with an ``audio`` file, and what is known of it.

    Times in seconds of the file. ``key_time`` is the time, from ``start``, of the frame that ``boxes`` and
    ``mask`` belong to (None: the middle). ``stems`` maps the name of each source to its own sound file.
    ``view`` is anything else known of the picture, kept as it is (JSON).
    """

    id: str
    split: str
    labels: tuple[str, ...]
    video: Path | None = None
    image: Path | None = None
    audio: Path | None = None
    start: float = 0.0
    end: float | None = None
    key_time: float | None = None
    boxes: tuple[Box, ...] = ()
    mask: Path | None = None
    stems: Mapping[str, Path] = field(default_factory=dict)
    view: Any = None

    def files(self) -> list[Path]:
        """Every file the row names."""
        named = (self.video, self.image, self.audio, self.mask)
        return [path for path in named if path is not None] + list(self.stems.values())


@dataclass(frozen=True)
class Source:
    """The rows of a data set in the order of its annotation file, its classes (sorted), and what was wrong in
    it.

    ``notes`` maps the name of a problem to the ids it was found in (a broken box that was left out, say).
    """

    rows: list[Row]
    classes: list[str]
    notes: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What the command asks for beside the source: how many clips to render, from which seed."""

    clips: int = 400
    seed: int = 0


def read_source(name: str, source: Path, request: Request) -> Source:
    """The rows of data set ``name`` from its raw files at ``source``."""
    check_name(name)
    return importlib.import_module(f"avtool.data.catalog.{name}").read(source, request)


def check_name(name: str) -> None:
    """Raise UsageError where ``name`` is not in the table."""
    if name not in TABLE:
        near = difflib.get_close_matches(name, TABLE, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown data set {name}", hint=f"{hint}there are: {', '.join(TABLE)}")


def classes_of(rows: Iterable[Row]) -> list[str]:
    """All labels of ``rows``, sorted: the class ids count through them."""
    return sorted({label for row in rows for label in row.labels})


def valid_box(box: object) -> Box | None:
    """``box`` as four fractions of the frame; None where it is no such thing, outside 0..1 or empty."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        return None
    x1, y1, x2, y2 = (float(value) for value in box)
    return (x1, y1, x2, y2) if 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 else None

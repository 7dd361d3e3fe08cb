"""The data sets that ``avtool prepare`` knows: one small file each, and a line in ``avtool.registry.DATASETS``.

A file has a function ``read(source, request) -> Source`` and says in ``DATASET`` what the data set is (in the module's
name _ stands for -). ``read`` turns annotation files into rows (``tables`` reads them); it opens no clip, and class ids
come from the annotations, never from folders on disk.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from avtool.data import archives, names
from avtool.data.tree import tree_of
from avtool.errors import TableError, UsageError
from avtool.registry import DATASETS

SHOWN = 5
"""So many pairs of names are shown in an error."""
DAMAGED_ARCHIVE = "damaged archive"
OTHER_SPELLING = "label spelled as the class list spells it"
ONE_ROLE = "splits whose names mean the same, kept apart"
BROKEN_BOX = "broken box left out"
NO_BOX = "no box left, clip left out"
NOTHING: Mapping[str, Any] = {}
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 as fractions of the frame's width and height."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a data set: a ``video``, or an ``image`` or ``frames`` with an ``audio`` file, or seed, number and
    version of a clip that is ``rendered``, and what is known of it.

    Paths may lead into archives, see ``archives``. ``frames`` are pictures one a second, the first at 0.5 s. Times in
    seconds of the file. ``key_time`` is the time, from ``start``, of the key frame, which ``boxes`` belong to (None:
    the middle). ``masks``: one for the key frame, or one for each of ``frames`` (None: it has none). ``stems`` maps the
    name of each source to its own sound file. ``partner``: the id of the clip to mix this one with. ``view`` is
    anything else known of the picture, kept as it is (JSON); ``extra`` is kept with the clip. ``recording`` names what
    the clip was recorded in, which others may share (None: its id). ``video`` may be text: of two million rows a Path
    each takes 700 MB.
    """

    id: str
    split: str
    labels: tuple[str, ...]
    video: Path | str | None = None
    image: Path | None = None
    audio: Path | None = None
    frames: tuple[Path, ...] = ()
    start: float = 0.0
    end: float | None = None
    key_time: float | None = None
    boxes: tuple[Box, ...] = ()
    masks: tuple[Path | None, ...] = ()
    stems: Mapping[str, Path] = field(default_factory=lambda: NOTHING)
    partner: str | None = None
    view: Any = None
    recording: str | None = None
    extra: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    rendered: tuple[int, int, int] | None = field(default=None, repr=False)

    def files(self) -> list[Path]:
        """Every file the row names."""
        named = (self.video, self.image, self.audio, *self.frames, *self.masks, *self.stems.values())
        return [Path(path) for path in named if path is not None]

    def with_files(self, files: Mapping[str, Path]) -> Self:
        """The same row, with the file that ``files`` has for a path in place of that path."""

        def moved(path: Any) -> Any:
            return path if path is None else files.get(str(path), path)

        return replace(
            self,
            video=moved(self.video),
            image=moved(self.image),
            audio=moved(self.audio),
            frames=tuple(map(moved, self.frames)),
            masks=tuple(map(moved, self.masks)),
            stems={name: moved(path) for name, path in self.stems.items()},
        )


@dataclass(frozen=True)
class Source:
    """The rows of a data set in the order of its annotation file, its classes in the order of their ids, and
    what was wrong in it.

    Classes are sorted, or in the order of the data set's own list where it has one. ``notes`` maps the name of a
    problem to the ids it was found in (a broken box that was left out, say).
    """

    rows: list[Row]
    classes: list[str]
    notes: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def splits(self) -> list[str]:
        """The names of the splits, sorted."""
        return sorted({row.split for row in self.rows})


@dataclass(frozen=True)
class Request:
    """What the command asks for beside the source: how many clips to render, from which seed; which part of a
    data set that has several (None: what the data set's file says); the licence that the card names (None: unknown)."""

    clips: int = 400
    seed: int = 0
    subset: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Mirror:
    """A copy of a data set on the Hugging Face hub, ``repo``, that ``avtool fetch`` brings.

    ``places`` says which of its files (patterns as in a shell) go into which folder of the source; the others are left
    there. ``folder`` is the source's name under $AVTOOL_DATA. ``official``: the authors of the data set put it there.
    """

    repo: str
    places: Mapping[str, str]
    folder: str
    official: bool = False


@dataclass(frozen=True)
class DataSet:
    """``read`` gives its rows from its raw files; ``subsets`` are its parts, where it has several. ``copies`` says what
    was found of it on the hub, and when; ``mirror`` is the copy to fetch, where there is a usable one."""

    read: Callable[[Path, Request], Source]
    subsets: tuple[str, ...] = ()
    copies: str = ""
    mirror: Mirror | None = None


def read_source(name: str, source: Path, request: Request) -> Source:
    """The rows of data set ``name`` from its raw files at ``source``. UsageError where there is no such data set, or
    it has no such part; TableError where two of its labels or splits are alike (``avtool.data.names``)."""
    dataset = DATASETS.find(name)
    if request.subset is not None and request.subset not in dataset.subsets:
        hint = f"there are: {', '.join(dataset.subsets)}" if dataset.subsets else "leave out --subset"
        raise UsageError(f"{name} has no subset {request.subset}", hint=hint)
    tree_of.cache_clear()
    found = _checked(dataset.read(source, request), source)
    if source.is_dir():
        problems = tree_of(source).problems
    else:
        named = {inside[0] for row in found.rows for path in row.files() if (inside := archives.inside(path))}
        listed = {str(archive): archives.listing(archive) for archive in sorted(named)}
        problems = {archive: one.problem for archive, one in listed.items() if one and one.problem}
    said = [f"{archive}: {problem}" for archive, problem in problems.items()]
    return replace(found, notes={**found.notes, DAMAGED_ARCHIVE: said}) if said else found


def video_of(name: str) -> str:
    """The YouTube video, whose ids have 11 characters, of a clip ``name``d ID_WHICH; else the name."""
    return name[:11] if name[11:12] == "_" else name


def _checked(found: Source, source: Path) -> Source:
    """``found`` with each label as the class list spells it; what was mended, or may be wrong, is in the notes."""
    _check_alike(found, source)
    spelled = names.matched({label for row in found.rows for label in row.labels}, found.classes)
    notes = defaultdict(list, found.notes)
    rows = list(found.rows)
    for number, row in enumerate(rows):
        labels = tuple(spelled.get(label, label) for label in row.labels)
        if labels != row.labels:
            notes[OTHER_SPELLING].append(row.id)
            rows[number] = replace(row, labels=labels)
    if same := [split for splits in names.alike(found.splits, by=names.role) for split in splits]:
        notes[ONE_ROLE] += same
    return replace(found, rows=rows, notes=dict(notes))


def _check_alike(found: Source, source: Path) -> None:
    """TableError where two splits or two classes are alike: rows of each would be told apart without a reason."""
    for what, there in (("splits", found.splits), ("labels", found.classes)):
        if not (twins := names.alike(there)):
            continue
        of = {value: row.id for row in reversed(found.rows) for value in (row.split, *row.labels)}
        pairs = [
            " and ".join(f"{name!a}" + (f" (clip {of[name]})" if name in of else "") for name in pair)
            for pair in twins[:SHOWN]
        ]
        more = f"; and {len(twins) - SHOWN} more" if len(twins) > SHOWN else ""
        raise TableError(
            f"{source}: {what} that look the same: {'; '.join(pairs)}{more}",
            hint="give all rows that mean the same one spelling: spaces, case and signs are compared",
        )


def classes_of(rows: Iterable[Row]) -> list[str]:
    """All labels of ``rows``, sorted: the class ids count through them."""
    return sorted({label for row in rows for label in row.labels})


def numbers_of(box: object) -> tuple[float, float, float, float] | None:
    """The numbers of a list of four; None where ``box`` is no such thing."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        return None
    a, b, c, d = box
    return a, b, c, d


def valid_box(box: object) -> Box | None:
    """``box`` as four fractions of the frame; None where it is no such thing, outside 0..1 or empty."""
    numbers = numbers_of(box)
    if numbers is None or not all(0 <= value <= 1 for value in numbers):
        return None
    x1, y1, x2, y2 = map(float, numbers)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None

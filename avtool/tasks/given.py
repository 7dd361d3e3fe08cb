"""Predictions that any program made: maps, masks, class scores and sounds in files, by the clips that they are of.

A file is named by its clip's id, or ID_K where a clip has several (its masks in order, its sounds). ``.npz``: arrays by
such names, or ``ids`` beside one array with an entry for each; ``.npy`` of all clips: in the order of the split. Trees
of other people's code that are read as they are:

- AVSBench's ``pred_masks/[CATEGORY/]VIDEO/VIDEO_K.png``, masks of 0 and 255, K from 0 for the frame that the data
  number 1; of its AVSS, pictures in the colours of PASCAL VOC's palette.
- EZ-VSL's ``viz/NAME_pred_av.jpg``, heat maps drawn over ``NAME_image.jpg``, from which the maps are read back. It
  writes no others; and SSLalignment's pictures hold a frame that is not beside them.
- Sound of Pixels' ``A+B/pred1.wav``.
"""

import csv
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soundfile
from PIL import Image

from avtool.data.names import listed
from avtool.data.views import FixedViews
from avtool.errors import DataError, UsageError

Load = Callable[[], np.ndarray]
SUFFIXES = (".npz", ".npy", ".csv", ".png", ".jpg", ".wav")
OVERLAY, ITS_FRAME, SHARE = "_pred_av", "_image.jpg", 0.8
"""How EZ-VSL names a heat map over a frame, and the frame; the share of the colours that is the map's."""
ITS_OTHERS = ("_image", "_gt_boxes", "_pred_obj", "_pred_av_obj")


@dataclass
class Predictions:
    """What ``name`` predicts of clips: by clip and number what reads it and where it lies; ``classes`` by name, of
    scores that name them; names ``unknown`` to the data; ``notes`` that belong under a table. With ``some``, clips
    without a prediction are left out."""

    name: str = ""
    found: dict[str, dict[int, tuple[Load, str]]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    some: bool = False

    def there(self, clips: Sequence[str]) -> np.ndarray:
        """Which of ``clips`` (N,) have a prediction, bool (N,). DataError where one has none, if not ``some`` do."""
        has = np.array([clip in self.found for clip in clips], bool)
        if not has.all() and (not self.some or not has.any()):
            missing = [clip for clip, found in zip(clips, has, strict=True) if not found]
            others = f"; there are predictions for others: {listed(self.unknown, 3)}" if self.unknown else ""
            raise DataError(
                f"{self.name} has nothing for {len(missing)} of {len(clips)} clips: {listed(missing, 3)}{others}",
                hint="name each file by its clip's id"
                + (", or score the others alone with --some" * bool(has.any())),
            )
        return has

    def of(self, clip: str) -> tuple[list[np.ndarray], str]:
        """The arrays of ``clip`` in the order of their numbers, and where the first lies. DataError for NaN."""
        parts = [self.found[clip][number] for number in sorted(self.found[clip])]
        arrays = []
        for load, where in parts:
            with _reading(where):
                array = load()
            arrays.append(array)
            if array.dtype.kind not in "buif":
                raise DataError(f"{where} holds no numbers but {array.dtype}", hint="save an array of floats")
            if not np.isfinite(array).all():
                raise DataError(
                    f"{where} holds values that are not finite",
                    hint="predict that clip again, or leave it out",
                )
        return arrays, parts[0][1]

    @cached_property
    def binary(self) -> bool:
        """Whether all whole numbers in it are 0 and 1, so that they are no bytes of 0 to 255."""
        arrays = (array for clip in self.found for array in self.of(clip)[0])
        return all(array.dtype.kind not in "ui" or array.max(initial=0) <= 1 for array in arrays)

    def one(self, clip: str, what: str, ndim: int, like: np.ndarray | None = None) -> np.ndarray:
        """The only array of ``clip``, of ``ndim`` axes and the shape of ``like``. DataError where it is another."""
        arrays, where = self.of(clip)
        array = as_grey(arrays[0], where) if ndim == 2 else arrays[0]
        if len(arrays) > 1 or array.ndim != ndim or (like is not None and array.shape != like.shape):
            shapes = " and ".join(map(str, [array.shape, *(other.shape for other in arrays[1:])]))
            wanted = f"{ndim} axes" if like is None else f"{like.shape}, as the first"
            raise DataError(f"{where}: {what} of clip {clip} is of shape {shapes}, not {wanted}", hint=SAME)
        return array


SAME = "give one array a clip, all of one shape: maps (rows, columns), scores (classes,)"


def as_grey(array: np.ndarray, where: str) -> np.ndarray:
    """A picture (H, W) or (H, W, 3) of equal colours as (H, W). DataError for other colours."""
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        return array
    if (array != array[..., :1]).any():
        raise DataError(
            f"{where} is a coloured picture, from which no values can be read",
            hint="save the values themselves: np.save, or a grey png",
        )
    return array[..., 0]


def read_predictions(
    paths: Sequence[Path],
    clips: Sequence[str],
    *,
    arrays: Iterable[str] = (),
    rate: int = 0,
    beside: bool = False,
) -> Predictions:
    """The predictions in ``paths``, files and folders, for ``clips`` of these ids in the order of the split.
    ``arrays``: what an .npz with ``ids`` calls them, ``beside`` others: nothing else is read; ``rate``: what sounds
    need. UsageError for files of no use, DataError for broken ones."""
    return _Reader(clips, tuple(arrays), rate, beside).read(paths)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """What is wrong with a file becomes a DataError that says ``where``."""
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{where} cannot be read: {error}", hint="write it again") from error


class _Reader:
    def __init__(self, clips: Sequence[str], arrays: Sequence[str], rate: int, beside: bool) -> None:
        self.beside = beside
        self.clips, self.known, self.arrays, self.rate = clips, set(clips), arrays, rate
        self.found: dict[str, dict[int, tuple[Load, str]]] = defaultdict(dict)
        self.classes: tuple[str, ...] = ()
        self.unknown, self.notes = list[str](), list[str]()

    def read(self, paths: Sequence[Path]) -> Predictions:
        count = 0
        for path, names in _files(paths):
            count += 1
            if self.beside and path.suffix.lower() != ".npz":
                continue
            with _reading(str(path)):
                getattr(self, f"_{path.suffix.lower()[1:]}")(path, names)
        if not count:
            raise UsageError(
                f"{listed([str(path) for path in paths])}: no predictions are there",
                hint=f"files that end in {', '.join(SUFFIXES)}, or folders of them",
            )
        name = paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"
        return Predictions(name, dict(self.found), self.classes, self.unknown, self.notes)

    def _put(self, names: Sequence[str], load: Load, where: str, number: int | None = None) -> None:
        """What ``load`` reads is of the clip that the first of ``names`` which means one names."""
        for name in names:
            numbered = re.fullmatch(r"(.+)_(\d+)", name)
            if name in self.known:
                clip, number = name, number or 0
            elif numbered and numbered[1] in self.known:
                clip, number = numbered[1], int(numbered[2])
            else:
                continue
            if number in self.found[clip]:
                raise UsageError(
                    f"{where} and {self.found[clip][number][1]} are of the same clip", hint="name one of them"
                )
            self.found[clip][number] = load, where
            return
        self.unknown.append(names[-1])

    def _npz(self, path: Path, names: list[str]) -> None:
        with np.load(path) as content:
            if self.beside and not {"ids", *self.arrays} & {*content.files} > {"ids"}:
                return
            if "ids" not in content.files:
                for name in content.files:
                    self._put([name], partial(_member, path, name), f"{name} in {path}")
                return
            fits = [
                name for name in content.files if any(re.fullmatch(wanted, name) for wanted in self.arrays)
            ]
            if not fits or len(content[fits[0]]) != len(content["ids"]):
                raise UsageError(
                    f"{path} has ids, but no array of as many predictions",
                    hint=f"name the array {self.arrays[0]}, one entry an id",
                )
            values, ids = content[fits[0]], content["ids"].tolist()
            self.classes = tuple(content["classes"].tolist()) if "classes" in content.files else ()
        seen = defaultdict[str, int](int)
        for place, clip in enumerate(map(str, ids)):
            self._put([clip], partial(values.__getitem__, place), f"{clip} in {path}", seen[clip])
            seen[clip] += 1

    def _npy(self, path: Path, names: list[str]) -> None:
        if not any(name in self.known or re.sub(r"_\d+$", "", name) in self.known for name in names):
            every = np.load(path)
            if every.ndim > 1 and len(every) == len(self.clips):
                for place, clip in enumerate(self.clips):
                    self._put([clip], partial(every.__getitem__, place), f"{clip} in {path}")
                return
        self._put(names, partial(np.load, path), str(path))

    def _csv(self, path: Path, names: list[str]) -> None:
        with path.open(newline="", encoding="utf-8-sig") as file:
            (_, *classes), *lines = filter(None, csv.reader(file))
        self.classes = tuple(classes)
        for line in lines:
            if len(line) != len(classes) + 1:
                raise ValueError(
                    f"the line of {line[0]} has {len(line) - 1} scores, there are {len(classes)} classes"
                )
            self._put(
                [line[0]], partial(np.array, [float(value) for value in line[1:]]), f"{line[0]} in {path}"
            )

    def _png(self, path: Path, names: list[str]) -> None:
        self._put(names, partial(_picture, path), str(path))

    def _jpg(self, path: Path, names: list[str]) -> None:
        stem = names[-1]
        if stem.endswith(ITS_OTHERS):
            return
        frame = path.with_name(stem.removesuffix(OVERLAY) + ITS_FRAME)
        if not stem.endswith(OVERLAY) or not frame.is_file():
            raise UsageError(
                f"{path} is a map drawn over a frame that is not beside it: the map cannot be read back",
                hint="save the map itself where it is drawn: np.save('CLIP.npy', pred)",
            )
        note = "Maps were read back from EZ-VSL's pictures, which hold 256 levels and JPEG's noise."
        self.notes = [note]
        self._put([stem.removesuffix(OVERLAY)], partial(_from_overlay, path, frame), str(path))

    def _wav(self, path: Path, names: list[str]) -> None:
        if re.fullmatch(r"(gt|mix|pred).*", names[-1]):
            if not names[-1].startswith("pred"):
                return
            names = [f"{path.parent.name}_{names[-1].removeprefix('pred')}"]
        self._put(names, partial(_sound, path, self.rate), str(path))


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, list[str]]]:
    """Files with predictions, and the names that each may have: where it lies in its folder, and its own."""
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.suffix.lower() in SUFFIXES and file.is_file():
                    yield file, [file.relative_to(path).with_suffix("").as_posix(), file.stem]
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            yield path, [path.stem]
        else:
            raise UsageError(
                f"{path} is no file of predictions",
                hint=f"give files that end in {', '.join(SUFFIXES)}, or folders",
            )


def _member(path: Path, name: str) -> np.ndarray:
    with np.load(path) as content:
        return content[name]


def _picture(path: Path) -> np.ndarray:
    """(H, W), of a palette its numbers, or (H, W, 3)."""
    with Image.open(path) as picture:
        opaque = {"LA": "L", "RGBA": "RGB"}.get(picture.mode, picture.mode)
        return np.asarray(picture.convert(opaque))


def _from_overlay(path: Path, frame: Path) -> np.ndarray:
    """The map (H, W) in 256 levels whose JET colours were laid over a frame: of every pixel the nearest colour."""
    pictures = [cv2.imread(str(file)) for file in (path, frame)]
    over, under = (picture.astype(np.float32) for picture in pictures if picture is not None)
    colours = (over - (1 - SHARE) * under).reshape(-1, 3) / SHARE
    jet = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_JET)[:, 0].astype(
        np.float32
    )
    far = (jet**2).sum(axis=1) - 2 * colours @ jet.T
    return far.argmin(axis=1).reshape(over.shape[:2]).astype(np.uint8)


def _sound(path: Path, rate: int) -> np.ndarray:
    """Float32 (N,) at ``rate``."""
    samples, found = soundfile.read(path, dtype="float32")
    if found != rate or samples.ndim != 1:
        raise DataError(
            f"{path} has {found} samples a second in {samples.ndim} channels, the data have {rate} in one",
            hint="write mono at the data's rate",
        )
    return samples


@dataclass(frozen=True)
class GivenViews:
    """``views``, each with what ``given`` returns of its number beside it."""

    views: FixedViews
    given: Callable[[int], np.ndarray]

    def sample(self, index: int) -> dict[str, Any]:
        return self.views.sample(index) | {"given": self.given(index)}
